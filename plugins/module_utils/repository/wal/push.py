# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One WAL file into a repository, or into every one. It returns only when all of them keep it durably."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, OperationFailed, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.repository import compression, layout
from ansible_collections.dbops.fleet.plugins.module_utils.repository.cluster import Cluster
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import (
    ContentConflict,
    ObjectExists,
    together,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import Repository
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal import header
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import Kind, Segment, kind_of


@dataclass(frozen=True)
class Pushed:
    """What pushing did.

    Attributes:
        sent: bytes stored, over all repositories.
        already: names of the repositories that had the same content before.
    """

    sent: int
    already: tuple[str, ...]


@dataclass(frozen=True)
class Prepared:
    """A file as repositories take it.

    Attributes:
        name: as PostgreSQL calls it.
        sha256: of the raw content.
        compressed: the content.
    """

    name: str
    sha256: str
    compressed: bytes


def push(repositories: Sequence[Repository], cluster: Cluster, path: Path, *, level: int) -> Pushed:
    """Archive a file of `pg_wal`.

    Args:
        repositories: every one must take it; one that does not keeps it from no other.
        cluster: the file must belong to it.
        path: of the file; its name says what it is.
        level: of zstd.

    Raises:
        Refused: the file is not what its name says, or another content of that name is archived (ContentConflict); then
            no further repository gets it.
        StoreUnavailable: a repository did not take it; the others have, and will say so at the next try.
    """
    if not repositories:
        raise OperationFailed("No repository is open, so nothing can be archived")
    prepared = prepare(cluster, path, level=level)
    sent, already = 0, []
    errors: list[FleetError] = []
    for repository in repositories:
        try:
            stored = put(repository, cluster.system, prepared)
        except ContentConflict:
            raise
        except FleetError as error:
            errors.append(error)
            continue
        sent += stored
        if not stored:
            already.append(repository.name)
    if errors:
        raise together(errors)
    return Pushed(sent, tuple(already))


def prepare(cluster: Cluster, path: Path, *, level: int) -> Prepared:
    """Check and compress a file of `pg_wal`.

    Raises:
        Refused: it is not what its name says.
        OperationFailed: it cannot be read.
    """
    name = path.name
    try:
        kind = kind_of(name)
    except ValueError as error:
        raise Refused(f"{path}: {error}") from None
    try:
        if kind is Kind.SEGMENT or kind is Kind.PARTIAL:
            _check(path, Segment.parse(name, cluster.segment_size), cluster)
        compressed, sha256 = compression.compress(_pieces(path), level)
    except OSError as error:
        raise OperationFailed(f"Cannot read {path}: {error.strerror}") from None
    return Prepared(name, sha256, compressed)


def put(repository: Repository, system: int, prepared: Prepared) -> int:
    """Store a prepared file.

    Returns:
        Bytes that were stored; 0 when the repository had the same content.

    Raises:
        ContentConflict: it has another content of that name.
        StoreUnavailable: it did not take it.
    """
    stored = repository.wrap(prepared.compressed)
    return len(stored) if _store(repository, system, prepared.name, prepared.sha256, stored) else 0


def _store(repository: Repository, system: int, name: str, sha256: str, stored: bytes) -> bool:
    """Whether it had to be written.

    Two layers keep one name from getting two contents; see docs/repository-format.md.
    """
    store = repository.store
    fresh = False
    if store.refuses_overwriting:
        fresh = _claim(repository, system, name, sha256)
    if not fresh:
        found = hashes(repository, system, name)
        _refuse_other(repository, name, sha256, found)
        if sha256 in found:
            return False
    try:
        store.create(layout.wal_object(system, name, sha256, sealed=repository.sealed), stored)
    except ObjectExists:
        return False
    if not store.refuses_overwriting:
        # Without a claim, a second writer shows only now.
        _refuse_other(repository, name, sha256, hashes(repository, system, name))
    return True


def hashes(repository: Repository, system: int, name: str) -> dict[str, str]:
    """Hash of the content -> key, for every content that is archived under this name. More than one is a conflict."""
    prefix = f"{layout.wal_directory(system, name)}{name}-"
    found = {}
    for item in repository.store.list(prefix):
        parsed = layout.parse_wal_object(item.key)
        if parsed is not None and parsed[0] == name:
            found[parsed[1]] = item.key
    return found


def _claim(repository: Repository, system: int, name: str, sha256: str) -> bool:
    """Whether the claim is new. Raises ContentConflict when another content holds it."""
    key = layout.wal_claim(system, name)
    try:
        repository.store.create(key, f"{sha256}\n".encode("ascii"))
    except ObjectExists:
        owner = repository.store.read(key).decode("ascii", "replace").strip()
        if owner != sha256:
            raise _conflict(repository, name, sha256, owner) from None
        return False
    return True


def _refuse_other(repository: Repository, name: str, sha256: str, found: dict[str, str]) -> None:
    others = sorted(set(found) - {sha256})
    if others:
        raise _conflict(repository, name, sha256, others[0])


def _conflict(repository: Repository, name: str, sha256: str, other: str) -> ContentConflict:
    return ContentConflict(
        f"{name} is in repository {repository.name} with other content (SHA-256 {other}, this file has {sha256})",
        remedy="Two servers write the same timeline: find the one that must not, fence it, and promote or "
        "rebuild it so that "
        "it gets a timeline of its own. Nothing was overwritten.",
        archived_sha256=other,
        sha256=sha256,
    )


def _check(path: Path, segment: Segment, cluster: Cluster) -> None:
    with path.open("rb") as file:
        beginning = file.read(header.LONG_HEADER_BYTES)
    header.check(
        beginning,
        segment,
        file_size=path.stat().st_size,
        system_identifier=cluster.system,
        major=cluster.major,
    )


def _pieces(path: Path) -> Iterator[memoryview]:
    """The content, each piece in the place of the one before."""
    place = memoryview(bytearray(compression.PIECE_BYTES))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(place):
            yield place[:size]

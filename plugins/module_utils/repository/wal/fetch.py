# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One WAL file back out of the repositories, checked, for `restore_command`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.repository import layout
from ansible_collections.dbops.fleet.plugins.module_utils.repository.cluster import Cluster
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import ContentConflict, ObjectMissing
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import Repository
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal import header
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.answer import Found
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.push import hashes
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import Kind, Segment, kind_of


@dataclass(frozen=True)
class Fetched:
    """What came of asking.

    Attributes:
        found: the outcome, from which wal/answer.py makes the exit code.
        messages: what went wrong on the way, also when another repository then delivered.
    """

    found: Found
    messages: tuple[str, ...] = ()


def fetch(repositories: Sequence[Repository], cluster: Cluster, name: str, destination: Path) -> Fetched:
    """Put a WAL file in place, or say why not. The destination appears whole or not at all.

    Args:
        repositories: asked in this order; the first good copy wins.
        cluster: a segment must belong to it.
        name: as PostgreSQL calls the file (`%f`).
        destination: where it wants it (`%p`).
    """
    messages: list[str] = []
    outcome = Found.ABSENT
    for repository in repositories:
        try:
            content = read(repository, cluster, name)
            if content is not None:
                _write(destination, content)
                return Fetched(Found.DELIVERED, tuple(messages))
            if outcome is Found.ABSENT and _later_exists(repository, cluster, name):
                outcome = Found.GAP
        except ContentConflict as error:
            messages.append(str(error))
            outcome = Found.CONFLICT
        except (FleetError, OSError) as error:
            messages.append(str(error))
            outcome = Found.FAILED
    if outcome is not Found.ABSENT:
        messages.append(f"{name}: {outcome.value}")
    return Fetched(outcome, tuple(messages))


def read(repository: Repository, cluster: Cluster, name: str) -> bytes | None:
    """The checked content of a WAL file; None when the repository has none of that name.

    Raises:
        ContentConflict: it has two.
        FleetError: it cannot be read, or is damaged.
    """
    try:
        segment = Segment.parse(name, cluster.segment_size) if kind_of(name) is Kind.SEGMENT else None
    except ValueError as error:
        raise Refused(str(error)) from None
    found = hashes(repository, cluster.system, name) or _claimed(repository, cluster.system, name)
    if not found:
        return None
    if len(found) > 1:
        raise ContentConflict(
            f"{name} is in repository {repository.name} with {len(found)} different contents: "
            f"{', '.join(sorted(found))}",
            remedy="Find out which server was the real primary and delete the other one's object by hand.",
        )
    sha256, key = next(iter(found.items()))
    content = repository.decode(repository.store.read(key), key, sha256)
    if segment is not None:
        header.check(
            content[: header.LONG_HEADER_BYTES],
            segment,
            file_size=len(content),
            system_identifier=cluster.system,
            major=cluster.major,
        )
    return content


def _claimed(repository: Repository, system: int, name: str) -> dict[str, str]:
    """What the claim names, in the form of `hashes`: a listing that lags or comes short must not end a recovery.

    Empty where there is no claim, or one of a push that broke off.
    """
    store = repository.store
    try:
        sha256 = store.read(layout.wal_claim(system, name)).decode("ascii", "replace").strip()
    except ObjectMissing:
        return {}
    for sealed in (repository.sealed, not repository.sealed):
        key = layout.wal_object(system, name, sha256, sealed=sealed)
        with contextlib.suppress(ObjectMissing):
            store.read_range(key, 0, 1)
            return {sha256: key}
    return {}


def _later_exists(repository: Repository, cluster: Cluster, name: str) -> bool:
    if kind_of(name) is not Kind.SEGMENT:
        return False
    # "~" sorts behind every character of a name.
    after = f"{layout.wal_directory(cluster.system, name)}{name}~"
    for item in repository.store.list(layout.timeline_prefix(cluster.system, int(name[:8], 16)), after=after):
        parsed = layout.parse_wal_object(item.key)
        if parsed is not None and kind_of(parsed[0]) is Kind.SEGMENT:
            return True
    return False


def _write(destination: Path, content: bytes) -> None:
    temporary = destination.with_name(f".{destination.name}.{os.getpid()}.fetching")
    try:
        temporary.write_bytes(content)
        temporary.replace(destination)
    finally:
        temporary.unlink(missing_ok=True)

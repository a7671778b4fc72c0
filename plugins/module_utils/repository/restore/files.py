# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a backup back onto a disk, in parallel, each frame checked against its hash.

The control file comes last: until then PostgreSQL cannot start what lies there.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import json
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.repository import layout
from ansible_collections.dbops.fleet.plugins.module_utils.repository.backup.index import (
    CONFIGURATION,
    DATA,
    Frame,
    Member,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Backup
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import ObjectCorrupt, ObjectMissing
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore.place import MARKER, MARKER_BEFORE
from ansible_collections.dbops.fleet.plugins.module_utils.repository.shelf import Shelf

# Stored bytes that one read of a pack asks for at most.
READ_BYTES = 8 << 20
CONTROL_FILE = "global/pg_control"


@dataclass(frozen=True)
class Piece:
    """One frame and where it goes."""

    frame: Frame
    path: Path
    offset: int


@dataclass
class Restored:
    """What was done.

    Attributes:
        files: restored or found to be right.
        size: bytes of these.
        fetched: stored bytes that were read from the repository.
        reused: bytes that a delta restore found in place.
        removed: files that a delta restore deleted.
    """

    files: int = 0
    size: int = 0
    fetched: int = 0
    reused: int = 0
    removed: int = 0


@dataclass
class Places:
    """Where the members of a backup go.

    Attributes:
        target: the data directory.
        tablespaces: oid -> directory.
        configuration: for what came from `/etc/postgresql`; None to leave it out.
    """

    target: Path
    tablespaces: Mapping[int, Path] = field(default_factory=dict)
    configuration: Path | None = None

    def path(self, name: str) -> Path | None:
        """The path of a member, None when it is left out."""
        if name.startswith(CONFIGURATION):
            return self.configuration / name.removeprefix(CONFIGURATION) if self.configuration else None
        inner = name.removeprefix(DATA)
        words = inner.split("/", 2)
        if words[0] == "pg_tblspc" and len(words) > 1 and words[1].isdecimal() and int(words[1]) in self.tablespaces:
            place = self.tablespaces[int(words[1])]
            return place / words[2] if len(words) == 3 else None
        return self.target / inner


def restore(shelf: Shelf, backup: Backup, places: Places, *, threads: int, delta: bool) -> Restored:
    """Write all files. Killed at any point it leaves a directory that cannot be started, and can be run again.

    Args:
        shelf: of the backup.
        backup: its catalogue entry.
        places: checked by place.check.
        threads: that read, check and write.
        delta: use what is there and right, remove what the backup does not have.

    Raises:
        ObjectCorrupt, StoreUnavailable: the repository did not give everything.
    """
    control = places.target / CONTROL_FILE
    _begin(places, backup, control)
    done = Restored()
    present: set[Path] = set()
    late: list[Member] = []
    with ThreadPoolExecutor(threads, thread_name_prefix="restore") as workers:
        running: deque[Future[None]] = deque()

        def members() -> Iterator[Piece]:
            for member in shelf.members(backup):
                path = places.path(member.path)
                if path is None:
                    continue
                present.add(path)
                done.files += member.type == "file"
                done.size += member.size
                if path == control:
                    late.append(member)
                    continue
                yield from _make(member, path, delta=delta)

        try:
            for batch in _batches(members()):
                running.append(workers.submit(_fetch, shelf, batch, done, delta))
                while len(running) > threads * 2:
                    running.popleft().result()
            while running:
                running.popleft().result()
        except BaseException:
            workers.shutdown(wait=True, cancel_futures=True)
            raise
    if len(late) != 1:
        raise ObjectCorrupt(f"Backup {backup.id} has no control file")
    if delta:
        done.removed = _remove_others(places, present)
    _finish(shelf, late[0], places, control, done)
    return done


def finish(target: Path) -> None:
    """Remove the marker: what lies here is a data directory now."""
    (target / MARKER).unlink(missing_ok=True)


def _begin(places: Places, backup: Backup, control: Path) -> None:
    places.target.mkdir(parents=True, exist_ok=True)
    places.target.chmod(0o700)
    _mark(places, backup)
    control.unlink(missing_ok=True)
    for name in ("postmaster.pid", "standby.signal", "recovery.signal", "backup_label"):
        (places.target / name).unlink(missing_ok=True)
    for oid, place in places.tablespaces.items():
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o700)
        link = places.target / "pg_tblspc" / str(oid)
        link.parent.mkdir(mode=0o700, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(place)


def _mark(places: Places, backup: Backup) -> None:
    """On the disk before anything else: a later run may overwrite these tablespaces, and no others."""
    marker = {"backup": backup.id, "tablespaces": [str(place) for place in places.tablespaces.values()]}
    temporary = places.target / MARKER_BEFORE
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(marker, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(places.target / MARKER)
    _sync(places.target)


def _make(member: Member, path: Path, *, delta: bool) -> Iterator[Piece]:
    """Make the directory, link or empty file; the pieces that are to be filled in."""
    if member.type == "directory":
        path.mkdir(mode=member.mode, parents=True, exist_ok=True)
        path.chmod(member.mode)
    elif member.type == "link":
        if path.is_symlink() or path.exists():
            path.unlink()
        path.symlink_to(member.target)
    else:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | (0 if delta else os.O_TRUNC)
        descriptor = os.open(path, flags, member.mode)
        try:
            os.ftruncate(descriptor, member.size)
            os.fchmod(descriptor, member.mode)
        finally:
            os.close(descriptor)
        offset = 0
        for frame in member.frames:
            yield Piece(frame, path, offset)
            offset += frame.raw


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Pieces whose frames lie one behind the other in a pack, so that one read gets them all."""
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        if batch and not (_follows(batch[-1].frame, piece.frame) and size + piece.frame.length <= READ_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(piece)
        size += piece.frame.length
    if batch:
        yield batch


def _follows(first: Frame, second: Frame) -> bool:
    return (first.backup, first.pack, first.offset + first.length) == (second.backup, second.pack, second.offset)


def _fetch(shelf: Shelf, batch: list[Piece], done: Restored, delta: bool) -> None:
    if delta:
        wanted = [piece for piece in batch if not _right(piece)]
        done.reused += sum(piece.frame.raw for piece in batch) - sum(piece.frame.raw for piece in wanted)
        for run in _batches(wanted):
            _fetch_run(shelf, run, done)
    else:
        _fetch_run(shelf, batch, done)


def _fetch_run(shelf: Shelf, run: list[Piece], done: Restored) -> None:
    first, last = run[0].frame, run[-1].frame
    stored = _read(shelf, first, last.offset + last.length - first.offset)
    done.fetched += len(stored)
    view = memoryview(stored)
    # One file open at a time: a run can hold thousands of small ones.
    for path, pieces in itertools.groupby(run, key=lambda piece: piece.path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for piece in pieces:
                start = piece.frame.offset - first.offset
                raw = unpack(shelf, piece.frame, bytes(view[start : start + piece.frame.length]))
                os.pwrite(descriptor, raw, piece.offset)
                # Has the kernel begin to write it to the disk, instead of all of it at the end.
                os.posix_fadvise(descriptor, piece.offset, len(raw), os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def unpack(shelf: Shelf, frame: Frame, stored: bytes) -> bytes:
    """The content of a frame, checked. Raises ObjectCorrupt."""
    name = f"{layout.pack_object(shelf.system, frame.backup, frame.pack)} at {frame.offset}"
    raw = shelf.repository.decode(stored, name, frame.sha256)
    if len(raw) != frame.raw:
        raise ObjectCorrupt(f"{shelf.repository.store.address}: {name} has {len(raw)} bytes instead of {frame.raw}")
    return raw


def _read(shelf: Shelf, first: Frame, length: int) -> bytes:
    key = layout.pack_object(shelf.system, first.backup, first.pack)
    try:
        return shelf.repository.store.read_range(key, first.offset, length)
    except ObjectMissing as error:
        raise ObjectCorrupt(f"{error.message}, but a backup needs it", remedy="Restore from another backup.") from None


def _right(piece: Piece) -> bool:
    with piece.path.open("rb", buffering=0) as file:
        found = os.pread(file.fileno(), piece.frame.raw, piece.offset)
    return hashlib.sha256(found).hexdigest() == piece.frame.sha256


def _remove_others(places: Places, present: set[Path]) -> int:
    """Delete what lies in the data directory and its tablespaces but is not in the backup."""
    kept = present | {places.target / MARKER, *(places.target / "pg_tblspc" / str(oid) for oid in places.tablespaces)}
    removed = 0
    for root in (places.target, *places.tablespaces.values()):
        for path in sorted(root.rglob("*"), reverse=True):
            if path in kept or path.name == "lost+found" or (path.is_dir() and not path.is_symlink()):
                continue
            path.unlink()
            removed += 1
        for path in sorted(root.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink() and path not in kept and path.name != "lost+found":
                shutil.rmtree(path)
    return removed


def _finish(shelf: Shelf, member: Member, places: Places, control: Path, done: Restored) -> None:
    for place in (places.target, *places.tablespaces.values()):
        _sync_file_system(place)
    content = []
    for frame in member.frames:
        content.append(unpack(shelf, frame, _read(shelf, frame, frame.length)))
        done.fetched += frame.length
    temporary = control.with_suffix(".restoring")
    with temporary.open("wb") as file:
        file.write(b"".join(content))
        file.flush()
        os.fsync(file.fileno())
    temporary.chmod(0o600)
    temporary.replace(control)
    _sync(control.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file_system(place: Path) -> None:
    """One syncfs(2) instead of an fsync for each of thousands of files."""
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(descriptor) != 0:
            raise OperationFailed(f"{place}: {os.strerror(ctypes.get_errno())} while writing to the disk")
    finally:
        os.close(descriptor)

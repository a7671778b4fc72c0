# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading what lies in a repository and comparing it with the hashes it was written with."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import TimelineHistory
from ansible_collections.dbops.fleet.plugins.module_utils.repository import layout
from ansible_collections.dbops.fleet.plugins.module_utils.repository.backup.index import Frame, Member
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Backup, Verification
from ansible_collections.dbops.fleet.plugins.module_utils.repository.cluster import Cluster
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.entry import Dump
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import (
    ObjectCorrupt,
    ObjectMissing,
    StoreUnavailable,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore.files import unpack
from ansible_collections.dbops.fleet.plugins.module_utils.repository.shelf import Shelf
from ansible_collections.dbops.fleet.plugins.module_utils.repository.store.interface import StoredObject
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal import fetch, gaps, inventory, tail
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import along

DAY_SECONDS = 86400
READ_BYTES = 8 << 20


@dataclass(frozen=True)
class Report:
    """What a check of a repository found.

    Attributes:
        wal_files: read and compared.
        frames: likewise.
        problems: sentences; empty when all is well.
        bad_backups: ids of the backups and dumps that have lost something.
    """

    wal_files: int
    frames: int
    problems: tuple[str, ...]
    bad_backups: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "wal_files": self.wal_files,
            "frames": self.frames,
            "problems": list(self.problems),
            "bad_backups": list(self.bad_backups),
        }


class _Frames:
    """Frames in the order in which they lie in packs, each once

    in a temporary file, whatever the size of the backups.
    """

    def __init__(self, members: Iterable[Member], wanted: Callable[[str, int], bool]) -> None:
        self._database = sqlite3.connect("")
        self._database.execute(
            "create table frame (backup text, pack int, offset int, length int, raw int, sha256 text, "
            "primary key (backup, pack, offset)) without rowid"
        )
        rows = (frame for member in members for frame in member.frames if wanted(frame.backup, frame.pack))
        with self._database:
            self._database.executemany("insert or ignore into frame values (?, ?, ?, ?, ?, ?)", rows)

    def runs(self) -> Iterator[list[Frame]]:
        """Frames that one read of a pack gets together."""
        run: list[Frame] = []
        for row in self._database.execute("select * from frame order by backup, pack, offset"):
            frame = Frame(*row)
            if run and (
                (frame.backup, frame.pack) != (run[0].backup, run[0].pack)
                or frame.offset + frame.length - run[0].offset > READ_BYTES
            ):
                yield run
                run = []
            run.append(frame)
        if run:
            yield run
        self._database.close()


def verify(shelf: Shelf, backup: Backup, *, threads: int) -> Verification:
    """Read one backup completely, with the WAL that makes it consistent, and record the result.

    Raises:
        StoreUnavailable: the repository did not answer; that says nothing about the backup, so nothing is recorded.
    """
    started = time.time()
    problems: list[str] = []
    count = 0
    try:
        frames = _Frames(shelf.members(backup), lambda owner, pack: True)
        with ThreadPoolExecutor(threads) as workers:
            for number, found in workers.map(lambda run: _check_run(shelf, run), frames.runs()):
                count += number
                problems += found
        problems += _check_own_wal(shelf, backup)
    except StoreUnavailable:
        raise
    except FleetError as error:
        problems.append(str(error))
    seconds = time.time() - started
    message = problems[0] if problems else f"{count} frames and the WAL are as they were written"
    verification = Verification(
        backup.id, "read", time.time(), not problems, message, {"seconds": round(seconds, 3), "frames": count}
    )
    shelf.record(verification)
    return verification


def check(shelf: Shelf, *, parts: int, threads: int, day: int | None = None) -> Report:
    """Check one part of all objects; `parts` consecutive days see everything.

    Args:
        shelf: to check.
        parts: how many days a full round takes; 1 for everything now.
        threads: that read.
        day: counted from the epoch; None for today.
    """
    turn = (int(time.time()) // DAY_SECONDS if day is None else day) % parts

    def due(key: str) -> bool:
        return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % parts == turn

    problems: list[str] = []
    listed: list[Backup | Dump] = [item.backup for item in shelf.listed()]
    listed += [item.dump for item in shelf.dumps()]
    bad: set[str] = set()
    wal_files = 0
    with ThreadPoolExecutor(threads) as workers:
        keys = [item.key for item in _all_wal(shelf) if due(item.key)]
        for found in workers.map(lambda key: _check_wal(shelf, key), keys):
            wal_files += 1
            problems += found
        frames = 0
        members = (member for one in listed for member in _members(shelf, one, problems, bad))
        wanted = _Frames(members, lambda owner, pack: due(layout.pack_object(shelf.system, owner, pack)))
        for number, found in workers.map(lambda run: _check_run(shelf, run), wanted.runs()):
            frames += number
            problems += found
    problems += _gaps(shelf)
    problems += [
        f"{one} is whole, but its catalogue entry is gone; `dbops relist {one}` makes it again"
        for one in shelf.unlisted()
    ]
    bad |= _damaged(listed, shelf, problems)
    for backup in sorted(bad):
        shelf.record(Verification(backup, "read", time.time(), False, problems[0]))
    return Report(wal_files, frames, tuple(problems), tuple(sorted(bad)))


def _members(shelf: Shelf, backup: Backup | Dump, problems: list[str], bad: set[str]) -> Iterator[Member]:
    try:
        yield from shelf.members(backup)
    except StoreUnavailable:
        raise
    except FleetError as error:
        problems.append(f"index of {backup.id}: {error}")
        bad.add(backup.id)


def _check_run(shelf: Shelf, run: list[Frame]) -> tuple[int, list[str]]:
    first, last = run[0], run[-1]
    key = layout.pack_object(shelf.system, first.backup, first.pack)
    try:
        stored = shelf.repository.store.read_range(key, first.offset, last.offset + last.length - first.offset)
    except StoreUnavailable:
        raise
    except FleetError as error:
        return len(run), [f"{key}: {error}"]
    problems = []
    for frame in run:
        start = frame.offset - first.offset
        try:
            unpack(shelf, frame, stored[start : start + frame.length])
        except (ObjectCorrupt, OperationFailed) as error:
            problems.append(f"{key}: {error}")
    return len(run), problems


def _all_wal(shelf: Shelf) -> Iterator[StoredObject]:
    """The archive, and what was received before its segment was full."""
    yield from shelf.repository.store.list(layout.wal_prefix(shelf.system))
    yield from shelf.repository.store.list(tail.prefix(shelf.system))


def _check_wal(shelf: Shelf, key: str) -> list[str]:
    parsed = layout.parse_wal_object(key)
    if parsed is None:
        return []
    try:
        shelf.repository.decode(shelf.repository.store.read(key), key, parsed[1])
    except StoreUnavailable:
        raise
    except ObjectMissing as error:
        # The receiver has taken a piece away whose segment was archived in the meantime.
        return [] if key.startswith(tail.prefix(shelf.system)) else [f"{key}: {error}"]
    except FleetError as error:
        return [f"{key}: {error}"]
    return []


def _check_own_wal(shelf: Shelf, backup: Backup) -> list[str]:
    archive = inventory.read(shelf.repository, shelf.system, backup.segment_size)
    history = archive.history(backup.timeline) or TimelineHistory(backup.timeline)
    cluster = Cluster(int(backup.system), backup.major, backup.segment_size)
    problems = []
    for segment in along(history, backup.start_lsn, backup.stop_lsn, backup.segment_size):
        try:
            if fetch.read(shelf.repository, cluster, segment.name) is None:
                problems.append(f"{segment.name}, which {backup.id} needs, is not in the archive")
        except StoreUnavailable:
            raise
        except FleetError as error:
            problems.append(str(error))
    return problems


def _gaps(shelf: Shelf) -> list[str]:
    facts = shelf.repository.get_json(layout.system_object(shelf.system))
    archive = inventory.read(shelf.repository, shelf.system, facts["segment_size"])
    return [
        f"timeline {one.timeline} lacks {gap.first} to {gap.last}"
        for one in gaps.report(archive.held, time.time(), archive.horizon)
        for gap in one.gaps
        if gap.status == "lost"
    ]


def _damaged(listed: Iterable[Backup | Dump], shelf: Shelf, problems: Iterable[str]) -> set[str]:
    broken = {problem.split(": ", 1)[0] for problem in problems}
    return {
        one.id
        for one in listed
        for owner, numbers in one.packs.items()
        for number in numbers
        if layout.pack_object(shelf.system, owner, number) in broken
    }

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carrying retention out: one list of objects, shown by a dry run and deleted by a real one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.repository import layout
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Backup, Listed
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.entry import Dump
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import ObjectExists
from ansible_collections.dbops.fleet.plugins.module_utils.repository.retention import (
    Plan,
    Policy,
    horizons,
    needed_packs,
    plan,
    plan_dumps,
    removable_segments,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.shelf import ABANDONED_SECONDS, Shelf, Unfinished
from ansible_collections.dbops.fleet.plugins.module_utils.repository.store.interface import StoredObject
from ansible_collections.dbops.fleet.plugins.module_utils.repository.targets import Archive
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal import inventory
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import Segment, kind_of

DELETING_THREADS = 8


@dataclass(frozen=True)
class Removal:
    """Everything that retention deletes.

    Attributes:
        decided: the plan for backups.
        dumps: the plan for dumps.
        listings: begun-marks and catalogue entries; these go first, so that nothing is listed whose data are going,
            and the marks before the entries, so that nothing looks as if its entry was lost.
        objects: the data of backups and dumps.
        wal: objects of WAL.
        segments: names of the segments that these are of.
        size: bytes that become free.
        horizons: timeline -> number of the first segment that stays without holes, where WAL goes.
    """

    decided: Plan
    dumps: Plan
    listings: tuple[str, ...]
    objects: tuple[str, ...]
    wal: tuple[str, ...]
    segments: tuple[str, ...]
    size: int
    horizons: Mapping[int, int]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "keep": {one: list(why) for one, why in (*self.decided.keep.items(), *self.dumps.keep.items())},
            "remove": [*self.decided.remove, *self.dumps.remove],
            "wal_segments": len(self.segments),
            "objects": len(self.listings) + len(self.objects) + len(self.wal),
            "bytes": self.size,
        }


def decide(shelf: Shelf, policy: Policy, dump_policy: Policy | None = None) -> Removal:
    """What would be deleted now.

    Args:
        shelf: to look at.
        policy: for base backups and WAL.
        dump_policy: for dumps; None for the same.

    Raises:
        Refused: nothing may be deleted; see retention.plan.
    """
    now = time.time()
    # Before the catalogue: what ends from here on is seen at least once, as running or as listed.
    unfinished, unfinished_dumps = shelf.unfinished(), shelf.unfinished_dumps()
    _refuse_unlisted(shelf)
    listed = shelf.listed()
    archive = _archive(shelf, listed)
    decided = _sparing_bases(plan(listed, policy, now, archive.held, archive.histories), unfinished, now)
    kept = [item.backup for item in listed if item.backup.id in decided.keep]
    dumped = shelf.dumps()
    dumps = _sparing_bases(plan_dumps(dumped, dump_policy or policy, now), unfinished_dumps, now)
    stay: list[Backup | Dump] = [*kept, *(item.dump for item in dumped if item.id in dumps.keep)]
    removed = {*decided.remove, *dumps.remove}
    abandoned = {one.backup for one in (*unfinished, *unfinished_dumps) if not one.running(now)}
    listings = [
        key
        for backup in (*decided.remove, *dumps.remove)
        for key in (layout.catalog_object(shelf.system, backup), layout.begun_object(shelf.system, backup))
    ]
    objects, size = [], 0
    for item in _backup_objects(shelf, stay, removed, abandoned):
        if item.key not in listings:
            objects.append(item.key)
        size += item.size
    segments = removable_segments(archive.held, kept, decided.wal_from, archive.histories)
    wal = []
    for key, stored in _wal_objects(shelf, set(segments)):
        wal.append(key)
        size += stored
    names = tuple(segment.name for segment in segments)
    marks = horizons(segments, decided.wal_from)
    return Removal(decided, dumps, tuple(listings), tuple(objects), tuple(wal), names, size, marks)


def carry_out(shelf: Shelf, removal: Removal) -> None:
    """Delete it. Killed half-way, the next run finds the rest.

    Before the marks of the horizon, which a disk without room would not take, go the backups.
    """
    begun = [key for key in removal.listings if key.endswith("/begun.json")]
    entries = [key for key in removal.listings if not key.endswith("/begun.json")]
    for keys in (begun, entries, removal.objects):
        _delete(shelf, keys)
    for timeline, number in removal.horizons.items():
        _move_horizon(shelf, timeline, number)
    _delete(shelf, removal.wal)
    shelf.repository.store.sweep(time.time() - ABANDONED_SECONDS)


def _delete(shelf: Shelf, keys: Sequence[str]) -> None:
    with ThreadPoolExecutor(DELETING_THREADS) as workers:
        list(workers.map(shelf.repository.store.delete, keys))


def _refuse_unlisted(shelf: Shelf) -> None:
    lost = shelf.unlisted()
    if lost:
        raise Refused(
            f"The catalogue entry of {', '.join(lost)} is gone, so its WAL would be deleted; nothing is deleted",
            remedy=f"Run `dbops relist {lost[0]}`.",
        )


def _archive(shelf: Shelf, listed: tuple[Listed, ...]) -> Archive:
    """What the repository has of WAL. Without a backup none of it may go, so it is not looked at."""
    if not listed:
        return Archive({}, {})
    return inventory.read(shelf.repository, shelf.system, listed[0].backup.segment_size)


def _move_horizon(shelf: Shelf, timeline: int, number: int) -> None:
    """Say first that holes will be there on purpose, so that nobody takes them for a loss."""
    store = shelf.repository.store
    mark = layout.horizon_object(shelf.system, timeline, number)
    with contextlib.suppress(ObjectExists):
        store.create(mark, b"")
    for item in list(store.list(mark.rpartition("/")[0] + "/")):
        if item.key < mark:
            store.delete(item.key)


def _sparing_bases(decided: Plan, unfinished: tuple[Unfinished, ...], now: float) -> Plan:
    """A backup that is running may refer to the packs of an older one."""
    bases = {one.base for one in unfinished if one.running(now) and one.base in decided.remove}
    if not bases:
        return decided
    keep = {**decided.keep, **{base: ("base of a running backup",) for base in bases if base is not None}}
    return Plan(keep, tuple(backup for backup in decided.remove if backup not in bases), decided.wal_from)


def _backup_objects(
    shelf: Shelf, kept: list[Backup | Dump], removed: set[str], abandoned: set[str]
) -> Iterator[StoredObject]:
    """The objects of backups and dumps that are known to be gone, but for packs that a kept one reads.

    Others begin and end while this looks, so what is only not known to be wanted stays.
    """
    packs = {layout.pack_object(shelf.system, owner, number) for owner, number in needed_packs(kept)}
    stay = {backup.id for backup in kept}
    found: dict[str, list[StoredObject]] = {}
    for item in shelf.repository.store.list(f"{shelf.system}/backup/"):
        owner = item.key.split("/")[2]
        if owner not in stay and item.key not in packs:
            found.setdefault(owner, []).append(item)
    complete = shelf.complete()
    for owner, items in found.items():
        given_up = owner not in complete and (owner in abandoned or not shelf.is_begun(owner))
        if owner in removed or given_up:
            yield from items


def _wal_objects(shelf: Shelf, segments: set[Segment]) -> Iterator[tuple[str, int]]:
    """Every object that belongs to one of these segments: content, claim, partial, label."""
    names = {segment.name for segment in segments}
    if not names:
        return
    for item in shelf.repository.store.list(layout.wal_prefix(shelf.system)):
        name = item.key.rpartition("/")[2].partition("-")[0]
        try:
            kind_of(name)
        except ValueError:
            continue  # not ours, so not touched
        if name[:24] in names:
            yield item.key, item.size

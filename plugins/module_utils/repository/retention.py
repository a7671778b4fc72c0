# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which backups and which WAL are kept. The same plan is shown by a dry run and carried out by a real one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import TimelineHistory
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Backup, Listed, shown, utc
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.entry import EXTRACTS, Dump, ListedDump
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import Segment, along

DAY_SECONDS = 86400.0
# Clocks of hosts differ by seconds; a backup from further ahead means that one of them is wrong.
CLOCK_TOLERANCE_SECONDS = 300.0
# What was taken out of a backup was loaded, or is not wanted any more.
EXTRACT_DAYS = 7


@dataclass(frozen=True)
class Policy(Record):
    """What to keep. A backup is kept when any rule wants it; rules that are None or 0 want nothing.

    Attributes:
        daily: the newest backup of each of this many days that have one (UTC).
        weekly: likewise of ISO weeks.
        monthly: likewise of months.
        count: the newest backups.
        age_days: every backup younger than this.
        window_days: any moment of the last days can be restored, on every timeline that was written in them: all WAL
            from the newest backup before the window on.
        verified: the newest backups that were verified as good, however old.
    """

    daily: int = 7
    weekly: int = 4
    monthly: int = 12
    count: int = 0
    age_days: float = 0
    window_days: float = 7
    verified: int = 1


@dataclass(frozen=True)
class Plan:
    """What retention would do.

    Attributes:
        keep: backup id -> the reasons why it stays.
        remove: ids, oldest first.
        wal_from: timeline -> from where on all its WAL is kept. Of a timeline that is not there, only what a kept
            backup needs itself is kept. None when there is no backup: then all is.
    """

    keep: Mapping[str, tuple[str, ...]]
    remove: tuple[str, ...]
    wal_from: Mapping[int, Lsn] | None = None


class _Item(Protocol):
    """What retention looks at: a base backup or a dump."""

    @property
    def id(self) -> str:
        """Its name in the repository."""

    @property
    def stop_time(self) -> float:
        """When it ended, in seconds since the epoch."""

    @property
    def pinned(self) -> str | None:
        """Why it is kept whatever its age, None if it is not."""

    @property
    def bad(self) -> bool:
        """Whether the last check or drill found something wrong."""

    @property
    def good(self) -> bool:
        """Whether the last check or drill found nothing wrong."""


_AnyItem = TypeVar("_AnyItem", bound=_Item)


def plan(
    listed: Iterable[Listed],
    policy: Policy,
    now: float,
    held: Mapping[Segment, float],
    histories: Mapping[int, TimelineHistory],
) -> Plan:
    """Decide about one system's backups.

    After a return to an earlier moment there are several lines of timelines with WAL of the same positions. What a line
    needs hangs on the backups that lie on it, so each line has a window of its own.

    Args:
        listed: all of them, in any order.
        policy: the rules.
        now: seconds since the epoch.
        held: segments in the archive with the time of their arrival.
        histories: of the timelines; one that is missing counts as having no ancestors.

    Raises:
        Refused: a backup lies in the future, the newest ones are bad, or the policy would keep nothing.
    """
    backups = sorted(listed, key=lambda item: (item.stop_time, item.id), reverse=True)
    _refuse_wrong_clock(backups, now)
    _refuse_bad_newest(backups)
    sound = [item for item in backups if not item.bad]
    reasons = _reasons(backups, policy, now)
    edge = now - policy.window_days * DAY_SECONDS if policy.window_days else math.inf
    wal_from: dict[int, Lsn] = {}
    wanted: dict[str, str] = {}
    for line in _lines(sound, edge, held, histories):
        mine = [item for item in sound if line.contains(item.backup.timeline, item.backup.stop_lsn)]
        base = _window_base(mine, edge)
        if base is None:
            # The first backup of this line may be under way.
            wal_from[line.timeline] = Lsn(0)
            continue
        if policy.window_days:
            wanted |= {item.id: "recovery window" for item in mine if item.stop_time >= base.stop_time}
        elif base.id not in reasons:
            wanted[base.id] = "newest of its timeline"
        for timeline in line.timelines[line.timelines.index(base.backup.timeline) :]:
            wal_from[timeline] = min(base.backup.start_lsn, wal_from.get(timeline, base.backup.start_lsn))
    for identifier, why in wanted.items():
        reasons.setdefault(identifier, []).append(why)
    return Plan(
        keep={identifier: tuple(why) for identifier, why in reasons.items()},
        remove=tuple(item.id for item in reversed(backups) if item.id not in reasons),
        wal_from=wal_from if sound else None,
    )


def plan_dumps(listed: Iterable[ListedDump], policy: Policy, now: float) -> Plan:
    """Decide about one system's dumps, for each series by itself. What was taken out of backups stays some days.

    The recovery window means nothing to a dump. A series whose newest dump is bad is left as it is; the others go on.

    Args:
        listed: all of them, in any order.
        policy: the rules.
        now: seconds since the epoch.

    Raises:
        Refused: a dump lies in the future, or the policy would keep nothing.
    """
    newest_first = sorted(listed, key=lambda item: (item.stop_time, item.id), reverse=True)
    _refuse_wrong_clock(newest_first, now)
    series: dict[str, list[ListedDump]] = {}
    for item in newest_first:
        series.setdefault(item.dump.series, []).append(item)
    reasons: dict[str, list[str]] = {}
    for name, items in series.items():
        if name == EXTRACTS:
            for item in items:
                if item.pinned is not None or item.stop_time > now - EXTRACT_DAYS * DAY_SECONDS:
                    reasons[item.id] = ["pinned" if item.pinned is not None else "taken out of a backup lately"]
        elif items[0].bad:
            reasons |= {item.id: ["the newest dump of its series is bad"] for item in items}
        else:
            reasons |= _reasons(items, policy, now)
    return Plan(
        keep={identifier: tuple(why) for identifier, why in reasons.items()},
        remove=tuple(item.id for item in reversed(newest_first) if item.id not in reasons),
    )


def _reasons(backups: Sequence[_Item], policy: Policy, now: float) -> dict[str, list[str]]:
    """What the rules want to keep and why. Args: backups: newest first."""
    sound = [item for item in backups if not item.bad]
    reasons: dict[str, list[str]] = {}

    def keep(items: Iterable[_Item], reason: str) -> None:
        for item in items:
            reasons.setdefault(item.id, []).append(reason)

    keep(sound[: max(policy.count, 1)], "newest" if policy.count <= 1 else f"one of the newest {policy.count}")
    keep(_newest_per(sound, policy.daily, lambda when: f"{when:%Y-%m-%d}"), "daily")
    keep(_newest_per(sound, policy.weekly, lambda when: f"{when:%G-%V}"), "weekly")
    keep(_newest_per(sound, policy.monthly, lambda when: f"{when:%Y-%m}"), "monthly")
    keep((item for item in sound if item.stop_time > now - policy.age_days * DAY_SECONDS), "age")
    keep([item for item in sound if item.good][: policy.verified], "last verified")
    keep((item for item in backups if item.pinned is not None), "pinned")
    proven = next((item.stop_time for item in backups if item.good), None)
    unproven = (item for item in backups if item.bad and (proven is None or item.stop_time > proven))
    keep(unproven, "bad, but no newer one is verified")
    return reasons


def removable_segments(
    held: Iterable[Segment],
    kept: Sequence[Backup],
    wal_from: Mapping[int, Lsn] | None,
    histories: Mapping[int, TimelineHistory],
) -> tuple[Segment, ...]:
    """The WAL that nothing which is kept needs, in order.

    Needed is: of each timeline everything from its place in `wal_from` on; and for each other kept backup what makes it
    consistent, start to stop. Without any backup all WAL is needed: the first backup may be under way.

    Args:
        held: segments in the archive.
        kept: backups that stay.
        wal_from: as in the plan.
        histories: of the timelines; one that is missing counts as having no ancestors.
    """
    if wal_from is None:
        return ()
    needed: set[Segment] = set()
    for backup in kept:
        history = histories.get(backup.timeline, TimelineHistory(backup.timeline))
        needed.update(along(history, backup.start_lsn, backup.stop_lsn, backup.segment_size))
    return tuple(sorted(segment for segment in held if segment not in needed and not _is_wanted(segment, wal_from)))


def horizons(removed: Iterable[Segment], wal_from: Mapping[int, Lsn] | None) -> dict[int, int]:
    """Timeline -> number of the first segment from which on retention makes no holes, where it makes some.

    Args:
        removed: segments that go.
        wal_from: as in the plan.
    """
    found: dict[int, int] = {}
    for segment in removed:
        start = (wal_from or {}).get(segment.timeline)
        number = segment.number + 1 if start is None else int(start) // segment.size
        found[segment.timeline] = max(found.get(segment.timeline, 0), number)
    return found


def needed_packs(kept: Iterable[Backup | Dump]) -> set[tuple[str, int]]:
    """(backup id, number) of every pack that a kept backup reads."""
    return {(owner, number) for backup in kept for owner, numbers in backup.packs.items() for number in numbers}


def _is_wanted(segment: Segment, wal_from: Mapping[int, Lsn]) -> bool:
    """Whether it lies where all WAL of its timeline is kept."""
    start = wal_from.get(segment.timeline)
    return start is not None and segment.end > start


def _refuse_wrong_clock(newest_first: Sequence[_Item], now: float) -> None:
    if newest_first and newest_first[0].stop_time > now + CLOCK_TOLERANCE_SECONDS:
        newest = newest_first[0]
        raise Refused(
            f"Backup {newest.id} ended at {shown(newest.stop_time)}, but it is {shown(now)} here; nothing is deleted",
            remedy="Set the clocks (chronyc tracking) of this host and of the database host.",
        )


def _refuse_bad_newest(newest_first: Sequence[Listed]) -> None:
    if newest_first and newest_first[0].bad:
        newest = newest_first[0]
        why = newest.verified.message if newest.verified else ""
        raise Refused(
            f"The newest backup {newest.backup.id} failed its verification ({why}); nothing is deleted",
            remedy="Find the cause, take a new backup with `dbops backup`, and verify it.",
        )


def _newest_per(newest_first: Iterable[_AnyItem], count: int, period: Callable[..., str]) -> list[_AnyItem]:
    """The newest backup of each of the last `count` periods that have one."""
    chosen: dict[str, _AnyItem] = {}
    for item in newest_first:
        name = period(utc(item.stop_time))
        if name not in chosen and len(chosen) < count:
            chosen[name] = item
    return list(chosen.values())


def _lines(
    newest_first: Sequence[Listed],
    edge: float,
    held: Mapping[Segment, float],
    histories: Mapping[int, TimelineHistory],
) -> list[TimelineHistory]:
    """The timelines whose WAL is wanted as a whole, each with its ancestors: that of the newest backup, the one that is
    written now, and those that were written in the window. One that was left before is only history.
    """
    found = {item.backup.timeline for item in newest_first if item.stop_time > edge}
    found |= {item.backup.timeline for item in newest_first[:1]}
    found |= {segment.timeline for segment, arrived in held.items() if arrived > edge}
    if held:
        found.add(max(held, key=lambda segment: (held[segment], segment)).timeline)
    return [histories.get(timeline, TimelineHistory(timeline)) for timeline in sorted(found)]


def _window_base(newest_first: Sequence[Listed], edge: float) -> Listed | None:
    """The newest backup that ended before the window, or the oldest one there is."""
    for item in newest_first:
        if item.backup.stop_time <= edge:
            return item
    return newest_first[-1] if newest_first else None

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which WAL the archive holds, and what is missing in between."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import TimelineHistory
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import Segment, along

# Look-ahead archives several segments at once, so one may arrive shortly before the one in front of it.
DELAY_SECONDS = 300.0


@dataclass(frozen=True)
class Gap(Record):
    """Missing segments between others that are there.

    Attributes:
        first: name of the first missing segment.
        last: name of the last one.
        count: how many.
        status: `delayed` when what follows arrived so recently that this may still be on its way, else `lost`.
    """

    first: str
    last: str
    count: int
    status: str


@dataclass(frozen=True)
class TimelineReport(Record):
    """What the archive holds of one timeline.

    Attributes:
        timeline: its number.
        first: name of the oldest segment held.
        last: name of the newest one.
        count: segments held.
        frontier: the position up to which there is no gap, counted from `first` or the horizon.
        last_time: when the newest arrived, seconds since the epoch.
        gaps: what is missing between first and last.
    """

    timeline: int
    first: str
    last: str
    count: int
    frontier: Lsn
    last_time: float
    gaps: tuple[Gap, ...]


def report(
    held: Mapping[Segment, float], now: float, horizon: Mapping[int, int] | None = None
) -> tuple[TimelineReport, ...]:
    """One report per timeline, oldest first.

    Args:
        held: every segment in the archive with the time of its arrival.
        now: seconds since the epoch, by the same clock.
        horizon: timeline -> number of the first segment that retention keeps without holes; gaps before it are meant.
    """
    timelines = sorted({segment.timeline for segment in held})
    return tuple(_report_one(timeline, held, now, (horizon or {}).get(timeline, 0)) for timeline in timelines)


def _report_one(timeline: int, held: Mapping[Segment, float], now: float, horizon: int) -> TimelineReport:
    segments = sorted(segment for segment in held if segment.timeline == timeline)
    gaps = []
    frontier = segments[0].end
    for before, after in itertools.pairwise(segments):
        if after.number <= horizon:
            frontier = after.end
        elif after.number != before.number + 1:
            before = Segment(timeline, max(before.number, horizon - 1), before.size)
            gaps.append(_gap(before, after, fresh=now - held[after] < DELAY_SECONDS))
        elif not gaps:
            frontier = after.end
    return TimelineReport(
        timeline=timeline,
        first=segments[0].name,
        last=segments[-1].name,
        count=len(segments),
        frontier=frontier,
        last_time=max(held[segment] for segment in segments),
        gaps=tuple(gaps),
    )


def _gap(before: Segment, after: Segment, *, fresh: bool) -> Gap:
    first = Segment(before.timeline, before.number + 1, before.size)
    last = Segment(before.timeline, after.number - 1, before.size)
    return Gap(first.name, last.name, last.number - first.number + 1, "delayed" if fresh else "lost")


def missing(held: Iterable[Segment], history: TimelineHistory, start: Lsn, end: Lsn, size: int) -> tuple[Segment, ...]:
    """The segments that replay from `start` to `end` would ask for in vain.

    Args:
        held: segments in the archive, of any timeline.
        history: the line that is followed.
        start: first position that is read.
        end: the position that is to be reached.
        size: bytes of a segment.
    """
    present = set(held)
    return tuple(segment for segment in along(history, start, end, size) if segment not in present)


def reachable_end(held: Iterable[Segment], history: TimelineHistory, start: Lsn, size: int) -> Lsn | None:
    """How far replay from `start` gets along a line before the first missing segment; None if not even the first is
    there.

    The result is the end of a segment: how much of the last one was used, only replay knows.
    """
    present = set(held)
    if not present:
        return None
    highest = max(segment.end for segment in present)
    reached: Lsn | None = None
    for segment in along(history, start, max(highest, Lsn(start + 1)), size):
        if segment not in present:
            break
        reached = segment.end
    return reached

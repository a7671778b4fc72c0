# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the archive holds and what it lacks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import TimelineHistory
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.gaps import (
    DELAY_SECONDS,
    missing,
    reachable_end,
    report,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import Segment

SIZE = 1024 * 1024


def test_an_old_gap_is_lost_and_a_fresh_one_delayed() -> None:
    held = {Segment(1, number, SIZE): 0.0 for number in (1, 2, 5)} | {Segment(1, 7, SIZE): 1000.0}
    (one,) = report(held, 1000.0 + DELAY_SECONDS - 1)
    assert [(gap.first, gap.last, gap.count, gap.status) for gap in one.gaps] == [
        (Segment(1, 3, SIZE).name, Segment(1, 4, SIZE).name, 2, "lost"),
        (Segment(1, 6, SIZE).name, Segment(1, 6, SIZE).name, 1, "delayed"),
    ]
    assert one.frontier == Segment(1, 2, SIZE).end


def test_a_hole_that_retention_made_on_one_timeline_hides_none_on_another() -> None:
    held = {Segment(timeline, number, SIZE): 0.0 for timeline in (1, 2) for number in (1, 3, 4, 6)}
    one, two = report(held, 1e9, {1: 4})
    assert [gap.first for gap in one.gaps] == [Segment(1, 5, SIZE).name]
    assert [gap.first for gap in two.gaps] == [Segment(2, 2, SIZE).name, Segment(2, 5, SIZE).name]
    assert (one.frontier, two.frontier) == (Segment(1, 4, SIZE).end, Segment(2, 1, SIZE).end)


def test_an_empty_archive_has_no_timelines() -> None:
    assert report({}, 0.0) == ()


@settings(derandomize=True, max_examples=300)
@given(numbers=st.sets(st.integers(0, 60), min_size=1), timeline=st.integers(1, 4))
def test_segments_and_gaps_together_cover_everything_once(numbers: set[int], timeline: int) -> None:
    (one,) = report({Segment(timeline, number, SIZE): 0.0 for number in numbers}, 1e9)
    lost = {
        number
        for gap in one.gaps
        for number in range(Segment.parse(gap.first, SIZE).number, Segment.parse(gap.last, SIZE).number + 1)
    }
    assert lost == set(range(min(numbers), max(numbers) + 1)) - numbers
    assert one.count + sum(gap.count for gap in one.gaps) == max(numbers) - min(numbers) + 1
    whole = next(n for n in range(min(numbers), 62) if n not in numbers)
    assert one.frontier == whole * SIZE


@settings(derandomize=True, max_examples=300)
@given(numbers=st.sets(st.integers(0, 30)), start=st.integers(0, 30), end=st.integers(1, 31 * SIZE))
def test_what_can_be_reached_misses_nothing(numbers: set[int], start: int, end: int) -> None:
    history = TimelineHistory.first()
    held = [Segment(1, number, SIZE) for number in numbers]
    reached = reachable_end(held, history, Lsn(start * SIZE), SIZE)
    if reached is None:
        assert start not in numbers
    else:
        assert missing(held, history, Lsn(start * SIZE), reached, SIZE) == ()
        assert int(reached) // SIZE not in numbers
    if end > start * SIZE:
        lost = missing(held, history, Lsn(start * SIZE), Lsn(end), SIZE)
        assert {s.number for s in lost} == set(range(start, (end - 1) // SIZE + 1)) - numbers

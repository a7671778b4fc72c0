# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Retention: what is kept, what goes, and when nothing may go."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import TimelineHistory
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Backup, Listed, Verification, new_id
from ansible_collections.dbops.fleet.plugins.module_utils.repository.retention import (
    DAY_SECONDS,
    Plan,
    Policy,
    horizons,
    needed_packs,
    plan,
    removable_segments,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.gaps import missing, reachable_end
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import Segment

SIZE = 16 * 1024 * 1024
# 2026-06-15 12:00 UTC, a Monday.
NOW = 1781524800.0
NOTHING = Policy(daily=0, weekly=0, monthly=0, window_days=0, verified=0)


def backup(days_ago: float, *, packs: dict[str, tuple[int, ...]] | None = None, timeline: int = 1) -> Backup:
    stop = NOW - days_ago * DAY_SECONDS
    identifier = new_id(stop, incremental=False)
    number = int((NOW / DAY_SECONDS - days_ago) * 4)
    return Backup(
        id=identifier,
        system="1",
        major=15,
        timeline=timeline,
        start_lsn=Lsn(number * SIZE + 40),
        stop_lsn=Lsn((number + 1) * SIZE + 80),
        start_time=stop - 60,
        stop_time=stop,
        incremental=False,
        source="primary",
        host="db1",
        segment_size=SIZE,
        size=1,
        sent=1,
        files=1,
        index=(),
        packs=packs or {identifier: (1,)},
    )


def listed(days_ago: float, *, good: bool | None = None, pinned: str | None = None) -> Listed:
    entry = backup(days_ago)
    verified = None if good is None else Verification(entry.id, "read", NOW, good, "a hash differs")
    return Listed(entry, pinned, verified)


def days_kept(made: list[Listed], decided: Plan) -> list[float]:
    return sorted(
        round((NOW - item.backup.stop_time) / DAY_SECONDS, 3) for item in made if item.backup.id in decided.keep
    )


def test_two_years_of_daily_backups_become_seven_daily_four_weekly_twelve_monthly() -> None:
    made = [listed(days) for days in range(730)]
    decided = plan(made, Policy(), NOW, {}, {})
    reasons = [reason for why in decided.keep.values() for reason in why]
    assert reasons.count("daily") == 7
    assert reasons.count("weekly") == 4
    assert reasons.count("monthly") == 12
    assert len(decided.keep) <= 7 + 4 + 12 + 1
    assert max(days_kept(made, decided)) > 300


def test_two_backups_of_a_day_count_as_one_daily_and_the_newer_stays() -> None:
    made = [listed(0.1), listed(0.4), listed(1.1), listed(1.4)]
    decided = plan(made, Policy(daily=2, weekly=0, monthly=0, window_days=0), NOW, {}, {})
    assert days_kept(made, decided) == [0.1, 1.1]


def test_a_recovery_window_keeps_the_backup_before_it() -> None:
    made = [listed(days) for days in (1, 4, 9, 12)]
    decided = plan(made, Policy(daily=0, weekly=0, monthly=0, window_days=7), NOW, {}, {})
    assert days_kept(made, decided) == [1, 4, 9]
    assert decided.wal_from == {1: made[2].backup.start_lsn}


def test_by_count_and_by_age() -> None:
    made = [listed(days) for days in range(10)]
    by_count = Policy(daily=0, weekly=0, monthly=0, window_days=0, count=3)
    assert days_kept(made, plan(made, by_count, NOW, {}, {})) == [0, 1, 2]
    by_age = Policy(daily=0, weekly=0, monthly=0, window_days=0, age_days=4.5)
    assert days_kept(made, plan(made, by_age, NOW, {}, {})) == [0, 1, 2, 3, 4]


def test_the_newest_always_stays_whatever_the_policy() -> None:
    made = [listed(days) for days in (400, 500)]
    assert days_kept(made, plan(made, NOTHING, NOW, {}, {})) == [400]


def test_a_pinned_backup_stays_and_so_does_the_last_verified_one() -> None:
    made = [listed(0), listed(1), listed(50, good=True), listed(60, good=True), listed(900, pinned="audit")]
    decided = plan(made, Policy(daily=1, weekly=0, monthly=0, window_days=0), NOW, {}, {})
    assert days_kept(made, decided) == [0, 50, 900]
    assert decided.keep[made[4].backup.id] == ("pinned",)


def test_nothing_is_deleted_when_the_newest_backup_is_bad() -> None:
    made = [listed(0, good=False), *(listed(days) for days in range(1, 40))]
    with pytest.raises(Refused, match="failed its verification"):
        plan(made, Policy(), NOW, {}, {})


def test_a_bad_backup_takes_no_sound_ones_place() -> None:
    made = [listed(0), listed(1, good=False), listed(2), listed(3)]
    decided = plan(made, Policy(daily=2, weekly=0, monthly=0, window_days=0), NOW, {}, {})
    assert days_kept(made, decided) == [0, 1, 2]  # the bad one too, until a newer one is verified
    verified = [listed(0, good=True), *made[1:]]
    assert days_kept(verified, plan(verified, Policy(daily=2, weekly=0, monthly=0, window_days=0), NOW, {}, {})) == [
        0,
        2,
    ]


def test_a_backup_from_the_future_stops_everything() -> None:
    with pytest.raises(Refused, match="Set the clocks"):
        plan([listed(-1), listed(5)], Policy(), NOW, {}, {})


def test_an_empty_repository_has_nothing_to_decide() -> None:
    assert plan([], Policy(), NOW, {}, {}) == Plan({}, (), None)


@settings(derandomize=True, max_examples=300)
@given(
    ages=st.lists(st.floats(0, 800), max_size=40, unique_by=lambda age: int(age * DAY_SECONDS)),
    policy=st.builds(
        Policy,
        daily=st.integers(0, 10),
        weekly=st.integers(0, 6),
        monthly=st.integers(0, 14),
        count=st.integers(0, 5),
        age_days=st.floats(0, 100),
        window_days=st.floats(0, 30),
        verified=st.integers(0, 2),
    ),
    verdicts=st.lists(st.sampled_from([None, True, False]), min_size=40, max_size=40),
)
def test_whatever_the_policy_these_things_hold(ages: list[float], policy: Policy, verdicts: list[bool | None]) -> None:
    made = [listed(age, good=verdict) for age, verdict in zip(ages, verdicts, strict=False)]
    try:
        decided = plan(made, policy, NOW, {}, {})
    except Refused:
        assert made[ages.index(min(ages))].bad
        return
    ids = {item.backup.id for item in made}
    assert set(decided.keep) | set(decided.remove) == ids
    assert not set(decided.keep) & set(decided.remove)
    sound = [item for item in made if not item.bad]
    if sound:
        assert max(sound, key=lambda item: item.backup.stop_time).backup.id in decided.keep
    good = [item for item in made if item.good]
    if good and policy.verified:
        assert max(good, key=lambda item: item.backup.stop_time).backup.id in decided.keep
    # Running it again on what is left changes nothing, in whatever order it is listed.
    left = [item for item in made if item.backup.id in decided.keep]
    random.Random(7).shuffle(left)
    assert plan(left, policy, NOW, {}, {}).remove == ()


def test_exactly_the_wal_is_kept_that_the_kept_need() -> None:
    old, new = backup(100), backup(10)
    first = int(old.start_lsn) // SIZE - 3
    last = int(new.stop_lsn) // SIZE + 5
    held = [Segment(1, number, SIZE) for number in range(first, last + 1)]
    removed = removable_segments(held, [old, new], {1: new.start_lsn}, {})
    kept = [segment.number for segment in held if segment not in removed]
    own = [int(old.start_lsn) // SIZE, int(old.stop_lsn) // SIZE]
    assert kept == own + list(range(int(new.start_lsn) // SIZE, last + 1))


def test_without_a_backup_no_wal_is_removed() -> None:
    assert removable_segments([Segment(1, 5, SIZE)], [], None, {}) == ()


def test_of_a_timeline_without_a_place_only_what_a_kept_backup_needs_stays() -> None:
    new = backup(1, timeline=2)
    start = int(new.start_lsn) // SIZE
    histories = {2: TimelineHistory(2, ((1, Lsn((start - 10) * SIZE)),))}
    held = [Segment(1, start - 11, SIZE), Segment(1, start + 1, SIZE), Segment(2, start, SIZE)]
    assert removable_segments(held, [new], {2: new.start_lsn}, histories) == tuple(held[:2])
    assert removable_segments(held, [new], {1: new.start_lsn, 2: new.start_lsn}, histories) == (held[0],)


# After a return to an earlier moment


def lies(number: int, days_ago: float, timeline: int = 1) -> Listed:
    """A backup of one segment at any place."""
    place = {"start_lsn": Lsn(number * SIZE + 40), "stop_lsn": Lsn(number * SIZE + 400)}
    return Listed(replace(backup(days_ago, timeline=timeline), **place))


def wrote(timeline: int, first: int, last: int, oldest_days: float, newest_days: float) -> dict[Segment, float]:
    """Segments that arrived evenly between two days."""
    step = (oldest_days - newest_days) / max(last - first, 1)
    return {
        Segment(timeline, number, SIZE): NOW - (oldest_days - (number - first) * step) * DAY_SECONDS
        for number in range(first, last + 1)
    }


# Timeline 1 was written up to segment 1600; nine days ago the cluster was taken back to segment 139.
BEFORE, ABANDONED = lies(100, 20), lies(1590, 10)
BRANCHED = {2: TimelineHistory(2, ((1, Lsn(139 * SIZE + 700)),))}
HELD = wrote(1, 90, 1600, 21, 9) | wrote(2, 139, 300, 9, 0)


def expired(made: list[Listed], held: dict[Segment, float], policy: Policy) -> tuple[Plan, set[Segment]]:
    decided = plan(made, policy, NOW, held, BRANCHED)
    kept = [item.backup for item in made if item.id in decided.keep]
    return decided, set(removable_segments(held, kept, decided.wal_from, BRANCHED))


@pytest.mark.parametrize("policy", [replace(NOTHING, window_days=7), replace(NOTHING, daily=3), NOTHING])
@pytest.mark.parametrize("later", [[], [lies(290, 1, timeline=2)]])
def test_after_a_return_the_living_timeline_keeps_its_wal_though_the_abandoned_one_got_further(
    policy: Policy, later: list[Listed]
) -> None:
    decided, gone = expired([BEFORE, ABANDONED, *later], HELD, policy)
    assert not [segment for segment in gone if segment.timeline == 2 and segment.number >= 290]
    if policy.window_days or not later:
        assert BEFORE.id in decided.keep
        assert missing(set(HELD) - gone, BRANCHED[2], BEFORE.backup.start_lsn, Lsn(301 * SIZE), SIZE) == ()


def test_once_the_window_begins_on_the_new_timeline_the_abandoned_one_goes_but_for_kept_backups() -> None:
    made = [BEFORE, ABANDONED, lies(200, 8, timeline=2), lies(290, 1, timeline=2)]
    decided, gone = expired(made, HELD, replace(NOTHING, window_days=7, monthly=2))
    assert decided.wal_from == {2: Lsn(200 * SIZE + 40)}
    assert {segment.number for segment in set(HELD) - gone if segment.timeline == 1} <= {100, 1590}
    assert {segment.number for segment in set(HELD) - gone if segment.timeline == 2} == set(range(200, 301))


def test_what_was_abandoned_within_the_window_can_still_be_reached() -> None:
    decided, gone = expired([BEFORE, ABANDONED], wrote(1, 90, 1600, 21, 3) | wrote(2, 139, 300, 3, 0), Policy())
    assert decided.wal_from == {1: BEFORE.backup.start_lsn, 2: BEFORE.backup.start_lsn}
    assert {segment.number for segment in gone} == set(range(90, 100))


def test_the_first_backup_of_a_timeline_finds_its_wal() -> None:
    _decided, gone = expired([ABANDONED], HELD, NOTHING)
    assert not [segment for segment in gone if segment.timeline == 2]


def test_the_horizon_is_that_of_each_timeline() -> None:
    gone = [Segment(1, number, SIZE) for number in (90, 95, 139)] + [Segment(2, 139, SIZE)]
    assert horizons(gone, {2: Lsn(200 * SIZE + 40)}) == {1: 140, 2: 200}
    assert horizons([], {1: Lsn(0)}) == {}


@settings(derandomize=True, max_examples=100, deadline=None)
@given(
    before=st.lists(st.integers(0, 139), min_size=1, max_size=5, unique=True),
    abandoned=st.lists(st.integers(140, 400), max_size=4, unique=True),
    living=st.lists(st.integers(140, 300), max_size=4, unique=True),
    days=st.floats(1, 60),
    window=st.floats(1, 30),
)
def test_whatever_was_written_in_the_window_can_be_reached_on_every_line(
    before: list[int], abandoned: list[int], living: list[int], days: float, window: float
) -> None:
    """Segments arrive at one a tenth of a day, on timeline 2 from `days` ago on."""
    left = days + (400 - 139) / 10
    held = wrote(1, 0, 400, left + 13.9, days) | wrote(2, 139, 300, days, 0)
    made = [lies(number, (NOW - held[Segment(1, number, SIZE)]) / DAY_SECONDS) for number in before + abandoned]
    made += [lies(number, (NOW - held[Segment(2, number, SIZE)]) / DAY_SECONDS, timeline=2) for number in living]
    decided, gone = expired(made, held, replace(NOTHING, window_days=window))
    for line in (TimelineHistory.first(), BRANCHED[2]):
        mine = [item.backup for item in made if line.contains(item.backup.timeline, item.backup.stop_lsn)]
        oldest = min(one.stop_time for one in mine)
        reach = {
            one.stop_lsn: reachable_end(set(held) - gone, line, one.start_lsn, SIZE) or Lsn(0)
            for one in mine
            if one.id in decided.keep
        }
        for segment, arrived in held.items():
            if segment.timeline == line.timeline and arrived > max(NOW - window * DAY_SECONDS, oldest):
                assert any(stop < segment.end <= end for stop, end in reach.items()), segment
    left_over = {one: when for one, when in held.items() if one not in gone}
    kept = [item for item in made if item.id in decided.keep]
    again, gone_again = expired(kept, left_over, replace(NOTHING, window_days=window))
    assert (again.remove, gone_again) == ((), set())


def test_a_pack_is_needed_as_long_as_any_kept_backup_reads_it() -> None:
    kept = [backup(1, packs={"a": (1, 2), "b": (1,)}), backup(2, packs={"a": (2, 3)})]
    assert needed_packs(kept) == {("a", 1), ("a", 2), ("a", 3), ("b", 1)}

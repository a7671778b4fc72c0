# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Retention: what is kept, what goes, and when nothing may go."""

from __future__ import annotations

import random

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
    needed_packs,
    plan,
    removable_segments,
)
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
    decided = plan(made, Policy(), NOW)
    reasons = [reason for why in decided.keep.values() for reason in why]
    assert reasons.count("daily") == 7
    assert reasons.count("weekly") == 4
    assert reasons.count("monthly") == 12
    assert len(decided.keep) <= 7 + 4 + 12 + 1
    assert max(days_kept(made, decided)) > 300


def test_two_backups_of_a_day_count_as_one_daily_and_the_newer_stays() -> None:
    made = [listed(0.1), listed(0.4), listed(1.1), listed(1.4)]
    decided = plan(made, Policy(daily=2, weekly=0, monthly=0, window_days=0), NOW)
    assert days_kept(made, decided) == [0.1, 1.1]


def test_a_recovery_window_keeps_the_backup_before_it() -> None:
    made = [listed(days) for days in (1, 4, 9, 12)]
    decided = plan(made, Policy(daily=0, weekly=0, monthly=0, window_days=7), NOW)
    assert days_kept(made, decided) == [1, 4, 9]
    assert decided.continuous_from == made[2].backup


def test_by_count_and_by_age() -> None:
    made = [listed(days) for days in range(10)]
    by_count = Policy(daily=0, weekly=0, monthly=0, window_days=0, count=3)
    assert days_kept(made, plan(made, by_count, NOW)) == [0, 1, 2]
    by_age = Policy(daily=0, weekly=0, monthly=0, window_days=0, age_days=4.5)
    assert days_kept(made, plan(made, by_age, NOW)) == [0, 1, 2, 3, 4]


def test_the_newest_always_stays_whatever_the_policy() -> None:
    made = [listed(days) for days in (400, 500)]
    assert days_kept(made, plan(made, NOTHING, NOW)) == [400]


def test_a_pinned_backup_stays_and_so_does_the_last_verified_one() -> None:
    made = [listed(0), listed(1), listed(50, good=True), listed(60, good=True), listed(900, pinned="audit")]
    decided = plan(made, Policy(daily=1, weekly=0, monthly=0, window_days=0), NOW)
    assert days_kept(made, decided) == [0, 50, 900]
    assert decided.keep[made[4].backup.id] == ("pinned",)


def test_nothing_is_deleted_when_the_newest_backup_is_bad() -> None:
    made = [listed(0, good=False), *(listed(days) for days in range(1, 40))]
    with pytest.raises(Refused, match="failed its verification"):
        plan(made, Policy(), NOW)


def test_a_bad_backup_takes_no_sound_ones_place() -> None:
    made = [listed(0), listed(1, good=False), listed(2), listed(3)]
    decided = plan(made, Policy(daily=2, weekly=0, monthly=0, window_days=0), NOW)
    assert days_kept(made, decided) == [0, 1, 2]  # the bad one too, until a newer one is verified
    verified = [listed(0, good=True), *made[1:]]
    assert days_kept(verified, plan(verified, Policy(daily=2, weekly=0, monthly=0, window_days=0), NOW)) == [0, 2]


def test_a_backup_from_the_future_stops_everything() -> None:
    with pytest.raises(Refused, match="Set the clocks"):
        plan([listed(-1), listed(5)], Policy(), NOW)


def test_an_empty_repository_has_nothing_to_decide() -> None:
    assert plan([], Policy(), NOW) == Plan({}, (), None)


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
        decided = plan(made, policy, NOW)
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
    assert plan(left, policy, NOW).remove == ()


def test_exactly_the_wal_is_kept_that_the_kept_need() -> None:
    old, new = backup(100), backup(10)
    first = int(old.start_lsn) // SIZE - 3
    last = int(new.stop_lsn) // SIZE + 5
    held = [Segment(1, number, SIZE) for number in range(first, last + 1)]
    removed = removable_segments(held, [old, new], new, {})
    kept = [segment.number for segment in held if segment not in removed]
    own = [int(old.start_lsn) // SIZE, int(old.stop_lsn) // SIZE]
    assert kept == own + list(range(int(new.start_lsn) // SIZE, last + 1))


def test_without_a_backup_no_wal_is_removed() -> None:
    assert removable_segments([Segment(1, 5, SIZE)], [], None, {}) == ()


def test_wal_of_another_timeline_behind_the_window_goes_and_within_it_stays() -> None:
    new = backup(1, timeline=2)
    start = int(new.start_lsn) // SIZE
    histories = {2: TimelineHistory(2, ((1, Lsn((start - 10) * SIZE)),))}
    held = [Segment(1, start - 11, SIZE), Segment(1, start + 1, SIZE), Segment(2, start, SIZE)]
    assert removable_segments(held, [new], new, histories) == (held[0],)


def test_a_pack_is_needed_as_long_as_any_kept_backup_reads_it() -> None:
    kept = [backup(1, packs={"a": (1, 2), "b": (1,)}), backup(2, packs={"a": (2, 3)})]
    assert needed_packs(kept) == {("a", 1), ("a", 2), ("a", 3), ("b", 1)}

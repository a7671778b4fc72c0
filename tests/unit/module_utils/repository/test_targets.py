# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a target to a backup and a line of timelines, or to a refusal that says what can be had."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import TimelineHistory
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Backup, Listed, Verification
from ansible_collections.dbops.fleet.plugins.module_utils.repository.targets import (
    Archive,
    Target,
    choose,
    offers,
    parse_target,
    refuse_promotion,
    replay_limits,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import Segment

SIZE = 16 * 1024 * 1024


def at(number: int, offset: int = 100) -> Lsn:
    return Lsn(number * SIZE + offset)


def backup(name: str, number: int, timeline: int = 1) -> Backup:
    """A backup that lies within one segment; the clock is the segment's number in minutes."""
    return Backup(
        id=name,
        system="1",
        major=15,
        timeline=timeline,
        start_lsn=at(number, 40),
        stop_lsn=at(number, 400),
        start_time=number * 60.0,
        stop_time=number * 60.0 + 30,
        incremental=False,
        source="primary",
        host="db1",
        segment_size=SIZE,
        size=1,
        sent=1,
        files=1,
        index=(),
        packs={},
    )


def archive(*parts: tuple[int, range], histories: dict[int, TimelineHistory] | None = None) -> Archive:
    """Segments that each arrived a minute after the one before."""
    held = {Segment(timeline, number, SIZE): (number + 1) * 60.0 for timeline, numbers in parts for number in numbers}
    return Archive(held, histories or {})


# Timeline 2 leaves 1 in segment 20, timeline 3 leaves 2 in segment 30, and timeline 4 left 1 long before, in segment 5.
BRANCHED = archive(
    (1, range(25)),
    (2, range(20, 35)),
    (3, range(30, 40)),
    (4, range(5, 38)),
    histories={
        2: TimelineHistory(2, ((1, at(20)),)),
        3: TimelineHistory(3, ((1, at(20)), (2, at(30)))),
        4: TimelineHistory(4, ((1, at(5)),)),
    },
)
BACKUPS = [Listed(backup("a", 2)), Listed(backup("b", 10)), Listed(backup("c", 25, timeline=2))]


def test_latest_takes_the_newest_backup_and_the_newest_timeline_that_grew_from_it() -> None:
    choice = choose(BACKUPS, BRANCHED, Target())
    assert choice.backup.id == "c"
    assert choice.history.timeline == 3
    assert choice.end == Segment(3, 39, SIZE).end


def test_a_time_takes_the_newest_backup_that_ended_before_it() -> None:
    assert choose(BACKUPS, BRANCHED, Target("time", time=12 * 60.0)).backup.id == "b"
    assert choose(BACKUPS, BRANCHED, Target("time", time=10 * 60.0 + 29)).backup.id == "a"


def test_a_timeline_that_left_before_a_backup_is_reached_from_an_older_one() -> None:
    choice = choose(BACKUPS, BRANCHED, Target(timeline=4))
    assert (choice.backup.id, choice.history.timeline) == ("a", 4)


def test_current_and_immediate_stay_on_the_backups_timeline() -> None:
    assert choose(BACKUPS, BRANCHED, Target(current=True)).history.timeline == 2
    assert choose(BACKUPS, BRANCHED, Target("immediate", backup="b")).history.timeline == 1


def test_a_backup_taken_behind_the_fork_of_an_old_timeline_cannot_reach_the_new_one() -> None:
    late = [Listed(backup("after the fork", 22, timeline=1))]
    with pytest.raises(Refused, match="did not grow from"):
        choose(late, BRANCHED, Target(timeline=3))


# At segment 20 the cluster was taken back to segment 10, behind which there is a backup of timeline 1.
REWOUND = replace(
    archive((1, range(20)), (2, range(10, 12)), histories={2: TimelineHistory(2, ((1, at(10)),))}), begun={2: 1300.0}
)
BEFORE_AND_AFTER = [Listed(backup("before", 3)), Listed(backup("after", 15))]


def test_after_a_rewind_the_newest_state_is_asked_for_by_timeline_until_the_new_one_has_a_backup() -> None:
    arrivals = {segment: 1400.0 if segment.timeline == 2 else when for segment, when in REWOUND.held.items()}
    rewound = replace(REWOUND, held=arrivals)
    for archived in (rewound, REWOUND):  # whether or not a segment of the new timeline is there yet
        with pytest.raises(Refused, match=r"after leads along timeline 1 .* is of timeline 2") as refusal:
            choose(BEFORE_AND_AFTER, archived, Target())
        assert refusal.value.details["timelines"] == [1, 2]
    chosen = choose(BEFORE_AND_AFTER, rewound, Target(timeline=2))
    assert (chosen.backup.id, chosen.end) == ("before", Lsn(12 * SIZE))
    assert choose(BEFORE_AND_AFTER, rewound, Target(timeline=1)).end == Lsn(20 * SIZE)
    assert choose(BEFORE_AND_AFTER, rewound, Target(current=True)).backup.id == "after"
    on_two = Listed(backup("on two", 11, timeline=2))
    settled = Listed(replace(on_two.backup, stop_time=1500.0, stop_lsn=at(11, 500)))
    assert choose([*BEFORE_AND_AFTER, settled], rewound, Target()).backup.id == "on two"


def test_a_timeline_that_lives_on_behind_a_fork_is_not_left_for_one_that_ended() -> None:
    """A copy was promoted and wrote; the cluster goes on, and has no backup behind the fork yet."""
    branched = archive((2, range(10, 12)), (1, range(30)), histories={2: TimelineHistory(2, ((1, at(10)),))})
    with pytest.raises(Refused, match=r"along timeline 2 .* is of timeline 1"):
        choose(BEFORE_AND_AFTER[:1], branched, Target())


@pytest.mark.parametrize("fork", [at(10), at(19), at(20, 0), at(20)])
def test_a_timeline_without_wal_is_not_followed(fork: Lsn) -> None:
    """A restore that promoted and was killed, or whose server never ran. Timeline 1 is archived up to segment 19."""
    promoted = archive((1, range(20)), histories={2: TimelineHistory(2, ((1, fork),))})
    choice = choose(BEFORE_AND_AFTER[:1], replace(promoted, begun={2: 900.0}), Target())
    assert (choice.history.timeline, choice.end) == (1, Lsn(20 * SIZE))
    later = replace(promoted, begun={2: 5000.0})
    if fork < at(19, 0):
        with pytest.raises(Refused, match="is of timeline 2"):
            choose(BEFORE_AND_AFTER[:1], later, Target())
    else:
        assert choose(BEFORE_AND_AFTER[:1], later, Target()) == choice


def test_what_a_fenced_primary_had_archived_behind_the_fork_does_not_matter() -> None:
    failed_over = archive((1, range(12)), (2, range(10, 20)), histories={2: TimelineHistory(2, ((1, at(10)),))})
    choice = choose(BEFORE_AND_AFTER[:1], replace(failed_over, begun={2: 700.0}), Target())
    assert (choice.history.timeline, choice.end) == (2, Lsn(20 * SIZE))


def test_a_promotion_beside_a_cluster_that_may_live_needs_its_name() -> None:
    alive = archive((1, range(20)))
    with pytest.raises(Refused, match=r"arrived 100 s ago.*--confirm orders"):
        refuse_promotion(alive, 1300.0, "orders", None)
    refuse_promotion(alive, 1300.0, "orders", "orders")
    refuse_promotion(alive, 1200.0 + 3600, "orders", None)
    with pytest.raises(Refused, match="is that of cluster orders"):
        refuse_promotion(alive, 1200.0 + 3600, "orders", "order")
    received = replace(archive((1, range(2))), received={Segment(1, 2, SIZE): (4096, 4000.0)})
    with pytest.raises(Refused, match="arrived 60 s ago"):
        refuse_promotion(received, 4060.0, "orders", None)


def test_a_gap_ends_what_can_be_reached_and_the_refusal_says_where() -> None:
    broken = archive((1, range(15)), (1, range(16, 30)))
    choice = choose([BACKUPS[1]], broken, Target())
    assert choice.end == Segment(1, 14, SIZE).end
    with pytest.raises(Refused) as refusal:
        choose([BACKUPS[1]], broken, Target("lsn", lsn=at(20)))
    assert f"to {choice.end}" in str(refusal.value)


def test_a_backup_whose_own_wal_is_missing_is_passed_over() -> None:
    broken = archive((1, range(10)), (1, range(11, 20)))
    chosen = choose(BACKUPS[:2], broken, Target())
    assert (chosen.backup.id, chosen.end, chosen.behind_gap) == ("a", Lsn(10 * SIZE), 9)


def test_the_newest_state_is_not_what_lies_before_a_gap_in_the_middle() -> None:
    """Segments that were under way when the host was lost are no reason to stop; a hole with days behind it is one."""
    broken = archive((1, range(20)), (1, range(21, 60)))
    with pytest.raises(Refused, match="with a gap, behind which 39 more segments lie"):
        choose(BACKUPS[:1], broken, Target())
    asked = choose(BACKUPS[:1], broken, Target("time", time=20 * 60.0))
    assert (asked.end, asked.behind_gap) == (Lsn(20 * SIZE), 39)


def test_a_bad_backup_is_passed_over_unless_it_is_named() -> None:
    bad = Listed(BACKUPS[1].backup, None, Verification("b", "read", 0, False, "a hash differs"))
    assert choose([BACKUPS[0], bad], BRANCHED, Target("time", time=15 * 60.0)).backup.id == "a"
    assert choose([BACKUPS[0], bad], BRANCHED, Target("time", time=15 * 60.0, backup="b")).backup.id == "b"


@pytest.mark.parametrize(
    "target",
    [
        Target("time", time=0.0),
        Target("time", time=1e9),
        Target("lsn", lsn=Lsn(1)),
        Target("lsn", lsn=at(400)),
        Target(timeline=9),
        Target(backup="nobody"),
    ],
)
def test_what_cannot_be_reached_is_refused(target: Target) -> None:
    with pytest.raises(Refused):
        choose(BACKUPS, BRANCHED, target)


def test_an_empty_repository_is_refused() -> None:
    with pytest.raises(Refused, match="no usable backup"):
        choose([], BRANCHED, Target())


@settings(derandomize=True, max_examples=300)
@given(
    missing=st.sets(st.integers(0, 39), max_size=6),
    numbers=st.lists(st.integers(0, 39), min_size=1, max_size=5, unique=True),
    position=st.integers(0, 41 * SIZE),
)
def test_an_lsn_is_only_promised_when_every_segment_on_the_way_is_there(
    missing: set[int], numbers: list[int], position: int
) -> None:
    held = Archive({Segment(1, n, SIZE): n * 60.0 for n in range(40) if n not in missing}, {})
    backups = [Listed(backup(f"b{n:02}", n)) for n in numbers]

    def possible(one: Backup) -> bool:
        way = range(int(one.start_lsn) // SIZE, max(position - 1, int(one.stop_lsn) - 1) // SIZE + 1)
        return position >= one.stop_lsn and all(n < 40 and n not in missing for n in way)

    able = [item.backup for item in backups if possible(item.backup)]
    target = Target("lsn", lsn=Lsn(position))
    if able:
        assert choose(backups, held, target).backup == max(able, key=lambda one: one.stop_time)
    else:
        with pytest.raises(Refused):
            choose(backups, held, target)


@pytest.mark.parametrize("text", ["2026-03-01 14:30:00+01:00", "2026-03-01T13:30:00Z"])
def test_a_time_with_its_zone_is_read(text: str) -> None:
    assert parse_target("time", text).time == 1772371800.0


@pytest.mark.parametrize(
    ("kind", "value", "timeline"),
    [
        ("time", "2026-03-01 14:30:00", "latest"),
        ("time", "yesterday", "latest"),
        ("lsn", "12345", "latest"),
        ("xid", "abc", "latest"),
        ("latest", "now", "latest"),
        ("time", "", "latest"),
        ("point", "x", "latest"),
        ("latest", "", "newest"),
    ],
)
def test_what_cannot_be_read_is_refused(kind: str, value: str, timeline: str) -> None:
    with pytest.raises(Refused):
        parse_target(kind, value, timeline)


def test_replay_limits_are_the_largest_of_all_later_settings() -> None:
    recorded = [{"max_connections": "100"}, {"max_connections": "300", "work_mem": "4"}, {"max_wal_senders": "7"}]
    assert replay_limits(recorded) == {"max_connections": 300, "max_wal_senders": 7}


def test_what_was_received_behind_the_archive_is_reached_too() -> None:
    tail = {Segment(1, 10, SIZE): (4096, 700.0), Segment(1, 12, SIZE): (4096, 800.0)}
    whole = replace(archive((1, range(10))), received=tail)
    taken = [Listed(backup("b", 3))]
    choice = choose(taken, whole, Target())
    assert (choice.end, choice.reach, choice.last_time) == (at(10, 0), at(10, 4096), 700.0)
    assert offers(taken, whole)[0].to_lsn == at(10, 4096)
    assert choose(taken, whole, parse_target("lsn", str(at(10, 4000)))).reach == at(10, 4096)
    with pytest.raises(Refused, match="before the target"):
        choose(taken, whole, parse_target("lsn", str(at(10, 5000))))


def test_what_was_received_on_a_timeline_that_is_not_followed_or_behind_a_gap_is_left_out() -> None:
    taken = [Listed(backup("b", 3))]
    other = replace(archive((1, range(10))), received={Segment(2, 10, SIZE): (4096, 700.0)})
    assert choose(taken, other, Target(current=True)).received is None
    gap = replace(archive((1, range(8)), (1, range(9, 11))), received={Segment(1, 8, SIZE): (4096, 700.0)})
    assert choose(taken, gap, parse_target("lsn", str(at(7)))).received is None

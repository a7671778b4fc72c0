# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Histories of timelines: reading them, and who descends from whom."""

from __future__ import annotations

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import TimelineHistory, history_file_name

THREE = "1\t0/3000148\tno recovery target specified\n\n2\t0/5000060\tno recovery target specified\n"


def lsn(text: str) -> Lsn:
    return Lsn.parse(text)


def history(timeline: int, *switches: tuple[int, str]) -> TimelineHistory:
    return TimelineHistory(timeline, tuple((ancestor, lsn(at)) for ancestor, at in switches))


def test_reads_a_history_file_with_comments_and_empty_lines() -> None:
    read = TimelineHistory.parse(3, "# a comment\n" + THREE)
    assert read == history(3, (1, "0/3000148"), (2, "0/5000060"))
    assert read.timelines == (1, 2, 3)
    assert read.switchpoint == lsn("0/5000060")
    assert TimelineHistory.first().switchpoint is None


@pytest.mark.parametrize(
    "text",
    [
        "one\t0/1\n",
        "1\n",
        "1\tnowhere\n",
        "2\t0/2\n1\t0/3\n",
        "1\t0/3\n2\t0/2\n",
        "3\t0/3\n",
        "4\t0/3\n",
    ],
)
def test_refuses_what_is_no_history_of_timeline_three(text: str) -> None:
    with pytest.raises(ValueError, match=r"timeline 3|not an LSN"):
        TimelineHistory.parse(3, text)


def test_contains_an_ancestor_only_up_to_where_it_was_left() -> None:
    line = TimelineHistory.parse(3, THREE)
    assert line.contains(1, lsn("0/3000148"))
    assert not line.contains(1, lsn("0/3000149"))
    assert line.contains(2, lsn("0/5000060"))
    assert not line.contains(2, lsn("0/6000000"))
    assert line.contains(3, lsn("FF/0"))
    assert not line.contains(4, lsn("0/0"))


def test_end_of_a_strange_timeline_is_an_error() -> None:
    with pytest.raises(ValueError, match="timeline 9 is not an ancestor of timeline 3"):
        TimelineHistory.parse(3, THREE).end_of(9)


def test_ancestors_are_recognised_and_siblings_are_not() -> None:
    one, two, three = TimelineHistory.first(), history(2, (1, "0/3000148")), TimelineHistory.parse(3, THREE)
    other_three = history(3, (1, "0/2000000"))
    assert one.is_ancestor_of(one)
    assert one.is_ancestor_of(two)
    assert two.is_ancestor_of(three)
    assert not three.is_ancestor_of(two)
    assert not two.is_ancestor_of(other_three)
    assert not three.is_ancestor_of(other_three)


def test_two_promotions_of_the_same_number_are_told_apart_by_their_switch_points() -> None:
    ours, theirs = history(2, (1, "0/3000148")), history(2, (1, "0/4000000"))
    assert not ours.is_ancestor_of(theirs)
    assert ours.fork_from(theirs) == (1, lsn("0/3000148"))


def test_fork_is_where_the_shorter_line_left() -> None:
    two, three = history(2, (1, "0/3000148")), TimelineHistory.parse(3, THREE)
    assert two.fork_from(three) == (2, lsn("0/5000060"))
    assert three.fork_from(two) == (2, lsn("0/5000060"))
    assert three.fork_from(three) == (3, None)
    assert TimelineHistory.first().fork_from(three) == (1, lsn("0/3000148"))
    assert history(5, (4, "0/1000000")).fork_from(three) is None


def test_goes_through_json() -> None:
    three = TimelineHistory.parse(3, THREE)
    assert three.to_dict() == {"timeline": 3, "switches": [[1, "0/3000148"], [2, "0/5000060"]]}
    assert TimelineHistory.from_dict(three.to_dict()) == three


def test_history_files_are_named_in_hexadecimal() -> None:
    assert history_file_name(26) == "0000001A.history"

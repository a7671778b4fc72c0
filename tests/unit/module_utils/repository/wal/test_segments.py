# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and arithmetic of WAL segments."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import TimelineHistory
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import Kind, Segment, along, kind_of

MB = 1024 * 1024
SIZES = st.sampled_from([2**power * MB for power in range(11)])  # what PostgreSQL allows: 1 MB to 1 GB


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("000000010000000000000001", Kind.SEGMENT),
        ("0000000200000001000000FF.partial", Kind.PARTIAL),
        ("00000002.history", Kind.HISTORY),
        ("000000010000000000000002.00000028.backup", Kind.LABEL),
    ],
)
def test_the_four_kinds_are_known(name: str, kind: Kind) -> None:
    assert kind_of(name) is kind


@pytest.mark.parametrize("name", ["", "x", "00000001000000000000000g", "../000000010000000000000001", "RECOVERYXLOG"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError):
        kind_of(name)


def test_names_agree_with_postgresql() -> None:
    # As pg_walfile_name() says it, with 16 MB and with 1 GB.
    assert Segment.holding(1, Lsn.parse("1/2000060"), 16 * MB).name == "000000010000000100000002"
    assert Segment.holding(3, Lsn.parse("2/C0000000"), 1024 * MB).name == "000000030000000200000003"
    assert Segment.ending_at(1, Lsn.parse("0/3000000"), 16 * MB).name == "000000010000000000000002"


def test_a_name_that_the_segment_size_does_not_allow_is_refused() -> None:
    with pytest.raises(ValueError):
        Segment.parse("000000010000000000000004", 1024 * MB)
    with pytest.raises(ValueError):
        Segment.parse("000000000000000000000001", 16 * MB)


@settings(derandomize=True)
@given(size=SIZES, timeline=st.integers(1, 2**32 - 1), data=st.data())
def test_every_name_reads_back(size: int, timeline: int, data: st.DataObject) -> None:
    segment = Segment(timeline, data.draw(st.integers(0, 2**64 // size - 1)), size)
    assert Segment.parse(segment.name, size) == segment
    assert Segment.holding(timeline, segment.start, size) == segment
    assert Segment.ending_at(timeline, segment.end, size) == segment


@settings(derandomize=True)
@given(size=SIZES, a=st.integers(0, 5000), b=st.integers(0, 5000), timeline=st.integers(1, 9))
def test_names_sort_as_positions_do(size: int, a: int, b: int, timeline: int) -> None:
    one, other = Segment(timeline, a, size), Segment(timeline, b, size)
    assert (one.name < other.name) == (one.start < other.start)


def test_the_segment_of_a_switch_is_taken_from_the_new_timeline() -> None:
    size = 16 * MB
    history = TimelineHistory(3, ((1, Lsn(2 * size + 500)), (2, Lsn(4 * size))))
    names = [(s.timeline, s.number) for s in along(history, Lsn(size + 40), Lsn(5 * size + 1), size)]
    assert names == [(1, 1), (2, 2), (2, 3), (3, 4), (3, 5)]


def test_two_switches_in_one_segment_leave_only_the_last() -> None:
    size = 16 * MB
    history = TimelineHistory(3, ((1, Lsn(2 * size + 500)), (2, Lsn(2 * size + 900))))
    assert [s.timeline for s in along(history, Lsn(size), Lsn(4 * size), size)] == [1, 3, 3]

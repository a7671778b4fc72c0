# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""WAL segment names for every segment size."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.dbops.fleet.plugins.module_utils.postgres import wal
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn

SIZES = st.integers(min_value=20, max_value=30).map(lambda power: 1 << power)


@settings(derandomize=True)
@given(st.integers(1, 2**32 - 1), st.integers(0, 2**63), SIZES)
def test_a_segment_holds_the_position_it_is_named_for(timeline: int, position: int, size: int) -> None:
    name = wal.segment_name(timeline, Lsn(position), size)
    assert wal.is_segment_name(name)
    found, start = wal.segment_start(name, size)
    assert found == timeline
    assert start <= position < start + size


def test_names_are_postgresql_s() -> None:
    # SELECT pg_walfile_name('1/2FF0060') with 16 MB, and with 1 MB segments
    assert wal.segment_name(3, Lsn.parse("1/2FF0060")) == "000000030000000100000002"
    assert wal.segment_name(3, Lsn.parse("1/2FF0060"), 1 << 20) == "00000003000000010000002F"


@pytest.mark.parametrize("size", [0, 3 << 20, 1 << 19, 1 << 31, -1])
def test_refuses_sizes_that_postgresql_has_not(size: int) -> None:
    with pytest.raises(ValueError, match="segment size"):
        wal.segment_name(1, Lsn(0), size)


@pytest.mark.parametrize(
    "name", ["", "00000001.history", "000000010000000000000001.partial", "00000001000000000000001g"]
)
def test_refuses_names_that_are_no_segments(name: str) -> None:
    assert not wal.is_segment_name(name)
    with pytest.raises(ValueError, match="not the name"):
        wal.segment_start(name)


def test_refuses_a_name_of_another_segment_size() -> None:
    with pytest.raises(ValueError, match="cannot be with a segment size"):
        wal.segment_start("000000010000000000000FFF")

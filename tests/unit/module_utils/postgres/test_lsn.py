# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""LSNs go from text to numbers and back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn


@settings(derandomize=True)
@given(st.integers(min_value=0, max_value=2**64 - 1))
def test_every_position_comes_back_equal(position: int) -> None:
    assert Lsn.parse(str(Lsn(position))) == position


def test_is_printed_as_postgresql_prints_it() -> None:
    assert str(Lsn.parse("16/b374d848")) == "16/B374D848"
    assert f"{Lsn(0x3000060)}" == "0/3000060"
    assert repr(Lsn(96)) == "Lsn('0/60')"


def test_differences_are_bytes_also_across_the_four_gigabyte_border() -> None:
    assert Lsn.parse("1/0") - Lsn.parse("0/FFFFFFF0") == 16
    assert Lsn.parse("1/0") > Lsn.parse("0/FFFFFFFF")


@pytest.mark.parametrize("text", ["", "0", "0/", "/0", "0/G", "0/123456789", "-1/0", "0/0/0", "0x1/0"])
def test_refuses_what_is_not_a_position(text: str) -> None:
    with pytest.raises(ValueError, match="not an LSN"):
        Lsn.parse(text)

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A segment is what its name says, or it is refused."""

from __future__ import annotations

import struct

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import WrongIdentity
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.header import WalHeader, check
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import Segment

SIZE = 16 * 1024 * 1024
SEGMENT = Segment(2, 5, SIZE)


def header(
    magic: int = 0xD110, info: int = 2, tli: int = 2, position: int = 5 * SIZE, system: int = 77, size: int = SIZE
) -> bytes:
    return struct.pack("=HHIQIxxxxQII", magic, info, tli, position, 0, system, size, 8192)


def checked(data: bytes, file_size: int = SIZE) -> None:
    check(data, SEGMENT, file_size=file_size, system_identifier=77, major=15)


def test_a_fitting_segment_passes_also_with_the_parents_timeline_in_it() -> None:
    checked(header())
    checked(header(tli=1))
    assert WalHeader.parse(header()) == WalHeader(15, 2, Lsn(5 * SIZE), 77, SIZE)


@pytest.mark.parametrize("data", [header(system=78), header(magic=0xD116), header(size=2 * SIZE)])
def test_another_cluster_version_or_segment_size_is_refused(data: bytes) -> None:
    with pytest.raises(WrongIdentity):
        checked(data)


@pytest.mark.parametrize("data", [b"", bytes(40), header(info=0), header(position=6 * SIZE), header(tli=3)])
def test_other_content_is_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        checked(data)


@pytest.mark.parametrize("size", [0, 8192, SIZE - 1, SIZE + 1])
def test_every_wrong_length_is_refused(size: int) -> None:
    with pytest.raises(Refused):
        checked(header(), size)

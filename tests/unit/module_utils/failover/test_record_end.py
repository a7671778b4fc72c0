# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a WAL record ends, over page and segment borders."""

from __future__ import annotations

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.failover.record_end import record_end
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn

SEGMENT = 16 * 1024 * 1024


@pytest.mark.parametrize(
    ("start", "length", "end"),
    [
        ("0/3000028", 114, "0/30000A0"),  # within a page, rounded up to 8 bytes
        ("0/3000028", 120, "0/30000A0"),
        ("0/3001FD0", 114, "0/3002060"),  # over a page's border: 24 bytes of header more
        ("0/3FFFFD0", 114, "0/4000070"),  # over a segment's border: 40 bytes
        ("0/3001F88", 120, "0/3002000"),  # up to the border exactly
        ("0/3001FD0", 114 + 8168, "0/3004060"),  # over two borders
    ],
)
def test_the_end_of_a_record(start: str, length: int, end: str) -> None:
    assert str(record_end(Lsn.parse(start), length, SEGMENT)) == end

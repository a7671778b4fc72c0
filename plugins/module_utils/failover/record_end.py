# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a write-ahead log record ends. Pure arithmetic over the format of WAL pages."""

from __future__ import annotations

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn

# xlog_internal.h: XLOG_BLCKSZ as Debian builds it, SizeOfXLogShortPHD and SizeOfXLogLongPHD after alignment.
PAGE = 8192
SHORT_HEADER = 24
LONG_HEADER = 40


def record_end(start: Lsn, length: int, segment_size: int) -> Lsn:
    """The position after a record: what a standby that has all of it reports as received.

    Args:
        start: where the record's header begins.
        length: its total length in bytes, as pg_waldump prints it ("rec/tot": the second number).
        segment_size: of WAL segments, in bytes; a segment's first page has a longer header.

    >>> str(record_end(Lsn.parse("0/3000028"), 114, 16 * 1024 * 1024))
    '0/30000A0'
    """
    position, left = int(start), length
    while True:
        on_page = min(left, PAGE - position % PAGE)
        position, left = position + on_page, left - on_page
        if left == 0:
            return Lsn((position + 7) // 8 * 8)
        position += LONG_HEADER if position % segment_size == 0 else SHORT_HEADER

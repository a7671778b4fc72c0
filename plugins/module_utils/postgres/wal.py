# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""WAL segment file names: from LSN and timeline and back, for every segment size."""

from __future__ import annotations

import re

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn

DEFAULT_SEGMENT_SIZE = 16 * 1024 * 1024
_NAME = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")


def check_segment_size(size: int) -> None:
    """Raises ValueError unless PostgreSQL allows this segment size: a power of two between 1 MiB and 1 GiB."""
    if not 1 << 20 <= size <= 1 << 30 or size & (size - 1):
        raise ValueError(f"{size} bytes is no WAL segment size: a power of two between 1 MiB and 1 GiB is needed")


def is_segment_name(name: str) -> bool:
    """Whether this is the name of a complete segment (no `.partial`, no `.history`, no backup label)."""
    return _NAME.fullmatch(name) is not None


def segment_name(timeline: int, lsn: Lsn, segment_size: int = DEFAULT_SEGMENT_SIZE) -> str:
    """The segment that the byte at this position is in."""
    check_segment_size(segment_size)
    number = lsn // segment_size
    # The middle and last part are what was once called log and segment: together 4 GiB per log.
    per_log = (1 << 32) // segment_size
    return f"{timeline:08X}{number // per_log:08X}{number % per_log:08X}"


def segment_start(name: str, segment_size: int = DEFAULT_SEGMENT_SIZE) -> tuple[int, Lsn]:
    """The timeline of a segment and the position of its first byte.

    Raises:
        ValueError: not a segment's name, or one that cannot be with this segment size.
    """
    check_segment_size(segment_size)
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"not the name of a WAL segment: {name!r}")
    per_log = (1 << 32) // segment_size
    timeline, log, segment = (int(part, 16) for part in match.groups())
    if segment >= per_log:
        raise ValueError(f"WAL segment {name} cannot be with a segment size of {segment_size} bytes")
    return timeline, Lsn((log * per_log + segment) * segment_size)

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""WAL segments: their names and their arithmetic. The segment size is a fact of the cluster, never assumed."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import TimelineHistory

_SEGMENT = re.compile(r"[0-9A-F]{24}")
_PARTIAL = re.compile(r"[0-9A-F]{24}\.partial")
_HISTORY = re.compile(r"[0-9A-F]{8}\.history")
_LABEL = re.compile(r"[0-9A-F]{24}\.[0-9A-F]{8}\.backup")


class Kind(enum.Enum):
    """What PostgreSQL hands to `archive_command`, by the form of its name."""

    SEGMENT = "segment"
    PARTIAL = "partial"
    HISTORY = "history"
    LABEL = "label"


def kind_of(name: str) -> Kind:
    """Raises ValueError for a name that PostgreSQL does not archive."""
    for kind, form in (
        (Kind.SEGMENT, _SEGMENT),
        (Kind.PARTIAL, _PARTIAL),
        (Kind.HISTORY, _HISTORY),
        (Kind.LABEL, _LABEL),
    ):
        if form.fullmatch(name):
            return kind
    raise ValueError(f"not the name of a WAL file: {name!r}")


@dataclass(frozen=True, order=True)
class Segment:
    """One segment of one timeline.

    Attributes:
        timeline: from 1.
        number: counted from the beginning of the write-ahead log; segment n begins at LSN n * size.
        size: bytes, `wal_segment_size` of the cluster.
    """

    timeline: int
    number: int
    size: int

    @classmethod
    def parse(cls, name: str, size: int) -> Segment:
        """From a file name (also that of a partial segment or a backup label).

        Raises:
            ValueError: not such a name, or one that cannot exist with this segment size.
        """
        if not _SEGMENT.match(name):
            raise ValueError(f"not the name of a WAL segment: {name!r}")
        timeline, log, offset = int(name[:8], 16), int(name[8:16], 16), int(name[16:24], 16)
        if offset >= _per_log(size) or timeline == 0:
            raise ValueError(f"{name} cannot be a WAL segment of {size} bytes")
        return cls(timeline, log * _per_log(size) + offset, size)

    @classmethod
    def holding(cls, timeline: int, lsn: Lsn, size: int) -> Segment:
        """The segment that this position lies in; a position at a boundary lies in the later one."""
        return cls(timeline, int(lsn) // size, size)

    @classmethod
    def ending_at(cls, timeline: int, lsn: Lsn, size: int) -> Segment:
        """The last segment with bytes before this position: what is needed to replay up to it."""
        return cls(timeline, max(int(lsn) - 1, 0) // size, size)

    @property
    def name(self) -> str:
        return f"{self.timeline:08X}{self.number // _per_log(self.size):08X}{self.number % _per_log(self.size):08X}"

    @property
    def start(self) -> Lsn:
        return Lsn(self.number * self.size)

    @property
    def end(self) -> Lsn:
        """The position after its last byte."""
        return Lsn((self.number + 1) * self.size)


def along(history: TimelineHistory, start: Lsn, end: Lsn, size: int) -> Iterator[Segment]:
    """The segments that replay from `start` to `end` reads on the way to a timeline, in order.

    The segment in which one timeline is left for the next exists on both; the newer copy holds the bytes of both and
    is the one that PostgreSQL asks for first, so it is the one named here.
    """
    timelines = history.timelines
    begins = [0] + [int(switch) // size for _timeline, switch in history.switches]
    current = 0
    for number in range(int(start) // size, Segment.ending_at(1, end, size).number + 1):
        while current + 1 < len(timelines) and begins[current + 1] <= number:
            current += 1
        yield Segment(timelines[current], number, size)


def _per_log(size: int) -> int:
    return 0x1_0000_0000 // size

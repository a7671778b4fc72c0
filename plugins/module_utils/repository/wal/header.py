# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first bytes of a WAL segment, and whether they belong where the file's name says.

Format: XLogLongPageHeaderData in PostgreSQL's src/include/access/xlog_internal.h, in the byte order of the machine.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import WrongIdentity
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import Segment

LONG_HEADER_BYTES = 40
_LAYOUT = struct.Struct("=HHIQIxxxxQII")
_HAS_LONG_HEADER = 0x0002
# XLOG_PAGE_MAGIC of each major version.
_MAJOR_BY_MAGIC = {0xD106: 13, 0xD10D: 14, 0xD110: 15, 0xD113: 16, 0xD116: 17, 0xD118: 18}


@dataclass(frozen=True)
class WalHeader:
    """What a segment says of itself.

    Attributes:
        major: PostgreSQL's major version; None for one that is not known here.
        timeline: of the first page. In the first segment of a new timeline it is still the old one.
        position: LSN of the first page.
        system_identifier: of the cluster.
        segment_size: bytes.
    """

    major: int | None
    timeline: int
    position: Lsn
    system_identifier: int
    segment_size: int

    @classmethod
    def parse(cls, data: bytes) -> WalHeader:
        """Raises ValueError when these are not the first bytes of a segment."""
        if len(data) < LONG_HEADER_BYTES:
            raise ValueError(f"only {len(data)} bytes")
        magic, info, timeline, position, _rest, system, size, _block = _LAYOUT.unpack(data[:LONG_HEADER_BYTES])
        if not info & _HAS_LONG_HEADER or magic & 0xFF00 != 0xD100:
            raise ValueError("no WAL page header")
        return cls(_MAJOR_BY_MAGIC.get(magic), timeline, Lsn(position), system, size)


def check(first_bytes: bytes, segment: Segment, *, file_size: int, system_identifier: int, major: int) -> None:
    """Refuse a segment that is not the one that its name promises.

    Args:
        first_bytes: at least LONG_HEADER_BYTES of the file.
        segment: from the file's name.
        file_size: bytes.
        system_identifier: of the cluster that the repository keeps.
        major: its PostgreSQL version.

    Raises:
        WrongIdentity: it belongs to another cluster or version.
        Refused: it is cut short, or its content is that of another segment.
    """
    if file_size != segment.size:
        raise Refused(f"{segment.name} has {file_size} bytes, a WAL segment of this cluster has {segment.size}")
    try:
        header = WalHeader.parse(first_bytes)
    except ValueError as error:
        raise Refused(f"{segment.name} is no WAL segment: {error}") from None
    if header.system_identifier != system_identifier:
        raise WrongIdentity(
            f"{segment.name} belongs to the cluster with system identifier {header.system_identifier}, "
            f"the repository keeps {system_identifier}",
            remedy="Give every cluster a repository of its own; after an upgrade run `dbops init` once on the primary.",
        )
    if header.major is not None and header.major != major:
        raise WrongIdentity(
            f"{segment.name} was written by PostgreSQL {header.major}, the repository keeps version {major}"
        )
    if header.segment_size != segment.size:
        raise WrongIdentity(
            f"{segment.name} says wal_segment_size {header.segment_size}, the repository {segment.size}"
        )
    if header.position != segment.start or header.timeline > segment.timeline:
        raise Refused(
            f"{segment.name} holds the WAL of position {header.position} on timeline {header.timeline}, "
            f"not of {segment.start} on {segment.timeline}"
        )

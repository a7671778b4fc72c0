# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tail: WAL that is in the repository before its segment is full, in pieces. Decides only.

A piece is a range of bytes of one segment. Pieces never touch the archive's own objects: a full segment always wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import ContentConflict
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import Segment

_KEY = re.compile(
    r"[0-9]+/tail/(?P<segment>[0-9A-F]{24})/(?P<start>[0-9A-F]{8})\.(?P<end>[0-9A-F]{8})"
    r"-(?P<sha256>[0-9a-f]{64})\.zst(\.sealed)?"
)
# With more than so many segments to send, the archiver is left to catch up: it sends the same bytes.
BEHIND_SEGMENTS = 4


@dataclass(frozen=True)
class Piece:
    """Bytes `start` to `end` of a segment.

    Attributes:
        segment: it belongs to.
        start, end: offsets in the segment; `end` is not part of it.
        sha256: of these bytes.
        key: of the object.
        arrived: seconds since the epoch, by the store's clock.
    """

    segment: Segment
    start: int
    end: int
    sha256: str
    key: str
    arrived: float


def prefix(system: int) -> str:
    return f"{system}/tail/"


def key(system: int, segment: Segment, start: int, end: int, sha256: str, *, sealed: bool) -> str:
    """The name of a piece's object."""
    return f"{prefix(system)}{segment.name}/{start:08X}.{end:08X}-{sha256}.zst{'.sealed' if sealed else ''}"


def parse(name: str, arrived: float, size: int) -> Piece | None:
    """A piece from its key; None for anything else. Args: size: bytes of a segment."""
    match = _KEY.fullmatch(name)
    if match is None:
        return None
    start, end = int(match["start"], 16), int(match["end"], 16)
    try:
        segment = Segment.parse(match["segment"], size)
    except ValueError:
        return None
    return Piece(segment, start, end, match["sha256"], name, arrived) if start < end <= size else None


def chain(pieces: Iterable[Piece], segment: Segment) -> tuple[Piece, ...]:
    """The pieces that make up the segment from its first byte on, as far as they go.

    Raises:
        ContentConflict: two servers sent different bytes for the same range.
    """
    mine = [piece for piece in pieces if piece.segment == segment]
    known: dict[tuple[int, int], str] = {}
    for piece in mine:
        if known.setdefault((piece.start, piece.end), piece.sha256) != piece.sha256:
            raise ContentConflict(
                f"Bytes {piece.start} to {piece.end} of {segment.name} were received with two contents",
                remedy="Find out which server was the real primary and delete the other one's object by hand.",
            )
    longest: dict[int, Piece] = {}
    for piece in mine:
        if piece.start not in longest or longest[piece.start].end < piece.end:
            longest[piece.start] = piece
    found: list[Piece] = []
    position = 0
    while position in longest:
        found.append(longest[position])
        position = longest[position].end
    return tuple(found)


def received(pieces: Iterable[Piece]) -> dict[Segment, tuple[int, float]]:
    """For each segment with pieces: how many bytes there are from its beginning, and when the last of them arrived.

    A segment whose pieces contradict each other counts as not received.
    """
    every = list(pieces)
    found = {}
    for segment in {piece.segment for piece in every}:
        try:
            parts = chain(every, segment)
        except ContentConflict:
            continue
        if parts:
            found[segment] = (parts[-1].end, max(part.arrived for part in parts))
    return found


def reach(held: Mapping[Segment, tuple[int, float]], timeline: int, end: Lsn, size: int) -> tuple[Lsn, float] | None:
    """How far the tail goes on from where the archive ends.

    Args:
        held: as `received` gives it.
        timeline: that is followed to.
        end: of the archive, the end of a segment.
        size: bytes of a segment.

    Returns:
        Position and time of arrival; None when there is nothing behind `end`.
    """
    number, found = int(end) // size, None
    while (known := held.get(Segment(timeline, number, size))) is not None:
        length, arrived = known
        found = (Lsn(number * size + length), arrived)
        if length < size:
            break
        number += 1
    return found


def begin(timeline: int, flushed: Lsn, before: tuple[int, Lsn] | None, size: int) -> Lsn:
    """Where sending goes on.

    Args:
        timeline: the server's.
        flushed: up to which its WAL is on disk.
        before: timeline and position of the last piece that was sent; None at first.
        size: bytes of a segment.
    """
    current = Segment.holding(timeline, flushed, size).start
    if before is None or before[0] != timeline or before[1] > flushed:
        return current
    return before[1] if flushed - before[1] <= BEHIND_SEGMENTS * size else current

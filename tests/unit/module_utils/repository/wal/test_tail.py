# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""WAL received before its segment is full: which pieces make a segment, how far they reach, where sending goes on."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import ContentConflict
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal import tail
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import Segment

SIZE = 16 << 20
SEGMENT = Segment(1, 5, SIZE)


def piece(start: int, end: int, *, content: str = "", segment: Segment = SEGMENT, arrived: float = 1.0) -> tail.Piece:
    sha256 = hashlib.sha256(f"{start} {end} {content}".encode()).hexdigest()
    return tail.Piece(segment, start, end, sha256, tail.key(7, segment, start, end, sha256, sealed=False), arrived)


@given(
    start=st.integers(0, SIZE - 1), length=st.integers(1, SIZE), sealed=st.booleans(), number=st.integers(1, 1 << 20)
)
def test_the_key_of_a_piece_says_what_it_is(start: int, length: int, sealed: bool, number: int) -> None:
    segment, sha256 = Segment(3, number, SIZE), "ab" * 32
    key = tail.key(7, segment, start, start + length, sha256, sealed=sealed)
    parsed = tail.parse(key, 9.0, SIZE)
    if start + length > SIZE:
        assert parsed is None
    else:
        assert parsed == tail.Piece(segment, start, start + length, sha256, key, 9.0)


@pytest.mark.parametrize("key", ["7/tail/x", "7/wal/00000001/00000000/000000010000000000000005-claim", "7/tail/"])
def test_other_objects_are_no_pieces(key: str) -> None:
    assert tail.parse(key, 1.0, SIZE) is None


@given(cuts=st.sets(st.integers(1, SIZE - 1), max_size=8), lost=st.integers(0, 9), seed=st.randoms())
def test_pieces_in_any_order_reach_to_the_first_that_is_missing(cuts: set[int], lost: int, seed: object) -> None:
    edges = [0, *sorted(cuts), SIZE]
    made = [piece(start, end) for start, end in itertools.pairwise(edges)]
    kept = [one for number, one in enumerate(made) if number != lost]
    expected = made[:lost]
    seed.shuffle(kept)  # type: ignore[attr-defined]
    assert list(tail.chain(kept, SEGMENT)) == expected
    held = tail.received(kept)
    assert held.get(SEGMENT, (0, 1.0))[0] == (expected[-1].end if expected else 0)


def test_a_receiver_that_began_the_segment_again_is_followed_to_the_longest() -> None:
    assert tail.chain([piece(0, 100), piece(100, 200), piece(0, 150)], SEGMENT)[-1].end == 150
    assert tail.chain([piece(0, 100), piece(0, 150), piece(150, 300)], SEGMENT)[-1].end == 300


def test_two_servers_that_sent_different_bytes_are_a_conflict_and_count_as_nothing() -> None:
    both = [piece(0, 100), piece(0, 100, content="other")]
    with pytest.raises(ContentConflict, match="two contents"):
        tail.chain(both, SEGMENT)
    assert tail.received(both) == {}


def test_the_tail_goes_on_from_the_end_of_the_archive_alone() -> None:
    full, part = Segment(1, 5, SIZE), Segment(1, 6, SIZE)
    held = {full: (SIZE, 10.0), part: (4096, 12.0)}
    assert tail.reach(held, 1, full.start, SIZE) == (part.start + 4096, 12.0)
    assert tail.reach(held, 1, part.start, SIZE) == (part.start + 4096, 12.0)
    assert tail.reach(held, 1, part.end, SIZE) is None
    assert tail.reach(held, 2, full.start, SIZE) is None
    assert tail.reach({full: (SIZE - 1, 10.0), part: (4096, 12.0)}, 1, full.start, SIZE) == (full.end - 1, 10.0)


def test_sending_goes_on_where_it_was_unless_it_cannot() -> None:
    flushed = Lsn(SIZE * 5 + 4096)
    start = Segment(1, 5, SIZE).start
    assert tail.begin(1, flushed, None, SIZE) == start
    assert tail.begin(1, flushed, (1, Lsn(SIZE * 5 + 100)), SIZE) == SIZE * 5 + 100
    assert tail.begin(1, flushed, (1, Lsn(SIZE * 4)), SIZE) == SIZE * 4
    # Another timeline, a position that is gone, or too far behind: the archiver has the rest.
    assert tail.begin(2, flushed, (1, Lsn(SIZE * 5 + 100)), SIZE) == start
    assert tail.begin(1, flushed, (1, Lsn(SIZE * 6)), SIZE) == start
    assert tail.begin(1, Lsn(SIZE * 50), (1, Lsn(SIZE)), SIZE) == SIZE * 50

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sealing: what is opened is what was sealed, and nothing else opens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import ObjectCorrupt
from ansible_collections.dbops.fleet.plugins.module_utils.repository.seal import DataKey, key_id, seal, unseal

KEY = DataKey("0123456789abcdef", bytes(range(32)), bytes(range(32, 64)))


@settings(derandomize=True)
@given(st.binary(max_size=5000))
def test_what_was_sealed_comes_back(data: bytes) -> None:
    sealed = seal(data, KEY)
    assert unseal(sealed, KEY) == data
    assert key_id(sealed) == KEY.id
    assert len(sealed) == len(data) + 72


@settings(derandomize=True)
@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_single_flipped_bit_anywhere_is_found(data: bytes, draw: st.DataObject) -> None:
    sealed = bytearray(seal(data, KEY))
    position = draw.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[position // 8] ^= 1 << position % 8
    with pytest.raises(ObjectCorrupt):
        unseal(bytes(sealed), KEY)


def test_two_seals_of_one_content_differ() -> None:
    assert seal(b"x" * 100, KEY) != seal(b"x" * 100, KEY)


def test_a_cut_object_or_another_key_is_refused() -> None:
    sealed = seal(b"content", KEY)
    for cut in range(len(sealed)):
        with pytest.raises(ObjectCorrupt):
            unseal(sealed[:cut], KEY)
    with pytest.raises(ObjectCorrupt):
        unseal(sealed, DataKey.generate())


def test_a_key_reads_back_and_never_shows_in_messages() -> None:
    key = DataKey.generate()
    assert DataKey.parse(key.text()) == key
    assert key.encryption.hex() not in repr(key)
    with pytest.raises(ValueError):
        DataKey.parse("id=1\nencryption=00\n")

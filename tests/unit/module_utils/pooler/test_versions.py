# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Versions as text and as features."""

from __future__ import annotations

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.pooler.versions import has, parse_version


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("PgBouncer 1.18.0", (1, 18, 0)),
        ("PgBouncer 1.24.1\nlibevent 2.1", (1, 24, 1)),
        ("1.25", (1, 25, 0)),
        ("", (0, 0, 0)),
    ],
)
def test_reads_versions_as_numbers(text: str, version: tuple[int, int, int]) -> None:
    assert parse_version(text) == version


def test_debian_12_and_13_differ() -> None:
    features = ("show_state", "peers", "load_balance_hosts", "kill_client", "kill_everything")
    assert [has((1, 18, 0), feature) for feature in features] == [False] * 5
    assert [has((1, 24, 1), feature) for feature in features] == [True] * 4 + [False]

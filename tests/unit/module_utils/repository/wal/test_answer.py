# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What restore_command answers, for every case there is."""

from __future__ import annotations

import itertools

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.answer import Found, exit_code

SEGMENT, HISTORY = "000000010000000000000001", "00000002.history"


@pytest.mark.parametrize(
    ("found", "name", "standby"), list(itertools.product(Found, (SEGMENT, HISTORY), (False, True)))
)
def test_only_a_proven_absence_looks_like_the_end_of_the_archive(found: Found, name: str, standby: bool) -> None:
    code = exit_code(found, name, standby=standby)
    if found is Found.DELIVERED:
        assert code == 0
    elif found is Found.ABSENT or standby or (found is Found.GAP and name == HISTORY):
        assert code == 1
    else:
        assert code == 126

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two members whose timers begin a backup at the same moment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.repository.backup.take import _begin_alone
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import AnotherBegan
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import Repository
from ansible_collections.dbops.fleet.plugins.module_utils.repository.shelf import Shelf
from ansible_collections.dbops.fleet.plugins.module_utils.repository.store.directory import DirectoryStore

FIRST, SECOND = "20260301-020000I", "20260301-020001F"


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(Repository("local", DirectoryStore(tmp_path), None), 1)


def begun(shelf: Shelf) -> list[str]:
    return [one.backup for one in shelf.unfinished()]


def test_the_later_one_steps_back_and_leaves_no_trace(shelf: Shelf) -> None:
    _begin_alone(shelf, FIRST, None)
    with pytest.raises(AnotherBegan, match=FIRST):
        _begin_alone(shelf, SECOND, None)
    assert begun(shelf) == [FIRST]


def test_the_earlier_one_goes_on_when_it_sees_the_later_one(shelf: Shelf) -> None:
    _begin_alone(shelf, SECOND, None)
    _begin_alone(shelf, FIRST, None)
    assert begun(shelf) == [FIRST, SECOND]


def test_of_two_with_the_same_id_one_steps_back(shelf: Shelf) -> None:
    _begin_alone(shelf, FIRST, None)
    with pytest.raises(AnotherBegan):
        _begin_alone(shelf, FIRST, None)
    assert begun(shelf) == [FIRST]


def test_what_broke_off_long_ago_and_what_an_operator_wants_are_no_reason_to_step_back(
    shelf: Shelf, tmp_path: Path
) -> None:
    _begin_alone(shelf, FIRST, None)
    shelf.begin(SECOND, None)
    for path in tmp_path.rglob("begun.json"):
        os.utime(path, (1, 1))
    _begin_alone(shelf, "20260301-030000F", None)

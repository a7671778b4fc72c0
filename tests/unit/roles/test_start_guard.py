# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard that keeps an old primary out when its host comes back."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import itertools
from pathlib import Path
from types import ModuleType

import pytest

GUARD = Path(__file__).resolve().parents[3] / "roles/postgres_server/files/usr/lib/dbops-fleet/start-guard"
OURS, THEIRS = "7000000000000000001", "7000000000000000002"


@pytest.fixture(scope="module")
def guard() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("start_guard", str(GUARD))
    spec = importlib.util.spec_from_loader("start_guard", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_refuses_beside_a_member_that_takes_writes(guard: ModuleType) -> None:
    found = guard.objection([guard.Answer("db2", True, False, 2, OURS)], 1, OURS)
    assert "db2 takes writes on timeline 2" in found


def test_refuses_beside_a_replica_of_a_newer_timeline(guard: ModuleType) -> None:
    found = guard.objection([guard.Answer("db3", True, True, 2, OURS)], 1, OURS)
    assert "db3 follows timeline 2" in found


def test_starts_with_replicas_of_its_own_timeline_and_when_nobody_answers(guard: ModuleType) -> None:
    silent = [guard.Answer("db2", False), guard.Answer("db3", True)]
    followers = [guard.Answer("db2", True, True, 1, OURS), guard.Answer("db3", True, True, None, OURS)]
    assert guard.objection(silent, 1, OURS) is None
    assert guard.objection(followers, 1, OURS) is None


def test_is_not_held_up_by_another_cluster_at_a_members_address(guard: ModuleType) -> None:
    assert guard.objection([guard.Answer("db2", True, False, 9, THEIRS)], 1, OURS) is None


def test_one_objection_is_enough_in_any_company(guard: ModuleType) -> None:
    others = [
        guard.Answer("db2", False),
        guard.Answer("db2", True, True, 1, OURS),
        guard.Answer("db2", True, False, 9, THEIRS),
    ]
    writer = guard.Answer("db4", True, False, 2, OURS)
    for company in itertools.permutations([*others, writer]):
        assert guard.objection(list(company), 1, OURS)


def test_a_primary_that_lost_its_power_right_after_its_promotion_is_on_the_new_timeline(guard: ModuleType) -> None:
    control = {"Latest checkpoint's TimeLineID": "1", "Min recovery ending loc's timeline": "2"}
    assert guard.own_timeline(control) == 2
    assert guard.own_timeline(control | {"Min recovery ending loc's timeline": "0"}) == 1

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard that keeps an old primary out when its host comes back."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import itertools
import json
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
    assert "db2 takes writes on timeline 2" in found.reason
    assert found.stale is None
    assert guard.objection([guard.Answer("db2", True, False, 1, OURS)], 1, OURS).stale is None


def test_refuses_beside_a_replica_of_a_newer_timeline(guard: ModuleType) -> None:
    found = guard.objection([guard.Answer("db3", True, True, 2, OURS)], 1, OURS)
    assert "db3 follows timeline 2" in found.reason
    assert guard.remedy(found, "orders", "postgresql@17-main").endswith("rejoin -e fleet_cluster=orders")


def test_names_a_writer_on_an_older_timeline_as_what_has_to_be_stopped(guard: ModuleType) -> None:
    stale = guard.Answer("db1", True, False, 1, OURS)
    found = guard.objection([stale, guard.Answer("db3", True, True, 2, OURS)], 2, OURS)
    assert found.stale == "db1"
    said = guard.remedy(found, "orders", "postgresql@17-main")
    assert "Stop PostgreSQL there (systemctl stop postgresql@17-main), then start this one" in said
    assert said.endswith("-e fleet_rejoin_member=db1")


def test_does_not_call_a_writer_stale_when_it_is_behind_another_member_itself(guard: ModuleType) -> None:
    answers = [guard.Answer("db1", True, False, 1, OURS), guard.Answer("db3", True, True, 3, OURS)]
    for order in itertools.permutations(answers):
        found = guard.objection(list(order), 2, OURS)
        assert found == guard.Objection("db3 follows timeline 3, this host is on timeline 2")


def test_waits_for_every_member_right_after_boot_and_for_anybody_at_other_times(guard: ModuleType) -> None:
    up, starting, away = guard.Answer("db2", True, True, 1, OURS), guard.Answer("db3", True), guard.Answer("db4", False)
    assert guard.enough([up, up], booted=True)
    assert not guard.enough([up, starting], booted=True)
    assert guard.enough([starting, away], booted=False)
    assert not guard.enough([away, away], booted=False)


def test_asks_again_after_boot_until_a_replica_that_was_starting_objects(
    guard: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([guard.Answer("db3", True), guard.Answer("db3", True), guard.Answer("db3", True, True, 2, OURS)])
    monkeypatch.setattr(guard, "ask", lambda _peer: next(answers))
    monkeypatch.setattr(guard.time, "sleep", lambda _seconds: None)
    assert "db3 follows timeline 2" in guard.ask_all([{"name": "db3"}], 1, OURS, booted=True).reason


def test_starts_when_the_time_is_up(guard: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "ask", lambda _peer: guard.Answer("db3", False))
    monkeypatch.setattr(guard, "WAIT_SECONDS", -1.0)
    assert guard.ask_all([{"name": "db3"}], 1, OURS, booted=True) is None


def test_knows_how_long_ago_the_host_booted(guard: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BOOT_SECONDS", 0.0)
    assert not guard.just_booted()
    monkeypatch.setattr(guard, "BOOT_SECONDS", 1e9)
    assert guard.just_booted()


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


@pytest.mark.parametrize(("timeline", "asks"), [("1", False), ("2", True)])
def test_does_not_ask_before_the_first_start_of_new_data(
    guard: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timeline: str, asks: bool
) -> None:
    asked: list[object] = []
    facts = {"cluster": "orders", "system_identifier": None, "peers": [{"name": "db2"}]}
    (tmp_path / "instance-17-main.json").write_text(json.dumps(facts))
    monkeypatch.setattr(guard, "Path", lambda path: tmp_path / Path(path).name)
    labels = ("Latest checkpoint's TimeLineID", "Min recovery ending loc's timeline", "Database system identifier")
    monkeypatch.setattr(guard, "control_data", lambda *_: dict(zip(labels, (timeline, "0", OURS), strict=True)))
    monkeypatch.setattr(guard, "just_booted", lambda: False)
    monkeypatch.setattr(guard, "ask_all", lambda *arguments: asked.append(arguments))
    assert guard.main("17", "main") == 0
    assert bool(asked) == asks

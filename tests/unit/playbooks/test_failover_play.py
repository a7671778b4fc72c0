# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which tasks of failover.yml a host gets, whatever it is at the same time: lost primary, member, pooler."""

from __future__ import annotations

from typing import Any

import pytest
from jinja2.nativetypes import NativeEnvironment

from ansible_collections.dbops.fleet.tests.support.house import CHECKOUT, load_yaml

JINJA = NativeEnvironment()
PLAY = next(
    play for play in load_yaml(CHECKOUT / "playbooks/failover.yml") if play["name"].startswith("Hold clients and fence")
)
POOLERS = ["db1", "pool1"]


def value(text: str, known: dict[str, Any]) -> Any:
    return JINJA.from_string(text).render(known)


def tasks_of(host: str, action: str, *, answers: bool) -> list[str]:
    """Names of the play's top tasks that this host runs; db1 is the primary."""
    known: dict[str, Any] = {
        "ansible_check_mode": False,
        "inventory_hostname": host,
        "__fleet_cluster_poolers": POOLERS,
        "__fleet_plan": {"action": action, "primary": "db1"},
    }
    if answers:
        known["__fleet_sight"] = {"sight": {"vantage": host}}
    for name in ("__fleet_answers", "__fleet_holds"):
        known[name] = value(PLAY["vars"][name], known)
    first, *rest = PLAY["tasks"]
    assert first["ansible.builtin.meta"] == "end_host"
    if value("{{ " + first["when"] + " }}", known):
        return []
    return [task["name"] for task in rest if value("{{ " + task["when"] + " }}", known)]


@pytest.mark.parametrize("answers", [False, True], ids=["dead", "answers"])
def test_a_lost_primary_that_is_a_pooler_too_is_fenced_and_holds_its_clients_if_it_can(answers: bool) -> None:
    held = ["Hold clients"] if answers else []
    assert tasks_of("db1", "fail_over", answers=answers) == [*held, "Fence the old primary"]


def test_a_crashed_primary_that_is_a_pooler_too_is_started_again() -> None:
    assert tasks_of("db1", "restart", answers=True) == ["Start PostgreSQL again where it only crashed"]


def test_a_pooler_holds_clients_only_in_a_failover_and_only_where_it_answers() -> None:
    assert tasks_of("pool1", "fail_over", answers=True) == ["Hold clients"]
    assert tasks_of("pool1", "fail_over", answers=False) == []
    assert tasks_of("pool1", "restart", answers=True) == []
    assert tasks_of("pool1", "finish", answers=True) == []


def test_other_members_are_left_alone() -> None:
    for action in ("fail_over", "restart", "finish"):
        assert tasks_of("db2", action, answers=True) == []

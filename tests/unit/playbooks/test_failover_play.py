# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which tasks of failover.yml a host gets, whatever it is at the same time: lost primary, member, pooler.

And what its report says of the poolers.
"""

from __future__ import annotations

from typing import Any

import pytest
from jinja2.nativetypes import NativeEnvironment

from ansible_collections.dbops.fleet.tests.support.house import CHECKOUT, load_yaml, tasks_in

JINJA = NativeEnvironment()
PLAYBOOK = CHECKOUT / "playbooks/failover.yml"
PLAYS = {play["name"]: play for play in load_yaml(PLAYBOOK)}
PLAY = PLAYS["Hold clients and fence the old primary"]
POOLERS = ["db1", "pool1"]


def value(text: str, known: dict[str, Any]) -> Any:
    return JINJA.from_string(text).render(known)


def tasks_of(host: str, action: str, *, answers: bool, **primary: Any) -> list[str]:
    """Names of the play's top tasks that this host runs; db1 is the primary, with these variables."""
    known: dict[str, Any] = {
        "ansible_check_mode": False,
        "inventory_hostname": host,
        "hostvars": {"db1": primary},
        "__fleet_cluster_poolers": POOLERS,
        "__fleet_plan": {"action": action, "primary": "db1"},
    }
    if answers:
        known["__fleet_sight"] = {"sight": {"vantage": host}}
    for name in ("__fleet_answers", "__fleet_holds"):
        known[name] = value(PLAY["vars"][name], known)
    known["__fleet_only_way_in"] = primary.get("fencing_poolers_are_the_only_way_in", False)
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


def test_poolers_that_are_the_only_way_in_are_looked_at_after_they_hold_clients() -> None:
    declared = {"fencing_poolers_are_the_only_way_in": True}
    looked = "See whether anything still goes through to the old primary"
    noted = "Note when the time of this pooler's dead-man begins"
    assert tasks_of("pool1", "fail_over", answers=True, **declared) == [noted, "Hold clients", looked]
    assert tasks_of("pool1", "fail_over", answers=False, **declared) == []
    assert tasks_of("db1", "fail_over", answers=False, **declared) == ["Fence the old primary"]


def test_a_pooler_that_was_not_looked_at_is_no_part_of_the_fence() -> None:
    cut = {"pooler": "pool1", "paused": True, "servers": 0, "error": None}
    known = {
        "__fleet_cluster_poolers": ["pool1", "pool2", "pool3"],
        "hostvars": {
            "pool1": {"__fleet_cut": {"cut": cut}},
            "pool2": {"__fleet_cut": {"msg": "no socket"}},
            "pool3": {},
        },
    }
    assert value(PLAYS["Promote"]["vars"]["__fleet_cuts"], known) == [
        cut,
        {"pooler": "pool2", "error": "no socket"},
        {"pooler": "pool3", "error": "it does not answer"},
    ]


@pytest.mark.parametrize(
    ("action", "state", "concerned"),
    [
        ("fail_over", "ok", True),
        ("fail_over", "refused", True),
        ("put_back", "rolled_back", True),
        ("fail_over", "needs_operator", False),
        ("restart", None, False),
    ],
)
def test_poolers_are_pointed_again_after_every_end_that_is_known(action: str, state: str, concerned: bool) -> None:
    leave_out = PLAYS["Let clients go"]["tasks"][0]
    known = {
        "ansible_check_mode": False,
        "inventory_hostname": "pool1",
        "__fleet_cluster_poolers": POOLERS,
        "__fleet_plan": {"action": action},
        "__fleet_sight": {"sight": {}},
        "__fleet_end": {"state": state} if state else {},
    }
    assert value("{{ " + leave_out["when"] + " }}", known) is not concerned


def test_other_members_are_left_alone() -> None:
    for action in ("fail_over", "restart", "finish"):
        assert tasks_of("db2", action, answers=True) == []


def problems(**pool1: Any) -> Any:
    """What the report says of a pooler with these results of its tasks."""
    known = {"__fleet_cluster_poolers": ["pool1"], "hostvars": {"pool1": pool1}}
    return value(PLAYS["Report"]["vars"]["__fleet_pooler_problems"], known)


def test_a_pooler_that_was_pointed_and_let_its_clients_go_is_no_problem() -> None:
    assert problems(__fleet_pointed={"running": True}, __fleet_let_go={}) == []
    assert problems() == []


def test_a_pooler_without_a_process_to_reload_is_named() -> None:
    (found,) = problems(__fleet_pointed={"running": False}, __fleet_let_go={"skipped": True})
    assert found.startswith("pool1: PgBouncer does not run.")


def test_a_pooler_that_could_not_hold_its_clients_is_named_once() -> None:
    killed = {"msg": "no answer"}
    assert problems(__fleet_killed=killed, __fleet_pointed={"running": True}) == [
        "pool1: its clients could not be held while the old primary was fenced: no answer"
    ]
    (found,) = problems(__fleet_killed=killed, __fleet_pointed={"msg": "still none."})
    assert found.startswith("pool1: still none. Its clients may still have the old primary")


@pytest.mark.parametrize("name", ["failover.yml", "switchover.yml", "rejoin.yml", "tasks/recovery_poolers.yml"])
def test_every_process_of_a_pooler_is_told(name: str) -> None:
    module = "dbops.fleet.pgbouncer_pool"
    told = [task.body[module] for task in tasks_in(CHECKOUT / "playbooks" / name) if module in task.body]
    assert told
    assert all(options["endpoints"] == "{{ __fleet_pooler_endpoints }}" for options in told)


@pytest.mark.parametrize(("processes", "hosts"), [(1, []), (2, ["/run/pgbouncer-1", "/run/pgbouncer-2"])])
def test_several_processes_have_a_socket_directory_each(processes: int, hosts: list[str]) -> None:
    text = load_yaml(CHECKOUT / "playbooks/vars/pooler_endpoints.yml")["__fleet_pooler_endpoints"]
    found = value(text, {"inventory_hostname": "pool1", "pgbouncer_processes": processes})
    assert [endpoint["host"] for endpoint in found] == hosts
    assert all(endpoint["port"] == 6432 for endpoint in found)


def test_workers_are_told_each_process_of_a_pooler() -> None:
    text = load_yaml(CHECKOUT / "playbooks/vars/role_change.yml")["__fleet_pooler_processes"]
    hostvars = {"pool1": {"ansible_host": "10.0.0.1"}, "pool2": {"ansible_host": "10.0.0.2", "pgbouncer_processes": 2}}
    names = {"__fleet_cluster_poolers": ["pool1", "pool2"], "__fleet_cluster_entries": [{"name": "orders"}]}
    found = value(text, {"hostvars": hostvars, **names})
    assert [(one["name"], one["host"], one["process"]) for one in found] == [
        ("pool1", "10.0.0.1", None),
        ("pool2/1", "10.0.0.2", "/run/pgbouncer-1"),
        ("pool2/2", "10.0.0.2", "/run/pgbouncer-2"),
    ]
    assert all((one["port"], one["databases"]) == (6432, ["orders"]) for one in found)

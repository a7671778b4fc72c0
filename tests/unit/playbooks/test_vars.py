# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What playbooks derive from an inventory, asked of Ansible itself on the example's inventory. No host is contacted."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.dbops.fleet.tests.support.house import CHECKOUT

ORDERS = ["orders-db1", "orders-db2", "orders-db3"]
BILLING = ["billing-db1", "billing-db2", "billing-delayed", "billing-reports"]


def derived(variable: str, files: list[str], directory: Path, **extra: Any) -> Any:
    """The value of a variable of playbooks/vars on the first host of the example."""
    play = {
        "hosts": "all",
        "gather_facts": False,
        "vars_files": [str(CHECKOUT / "playbooks/vars" / f"{file}.yml") for file in files],
        "tasks": [{"ansible.builtin.debug": {"var": variable}, "run_once": True}],
    }
    playbook = directory / "play.yml"
    playbook.write_text(yaml.safe_dump([play]))
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(CHECKOUT / "inventories/example")]
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
    }
    done = subprocess.run(
        [*command, "-e", json.dumps(extra), str(playbook)],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = json.loads(done.stdout[done.stdout.index("{") :])["plays"][0]["tasks"][0]["hosts"].values()
    return result[variable]


@pytest.mark.parametrize(
    ("extra", "expected"),
    [({}, {"orders": ORDERS, "billing": BILLING}), ({"fleet_cluster": "orders"}, {"orders": ORDERS})],
    ids=["all", "one that is named"],
)
def test_a_cluster_has_its_own_hosts_as_members(
    tmp_path: Path, extra: dict[str, str], expected: dict[str, list[str]]
) -> None:
    members = derived("__fleet_members", ["fleet"], tmp_path, **extra)
    assert {name: sorted(member["name"] for member in found) for name, found in members.items()} == expected


@pytest.mark.parametrize(
    ("journal", "taken_on"),
    [
        ({}, {}),
        ({"started": "1", "restored": "2", "report": {}, "finished": "3"}, {}),
        ({"started": "1", "restored": "2"}, {"started": "1", "restored": "2"}),
    ],
    ids=["none", "of a recovery that ended", "of a killed one"],
)
def test_a_recovery_goes_on_with_what_a_killed_one_left_and_with_nothing_else(
    tmp_path: Path, journal: dict[str, Any], taken_on: dict[str, Any]
) -> None:
    left = {"content": base64.b64encode(json.dumps(journal).encode()).decode()} if journal else {}
    found = derived(
        "__fleet_recovery_taken_on",
        ["fleet", "disaster_recovery"],
        tmp_path,
        disaster_recovery_cluster="orders",
        __fleet_left=left,
    )
    assert found == taken_on


def test_a_replica_that_is_delayed_serves_no_readers_of_a_switchover(tmp_path: Path) -> None:
    instances = {
        "billing-db1": {"member": {"apply_delay_seconds": None}},
        "billing-db2": {"member": {"apply_delay_seconds": 0.0}},
        "billing-delayed": {"member": {"apply_delay_seconds": 3600.0}},
        "billing-reports": {"member": None},
    }
    known = {"fleet_cluster": "billing", "__fleet_instances": instances}
    assert derived("__fleet_delayed", ["failover", "switchover"], tmp_path, **known) == ["billing-delayed"]


def view(primary: str | None, unreachable: int) -> dict[str, Any]:
    """What was judged of orders: its primary, and how many of its three members did not answer."""
    actions = ["converge"] * (3 - unreachable) + ["unreachable"] * unreachable
    plan = {member: {"action": action} for member, action in zip(ORDERS, actions, strict=True)}
    return {"orders": {"primary": primary, "plan": plan, "problems": [], "readers": []}}


def leads_to(address: str) -> dict[str, Any]:
    """What pgbouncer_pool_info returns of a pooler."""
    return {"endpoints": {"pool1": {"databases": {"orders": {"host": address}, "orders_ro": {"host": "192.0.2.12"}}}}}


@pytest.mark.parametrize(
    ("views", "more", "reason"),
    [
        (view("orders-db1", 0), {"__fleet_leads": leads_to("192.0.2.12")}, None),
        (view("orders-db1", 1), {"__fleet_leads": leads_to("192.0.2.12")}, None),
        # Only the replicas are gone: readers go to the primary.
        (view("orders-db1", 2), {"__fleet_leads": leads_to("192.0.2.11")}, None),
        (view("orders-db1", 2), {}, None),
        (
            view("orders-db1", 2),
            {"__fleet_leads": leads_to("192.0.2.12")},
            "clients are led to 192.0.2.12, which may have",
        ),
        (
            view("orders-db1", 2),
            {"__fleet_leads": leads_to("192.0.2.12"), "fleet_confirm_primary": "orders-db1"},
            None,
        ),
        (view(None, 0), {}, "no member of it takes writes"),
    ],
    ids=["all", "two of three", "no replica", "new pooler", "old primary alone", "confirmed", "none"],
)
def test_a_pooler_is_not_led_to_a_primary_that_may_be_the_old_one(
    tmp_path: Path, views: dict[str, Any], more: dict[str, Any], reason: str | None
) -> None:
    extra = {"pgbouncer_clusters": ["orders"], "__fleet_views": views, "__fleet_judged": 1.5, **more}
    files = ["fleet", "setup", "poolers"]
    # The views are a fact of hosts in a run; here an extra variable stands for it.
    unknown = derived("__fleet_clusters_unknown", files, tmp_path, **extra)
    assert list(unknown) == ([] if reason is None else ["orders"])
    if reason is not None:
        assert reason in unknown["orders"]
        assert derived("pgbouncer_databases", files, tmp_path, **extra) == []
        assert derived("pgbouncer_databases_purge", files, tmp_path, **extra) is False


def planned(**actions: str) -> dict[str, Any]:
    """Views of both clusters of the example, as the first play leaves them on every host."""
    views: dict[str, Any] = {}
    for cluster, members in (("orders", ORDERS), ("billing", BILLING)):
        plan = {member: {"action": actions.get(member.replace("-", "_"), "converge")} for member in members}
        primary = members[0] if plan[members[0]]["action"] == "converge" else None
        views[cluster] = {"primary": primary, "plan": plan, "problems": [], "readers": []}
    return views


@pytest.mark.parametrize(
    ("variable", "actions", "expected"),
    [
        ("__fleet_new_members", {}, []),
        ("__fleet_new_members", {"orders_db3": "clone"}, ["orders-db3"]),
        ("__fleet_new_primaries", {"orders_db1": "initialize", "orders_db2": "clone"}, ["orders-db1"]),
        ("__fleet_new_replicas", {"orders_db1": "initialize", "orders_db2": "clone"}, ["orders-db2"]),
        ("__fleet_running_members", {"orders_db2": "leave_alone", "billing_db2": "unreachable"}, None),
        ("__fleet_primaries", {}, ["billing-db1", "orders-db1"]),
        ("__fleet_primaries", {"orders_db1": "initialize"}, ["billing-db1", "orders-db1"]),
        ("__fleet_primaries", {"orders_db1": "leave_alone"}, ["billing-db1"]),
        ("__fleet_seen_in_part", {"orders_db1": "unreachable"}, []),
        ("__fleet_seen_in_part", {"orders_db1": "unreachable", "orders_db2": "unreachable"}, ["orders"]),
        ("__fleet_seen_in_part", {"billing_db1": "unreachable", "billing_db2": "unreachable"}, ["billing"]),
        ("__fleet_backed_up", {"orders_db2": "leave_alone"}, ["orders-db1", "orders-db3"]),
    ],
)
def test_each_play_is_for_the_hosts_that_the_plan_has_something_to_do_on(
    tmp_path: Path, variable: str, actions: dict[str, str], expected: list[str] | None
) -> None:
    if expected is None:
        expected = [*set(ORDERS) - {"orders-db2"}, *set(BILLING) - {"billing-db2"}]
    assert sorted(
        derived(variable, ["fleet", "setup"], tmp_path, __fleet_views=planned(**actions), __fleet_judged=1.5)
    ) == sorted(expected)


def test_a_run_for_one_cluster_has_nothing_to_do_with_hosts_of_another(tmp_path: Path) -> None:
    """As disaster_recovery.yml calls setup.yml, perhaps after another cluster in the same run."""
    judged = {"__fleet_views": {"orders": planned()["orders"]}, "__fleet_judged": 1.5}
    named = {**judged, "fleet_hosts": "orders:pool1"}
    assert sorted(derived("__fleet_run_hosts", ["fleet", "setup"], tmp_path, **named)) == [*ORDERS, "pool1"]
    assert sorted(derived("__fleet_running_members", ["fleet", "setup"], tmp_path, **named)) == ORDERS


def test_without_views_no_play_is_for_anybody(tmp_path: Path) -> None:
    """As where Ansible only reads the playbook."""
    for variable in (
        "__fleet_secrets_hosts",
        "__fleet_backed_up",
        "__fleet_poolers_seen",
        "__fleet_primaries",
        "__fleet_undone",
    ):
        assert derived(variable, ["fleet", "setup"], tmp_path) == []
    assert derived("__fleet_outdated", ["fleet", "setup"], tmp_path) is False

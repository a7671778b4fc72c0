# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""cluster_info from what instance_info returns: merged, judged, reported; wrong data refused."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts, WalReceiver, WalSender
from ansible_collections.dbops.fleet.plugins.module_utils.topology.instance_facts import InstanceFacts, Owner
from ansible_collections.dbops.fleet.plugins.module_utils.topology.merge import cluster_info


def running(name: str, identifier: str = "7", **facts: Any) -> dict[str, Any]:
    member = MemberFacts(
        name, "127.0.0.1", 5432, "running", system_identifier=identifier, version_num=150018, timeline=1, **facts
    )
    made = InstanceFacts(
        15, "main", "running", "/data", member, port=5432, configured=True, owner=Owner("orders", identifier)
    )
    return dict(json.loads(json.dumps(made.to_dict())))


def replica_of(host: str, **facts: Any) -> dict[str, Any]:
    receiver = WalReceiver("streaming", host, 5432)
    lsns = {"receive_lsn": Lsn(90), "replay_lsn": Lsn(80), "replay_lag_seconds": 0.5}
    return running("localhost", in_recovery=True, receiver=receiver, **{**lsns, **facts})


HEALTHY: dict[str, Any] = {
    "cluster": "orders",
    "members": [{"name": f"db{i}", "address": f"10.0.0.{i}", "port": 5432} for i in (1, 2, 3)],
    "instances": {
        "db1": running(
            "localhost",
            in_recovery=False,
            current_lsn=Lsn(100),
            senders=(WalSender("db2", sync_state="sync"), WalSender("db3", sync_state="async")),
        ),
        "db2": replica_of("10.0.0.1"),
        "db3": replica_of("another-name-of-db1"),
    },
    "initial_primaries": [],
}


def asked(**changes: Any) -> dict[str, Any]:
    return cluster_info({**copy.deepcopy(HEALTHY), **changes}, False).result


def test_hosts_get_the_names_and_addresses_of_the_inventory() -> None:
    result = asked()
    assert result["healthy"], result["report"]
    assert result["primary"] == "db1"
    assert result["replicas"] == ["db2", "db3"]
    assert [member["upstream"] for member in result["members"]] == [None, "db1", "db1"]
    assert [member["sync_state"] for member in result["members"]] == [None, "sync", "async"]
    assert [member["lag_bytes"] for member in result["members"]] == [None, 20, 20]
    assert {entry["action"] for entry in result["plan"].values()} == {"converge"}
    assert result["refusals"] == []
    assert result["report"][0] == "orders: healthy, primary db1, timeline 1"
    assert result["report"][3].split() == "db2 replica running 1 0/50 20 bytes 0.5 db1 sync -".split()
    json.dumps(result)


def test_a_missing_instance_is_an_unreachable_host() -> None:
    instances = {name: HEALTHY["instances"][name] for name in ("db1", "db2")}
    result = asked(instances=instances)
    assert [(problem["code"], problem["member"]) for problem in result["problems"]] == [("unreachable", "db3")]
    assert result["plan"]["db3"]["action"] == "unreachable"
    assert not result["healthy"]


def test_replicas_that_follow_each_other_are_found() -> None:
    instances = {**HEALTHY["instances"], "db2": replica_of("10.0.0.3"), "db3": replica_of("10.0.0.2")}
    found = {(problem["code"], problem["member"]) for problem in asked(instances=instances)["problems"]}
    assert found == {("replication_loop", "db2"), ("replication_loop", "db3")}


def test_lag_and_waiting_commits_are_told() -> None:
    first = running(
        "x", in_recovery=False, current_lsn=Lsn(1 << 33), settings={"synchronous_standby_names": "FIRST 1 (db9)"}
    )
    instances = {**HEALTHY["instances"], "db1": first, "db2": replica_of("10.0.0.1", replay_lag_seconds=70.0)}
    found = {
        (problem["code"], problem["member"], problem["severity"]) for problem in asked(instances=instances)["problems"]
    }
    assert ("lagging", "db2", "error") in found
    assert ("lagging", "db3", "warning") in found
    assert ("no_synchronous_standby", "db1", "error") in found


def test_the_port_that_an_instance_runs_with_is_compared_with_the_inventorys() -> None:
    members = [{**member, "port": 6432 if member["name"] == "db2" else 5432} for member in HEALTHY["members"]]
    result = asked(members=members)
    assert [entry["code"] for entry in result["plan"].values()] == [None, "port_changed", None]
    (refusal,) = result["refusals"]
    assert "db2 runs with port 5432, and the inventory wants 6432" in refusal


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": []}, "has no members"),
        ({"members": [HEALTHY["members"][0]] * 2}, "two members with the same name: db1"),
        ({"members": [HEALTHY["members"][0], {**HEALTHY["members"][0], "name": "x"}]}, "same address and port"),
        ({"instances": {"db9": {}}}, "no members of cluster 'orders' were given: db9"),
        ({"instances": {"db1": "running"}}, "db1: its instance is no dictionary"),
        ({"instances": {"db1": {"state": "running"}}}, "db1: its instance cannot be read"),
        ({"instances": {"db1": {**HEALTHY["instances"]["db1"], "state": "asleep"}}}, "state 'asleep' is not one of"),
    ],
)
def test_wrong_data_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FleetError, match=message):
        asked(**changes)

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What playbooks refuse before they have looked at any host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.tests.support.house import CHECKOUT


def said(playbook: str, *arguments: str, **extra: object) -> str:
    """What a playbook says in check mode, on the example's inventory. No host is contacted."""
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(CHECKOUT / "inventories/example")]
    done = subprocess.run(
        [*command, *arguments, "-e", json.dumps(extra), str(CHECKOUT / "playbooks" / playbook), "--check"],
        cwd=CHECKOUT,
        env=os.environ | {"ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert done.stdout.count("PLAY [") == 1
    return " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("playbook", "variable"),
    [
        *((f"{name}.yml", "fleet_cluster") for name in ("switchover", "failover", "rejoin", "restore")),
        ("restore_objects.yml", "fleet_cluster"),
        ("disaster_recovery.yml", "disaster_recovery_cluster"),
    ],
)
def test_a_cluster_has_to_be_named_and_to_exist(playbook: str, variable: str) -> None:
    offer = f"Say which cluster: -e {variable}=NAME, one of billing, orders."
    assert offer in said(playbook)
    assert offer in said(playbook, **{variable: "order"})


@pytest.mark.parametrize("playbook", ["switchover.yml", "failover.yml"])
def test_poolers_of_which_nobody_knows_what_they_serve_are_refused(playbook: str) -> None:
    found = said(playbook, fleet_cluster="orders", postgres_primary_databases=[])
    assert "pool1, pool2 serve orders, but the inventory names no database of it" in found


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"postgres_primary_databases": []}, "pool1: serves orders, billing, of which the inventory names no database"),
        ({"pgbouncer_clusters": []}, "pool1: is in pgbouncer and serves no cluster, so its entries would be removed"),
        ({"pgbouncer_clusters": ["sales"]}, "pool1: serves sales, and the inventory has no such cluster"),
        (
            {"postgres_primary_databases": [{"name": "shop"}]},
            "pool1: two of its clusters (orders, billing) have a database of the same name (shop, shop)",
        ),
        ({"postgres_primary_databases": [{"name": "web shop"}]}, "pool1: PgBouncer takes letters, digits and _ . - in"),
        ({"postgres_primary_databases": [{"name": "shop", "owner": "postgres"}]}, "billing: Role postgres"),
        ({"fleet_cluster": "sales"}, "orders-db1: its fleet_cluster is sales, and there is no group of that name"),
        ({"fleet_passwords": {"orders_app": "x"}}, "fleet_passwords has no password of fleet_replication"),
        ({"fleet_passwords": {"fleet_pooler": ""}}, "fleet_passwords has no password of fleet_pooler"),
    ],
    ids=[
        "no database",
        "no cluster",
        "unknown cluster",
        "two databases of a name",
        "a blank",
        "superuser",
        "no group",
        "password",
        "empty password",
    ],
)
def test_setup_refuses_an_inventory_that_contradicts_itself(
    extra: dict[str, object], expected: str, tmp_path: Path
) -> None:
    found = said("setup.yml", **{"fleet_secrets_directory": str(tmp_path), **extra})
    assert "Nothing was changed." in found
    assert expected in found


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (
            {"billing-db2": {"postgres_replica_upstream": "billing-reports"}},
            "billing-db2: following postgres_replica_upstream leads back to it",
        ),
        (
            {"billing-db2": {"postgres_replica_upstream": "orders-db1"}},
            "billing-db2: its postgres_replica_upstream orders-db1 is no other member of billing",
        ),
        ({"billing-db2": {"postgres_server_port": 5433}}, "pool1: serves billing, whose members have different ports"),
        ({"stray": {}}, "stray: is in postgresql and has no fleet_cluster"),
        (
            {"billing_db2": {"fleet_cluster": "billing"}},
            "have to differ in letters and digits too, as replication slots are called by them",
        ),
    ],
    ids=["circle", "another cluster", "ports", "no cluster", "slots"],
)
def test_setup_refuses_members_that_do_not_fit(
    variables: dict[str, dict[str, object]], expected: str, tmp_path: Path
) -> None:
    further = tmp_path / "further.yml"
    clusters = {
        member["fleet_cluster"]: {"hosts": {host: {}}}
        for host, member in variables.items()
        if member.get("fleet_cluster")
    }
    further.write_text(json.dumps({"all": {"children": {"postgresql": {"hosts": variables, "children": clusters}}}}))
    found = said("setup.yml", "-i", str(further), fleet_secrets_directory=str(tmp_path))
    assert "Nothing was changed." in found
    assert expected in found

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


def said(playbook: str, **extra: object) -> str:
    """What a playbook says in check mode, on the example's inventory. No host is contacted."""
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(CHECKOUT / "inventories/example")]
    done = subprocess.run(
        [*command, "-e", json.dumps(extra), str(CHECKOUT / "playbooks" / playbook), "--check"],
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

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What switchover.yml refuses before it has looked at any host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from ansible_collections.dbops.fleet.tests.support.house import CHECKOUT


def switchover(**extra: object) -> str:
    """What the playbook says, on the example's inventory. No host is contacted."""
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(CHECKOUT / "inventories/example")]
    done = subprocess.run(
        [*command, "-e", json.dumps(extra), str(CHECKOUT / "playbooks/switchover.yml"), "--check"],
        cwd=CHECKOUT,
        env=os.environ | {"ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Look and plan" not in done.stdout
    return " ".join(done.stdout.split())


def test_a_cluster_has_to_be_named() -> None:
    assert "Say which cluster: -e fleet_cluster=NAME, one of" in switchover()


def test_poolers_of_which_nobody_knows_what_they_serve_are_refused() -> None:
    said = switchover(fleet_cluster="orders", postgres_primary_databases=[])
    assert "pool1, pool2 serve orders, and postgres_primary_databases names no database of it" in said

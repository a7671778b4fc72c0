# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What module `fleet_fence` does with its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.failover import fencing
from ansible_collections.dbops.fleet.plugins.module_utils.failover.fencing_command import fence_by_command
from ansible_collections.dbops.fleet.plugins.module_utils.failover.fencing_ec2 import fence_ec2
from ansible_collections.dbops.fleet.plugins.module_utils.failover.fencing_host import fence_host
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_params import instance_here
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.commands import gather


def fence(params: Mapping[str, Any], check_mode: bool) -> Outcome:
    """Module `fleet_fence`: one rung of the ladder, or one pooler's part of it."""
    driver = params["driver"]
    if check_mode and driver != "pooler_cut":
        return Outcome(True, {"rung": fencing.Rung(driver, fencing.UNCONFIRMED, ("check mode",)).to_dict()})
    if driver == "pooler_cut":
        found = gather(params, check_mode).result["endpoints"]
        cut = fencing.cut_of(params["pooler"], found.values(), params["addresses"])
        return Outcome(False, {"cut": cut.to_dict()})
    if driver == "ssh":
        instance = instance_here(params["version"], params["name"])
        rung = fence_host(instance, params["cluster"], stop_timeout=params["stop_timeout"])
    elif driver == "command":
        rung = fence_by_command(
            params["power_off_command"],
            params["power_state_command"],
            params["power_off_pattern"],
            timeout=params["timeout"],
        )
    else:
        rung = fence_ec2(params["instance_id"], params["region"], timeout=params["timeout"])
    return Outcome(True, {"rung": rung.to_dict()})

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What module `primary_sight_info` does with its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.failover.sight import look
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_params import instance_here, record_of
from ansible_collections.dbops.fleet.plugins.module_utils.failover.vantage import Target
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome


def sight_info(params: Mapping[str, Any], _check_mode: bool) -> Outcome:
    """Module `primary_sight_info`."""
    targets = [record_of(Target, member) for member in params["members"]]
    own = next((target for target in targets if target.name == params["vantage"]), None)
    instance = instance_here(params["version"], params["name"]) if params["kind"] == "replica" else None
    sight = look(
        params["vantage"],
        params["kind"],
        targets,
        params["cluster"],
        instance=instance,
        address=own.address if own else "",
        timeout=params["timeout"],
    )
    return Outcome(False, {"sight": sight.to_dict()})

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What module `failover_plan_info` does with its parameters."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_params import record_of
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_plan import Orders, plan_failover
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_report import report
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_request import Member
from ansible_collections.dbops.fleet.plugins.module_utils.failover.vantage import Sight
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome


def plan_info(params: Mapping[str, Any], _check_mode: bool) -> Outcome:
    """Module `failover_plan_info`."""
    plan = plan_failover(
        params["cluster"],
        [record_of(Member, member) for member in params["members"]],
        [record_of(Sight, sight) for sight in params["sights"]],
        record_of(Orders, params["orders"]),
        now=time.time(),
    )
    operation = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{params['cluster']}"
    return Outcome(False, {"plan": plan.to_dict(), "report": report(params["cluster"], plan), "operation": operation})

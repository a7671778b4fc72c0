# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What module `primary_failover` does with its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, OperationFailed, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.failover import unplanned_worker
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_request import FailoverRequest
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome


def failover(params: Mapping[str, Any], check_mode: bool) -> Outcome:
    """Module `primary_failover`.

    Raises:
        Refused: the end state is refused; everything was put back.
        OperationFailed: it was rolled back, or needs the operator.
    """
    try:
        request = FailoverRequest.from_dict({**params["request"], "operation": params["operation"]})
    except ValueError as error:
        raise FleetError(f"the request is not one of failover_plan_info: {error}") from error
    if check_mode:
        return Outcome(True, {"state": "planned", "reason": "check mode", "next": ""})
    end = unplanned_worker.fail_over(request)
    kind = {"refused": Refused, "rolled_back": OperationFailed, "needs_operator": OperationFailed}.get(end["state"])
    if kind:
        details = end.pop("details", {})
        raise kind(end["reason"], remedy=end["next"], **{**details, **end})
    return Outcome(True, end)

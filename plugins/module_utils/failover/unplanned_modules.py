# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules of an unplanned failover do with their parameters: the way from plain values and back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, OperationFailed, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.failover import fencing, unplanned_worker
from ansible_collections.dbops.fleet.plugins.module_utils.failover import rejoin as rejoining
from ansible_collections.dbops.fleet.plugins.module_utils.failover.fencing_command import fence_by_command
from ansible_collections.dbops.fleet.plugins.module_utils.failover.fencing_ec2 import fence_ec2
from ansible_collections.dbops.fleet.plugins.module_utils.failover.fencing_host import fence_host
from ansible_collections.dbops.fleet.plugins.module_utils.failover.sight import look
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_plan import Orders, plan_failover
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_report import report
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_request import FailoverRequest, Member
from ansible_collections.dbops.fleet.plugins.module_utils.failover.vantage import Sight, Target
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.conninfo import REPLICATION, between_members
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.instance import Instance
from ansible_collections.dbops.fleet.plugins.module_utils.topology.host import read_host


def instance_here(version: int | None, name: str) -> Instance:
    """Debian's instance on this host.

    Raises:
        FleetError: the release's version of PostgreSQL is not known.
    """
    found = version or read_host([])["postgresql_shipped"]
    if not found:
        raise FleetError(
            "it is not known which PostgreSQL this host's release ships",
            remedy="Set postgres_server_version for this host.",
        )
    return Instance.debian(int(found), name)


def sight_info(params: Mapping[str, Any], _check_mode: bool) -> Outcome:
    """Module `primary_sight_info`."""
    targets = [_record(Target, member) for member in params["members"]]
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


def plan_info(params: Mapping[str, Any], _check_mode: bool) -> Outcome:
    """Module `failover_plan_info`."""
    plan = plan_failover(
        params["cluster"],
        [_record(Member, member) for member in params["members"]],
        [_record(Sight, sight) for sight in params["sights"]],
        _record(Orders, params["orders"]),
    )
    operation = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{params['cluster']}"
    return Outcome(False, {"plan": plan.to_dict(), "report": report(params["cluster"], plan), "operation": operation})


def fence(params: Mapping[str, Any], check_mode: bool) -> Outcome:
    """Module `fleet_fence`: one rung of the ladder."""
    driver = params["driver"]
    if check_mode:
        return Outcome(True, {"rung": fencing.Rung(driver, fencing.UNCONFIRMED, ("check mode",)).to_dict()})
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


def rejoin(params: Mapping[str, Any], check_mode: bool) -> Outcome:
    """Module `replica_rejoin`."""
    member, primary = _record(Target, params["member"]), _record(Target, params["primary"])
    order = rejoining.Rejoin(
        params["cluster"],
        member.name,
        member.address,
        instance_here(params["version"], params["name"]),
        primary,
        between_members(primary.address, primary.port, application_name=member.name, user=REPLICATION, dbname=None),
        slot=params["slot"],
        member_slots=tuple(params["member_slots"]),
        consent=rejoining.consent_of(params, member.name),
        timeout=params["timeout"],
        lowered_synchronous=params["lowered_synchronous"],
        synchronous_before=params["synchronous_before"],
        members=tuple(_record(Target, place) for place in params["members"]),
    )
    return rejoining.rejoin(order, check_mode)


def _record(kind: Any, values: Mapping[str, Any]) -> Any:
    """A record from a module's parameters, in which an option that was left out is None."""
    try:
        return kind.from_dict({name: value for name, value in values.items() if value is not None})
    except ValueError as error:
        raise FleetError(f"a parameter cannot be read: {error}") from error

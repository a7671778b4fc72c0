# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Merges what was read on each host into a cluster, with its plan and its report: the work of `cluster_info`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts
from ansible_collections.dbops.fleet.plugins.module_utils.topology.instance_facts import InstanceFacts
from ansible_collections.dbops.fleet.plugins.module_utils.topology.judge import judge
from ansible_collections.dbops.fleet.plugins.module_utils.topology.plan import (
    plan_setup,
    refusals,
    system_identifier_of,
)
from ansible_collections.dbops.fleet.plugins.module_utils.topology.report import cluster_report, plan_report

_REMEDY = "Give the `instance` that dbops.fleet.instance_info of this collection's version returned, unchanged."


def cluster_info(params: Mapping[str, Any], _check_mode: bool) -> Outcome:
    """Parameters and results as documented in the module.

    Raises:
        FleetError: members or instances are not what they should be.
    """
    cluster, members = params["cluster"], params["members"]
    _check_members(cluster, members, params["instances"])
    instances = {member["name"]: _instance(member, params["instances"].get(member["name"])) for member in members}
    plan = plan_setup(cluster, instances, params["initial_primaries"])
    facts = [_facts(member, instances[member["name"]], plan[member["name"]].code) for member in members]
    view = judge(facts, system_identifier_of(cluster, instances))
    return Outcome(
        changed=False,
        result={
            "cluster": cluster,
            **view.to_dict(),
            "replicas": list(view.replicas),
            "healthy": view.healthy,
            "plan": {name: action.to_dict() for name, action in plan.items()},
            "refusals": refusals(plan),
            "report": cluster_report(cluster, view),
            "plan_report": plan_report(cluster, plan),
        },
    )


def _check_members(cluster: str, members: Sequence[Mapping[str, Any]], instances: Mapping[str, Any]) -> None:
    if not members:
        raise FleetError(f"cluster {cluster!r} has no members", remedy="Name at least one host in its group.")
    names = [member["name"] for member in members]
    places = [(member["address"], member["port"]) for member in members]
    for what, values in (("name", names), ("address and port", places)):
        twice = {str(value) for value in values if values.count(value) > 1}
        if twice:
            raise FleetError(
                f"cluster {cluster!r} has two members with the same {what}: {', '.join(sorted(twice))}",
                remedy="Each member needs its own; look at fleet_address and postgres_server_port in the inventory.",
            )
    strange = sorted(set(instances) - set(names))
    if strange:
        raise FleetError(
            f"instances of hosts that are no members of cluster {cluster!r} were given: {', '.join(strange)}",
            remedy="Give the instances of this cluster's members only.",
        )


def _instance(member: Mapping[str, Any], given: Any) -> InstanceFacts | None:
    """The facts under the inventory's name, address and port: the host itself does not know them."""
    if not given:
        return None
    if not isinstance(given, Mapping):
        raise FleetError("its instance is no dictionary", host=member["name"], remedy=_REMEDY)
    try:
        instance = InstanceFacts.from_dict(given)
    except ValueError as error:
        raise FleetError(f"its instance cannot be read: {error}", host=member["name"], remedy=_REMEDY) from error
    own = replace(instance.member, name=member["name"], address=member["address"], port=member["port"])
    return replace(instance, member=own)


def _facts(member: Mapping[str, Any], instance: InstanceFacts | None, refused_as: str | None) -> MemberFacts:
    if instance is None:
        return MemberFacts(member["name"], member["address"], member["port"], "unreachable")
    if refused_as == "foreign_data" and instance.state not in ("absent", "empty"):
        return replace(instance.member, state="foreign", error=instance.reason)
    return instance.member

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What setup.yml may do with each member of a cluster, decided from what all of them are right now.

Three things never happen: a new database cluster beside data that exist anywhere in it, a clone over data, a choice
between two primaries. Where one of these could be, the plan refuses and says on which host and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record
from ansible_collections.dbops.fleet.plugins.module_utils.topology.instance_facts import InstanceFacts

ACTIONS = (
    "initialize",  # make the database cluster here: the primary to be
    "clone",  # make a replica
    "converge",  # a running member: configure it, leave its data and its role as they are
    "leave_alone",  # a stopped member: reported, not touched
    "unreachable",  # nobody can do anything there
    "refuse",
)


@dataclass(frozen=True)
class Action(Record):
    """What happens with one member.

    Attributes:
        action: one of ACTIONS.
        reason: what was found, a sentence.
        code, remedy: of a refusal.
    """

    action: str
    reason: str
    code: str | None = None
    remedy: str | None = None


# What a host is to the cluster that wants it.
_BARE, _OURS, _PARTIAL, _FOREIGN, _UNREACHABLE = "bare", "ours", "partial", "foreign", "unreachable"
# Made by a run of setup that was killed before the first start: our mark is there without a system identifier.
_UNSTARTED = "unstarted"

Instances: TypeAlias = "Mapping[str, InstanceFacts | None]"


def plan_setup(cluster: str, instances: Instances, initial_primaries: Sequence[str]) -> dict[str, Action]:
    """An action for every member.

    Args:
        cluster: its name, as in the marks that the roles leave on hosts.
        instances: every member of the inventory; None for a host that did not answer.
        initial_primaries: members that the inventory names as such. Looked at only while no member has data.
    """
    identifier = system_identifier_of(cluster, instances)
    kinds = {name: _kind(cluster, instance, identifier) for name, instance in instances.items()}
    plan = {name: _refused_by_itself(cluster, name, instance, kinds[name]) for name, instance in instances.items()}
    rest = [name for name, action in plan.items() if action is None]
    refusal = _whole_cluster_refusal(cluster, instances, kinds)
    if refusal is not None:
        whole = {name: _unreachable() if kinds[name] == _UNREACHABLE else refusal for name in rest}
    elif any(kind in (_OURS, _PARTIAL) for kind in kinds.values()):
        whole = {name: _in_existing_cluster(name, instances, kinds, identifier) for name in rest}
    else:
        whole = _new_cluster(cluster, rest, instances, kinds, initial_primaries)
    return {name: action or whole[name] for name, action in plan.items()}


def system_identifier_of(cluster: str, instances: Instances) -> str | None:
    """The cluster's, from hosts that carry our mark for it; a running primary's counts before others'."""
    ours = [
        instance
        for instance in instances.values()
        if instance is not None and _marked(cluster, instance) and not _unstarted(instance)
    ]
    ours.sort(key=lambda instance: not instance.member.is_primary)
    return next((instance.member.system_identifier for instance in ours if instance.member.system_identifier), None)


def refusals(plan: Mapping[str, Action]) -> list[str]:
    """Each refusal once, as text for the operator: "db1, db2: reason. Remedy." """
    hosts: dict[tuple[str, str], list[str]] = {}
    for name, action in plan.items():
        if action.action == "refuse":
            hosts.setdefault((action.reason, action.remedy or ""), []).append(name)
    return [f"{', '.join(names)}: {reason}. {remedy}" for (reason, remedy), names in hosts.items()]


def _marked(cluster: str, instance: InstanceFacts) -> bool:
    return instance.state != "foreign" and instance.owner is not None and instance.owner.cluster == cluster


def _unstarted(instance: InstanceFacts) -> bool:
    known = instance.owner is not None and instance.owner.system_identifier
    return not known and instance.state in ("stopped", "crashed")


def _kind(cluster: str, instance: InstanceFacts | None, identifier: str | None) -> str:
    if instance is None:
        return _UNREACHABLE
    if instance.state in ("absent", "empty"):
        return _BARE
    if instance.state == "interrupted_clone":
        return _PARTIAL
    if _marked(cluster, instance):
        return _UNSTARTED if _unstarted(instance) else _OURS
    # No mark, but the system identifier of this cluster: a replica that somebody made by hand, or whose mark was lost.
    same = identifier is not None and instance.member.system_identifier == identifier
    return _OURS if same and instance.owner is None else _FOREIGN


def _refused_by_itself(cluster: str, name: str, instance: InstanceFacts | None, kind: str) -> Action | None:
    """Reasons that are in one host alone."""
    if instance is None:
        return None
    if instance.member.orchestrators:
        manager = ", ".join(instance.member.orchestrators)
        return _refuse(
            "managed_elsewhere",
            f"PostgreSQL on {name} is managed by {manager}",
            f"Leave {name} to that manager, or stop and disable it there.",
        )
    if kind == _FOREIGN:
        return _refuse("foreign_data", *_foreign(cluster, name, instance))
    if kind == _OURS and instance.member.state in ("running", "starting"):
        return _other_port(name, instance)
    if kind in (_BARE, _PARTIAL):
        taken = [other for other in instance.others if other.running and other.port == instance.member.port]
        if taken:
            return _refuse(
                "port_taken",
                f"port {instance.member.port} of {name} is used by instance {taken[0].version}/{taken[0].name}",
                f"Stop that instance, or set postgres_server_port for {name}.",
            )
    return None


def _other_port(name: str, instance: InstanceFacts) -> Action | None:
    """Another port in its configuration would wait for the next restart, and then cut off whoever uses the old one."""
    wanted = instance.member.port
    if instance.port in (None, wanted):
        return None
    return _refuse(
        "port_changed",
        f"PostgreSQL on {name} runs with port {instance.port}, and the inventory wants {wanted}",
        f"Set postgres_server_port: {instance.port} for {name} again. To move it, in a maintenance window: write port ="
        f" {wanted} into /etc/postgresql/{instance.version}/{instance.name}/conf.d/50-fleet.conf there, restart it"
        f" (systemctl restart postgresql@{instance.version}-{instance.name}), set the port in primary_conninfo of the"
        " replicas that stream from it, and run this again, which tells the poolers.",
    )


def _foreign(cluster: str, name: str, instance: InstanceFacts) -> tuple[str, str]:
    if instance.owner is not None and instance.owner.cluster != cluster:
        return (
            f"{instance.data_directory} on {name} belongs to the cluster {instance.owner.cluster}, not to {cluster}",
            f"Put {name} into the group of {instance.owner.cluster}, or move its data away if they are not needed.",
        )
    what = instance.reason or f"{instance.data_directory} holds a database cluster of another system identifier"
    return (
        f"{name} holds somebody else's data: {what}",
        f"Nothing was touched. Take {name} out of the cluster {cluster}, or, if nobody needs these data, remove them "
        f"yourself on {name}: pg_dropcluster --stop {instance.version} {instance.name}, or move the directory away.",
    )


def _whole_cluster_refusal(cluster: str, instances: Instances, kinds: Mapping[str, str]) -> Action | None:
    """Reasons to touch no member at all."""
    ours = {name: instance for name, instance in instances.items() if instance is not None and kinds[name] == _OURS}
    identifiers = {
        name: instance.member.system_identifier for name, instance in ours.items() if instance.member.system_identifier
    }
    if len(set(identifiers.values())) > 1:
        found = ", ".join(f"{name} has {identifier}" for name, identifier in identifiers.items())
        return _refuse(
            "two_system_identifiers",
            f"members of {cluster} hold different database clusters: system identifier {found}",
            "Take the hosts with the wrong one out of the group, or move their data away.",
        )
    primaries = {name: instance for name, instance in ours.items() if instance.member.is_primary}
    if len(primaries) > 1:
        found = " and ".join(f"{name} (timeline {one.member.timeline})" for name, one in primaries.items())
        return _refuse(
            "two_primaries",
            f"{cluster} has {len(primaries)} primaries: {found}",
            "Stop the one that applications should not write to, then run rejoin.yml for it.",
        )
    for name, primary in primaries.items():
        for other, instance in ours.items():
            if (instance.member.timeline or 0) > (primary.member.timeline or 0):
                return _refuse(
                    "stale_primary",
                    f"{name} takes writes on timeline {primary.member.timeline}, but {other} already has timeline "
                    f"{instance.member.timeline}: {name} was replaced by a promotion and may be back by mistake",
                    f"Find out which one applications should write to. If not {name}: stop it, then run rejoin.yml "
                    f"for it. If it is {name}: rejoin {other}.",
                )
    return None


def _new_cluster(
    cluster: str,
    bare: Sequence[str],
    instances: Instances,
    kinds: Mapping[str, str],
    initial_primaries: Sequence[str],
) -> dict[str, Action]:
    """No member that answers has data of this cluster."""
    plan = {name: _unreachable() for name in bare if kinds[name] == _UNREACHABLE}
    waiting = [name for name in bare if name not in plan]
    refusal = _no_new_cluster(cluster, instances, kinds, initial_primaries)
    if refusal is not None:
        return plan | dict.fromkeys(waiting, refusal)
    first = initial_primaries[0]
    for name in waiting:
        if name == first and kinds[name] == _UNSTARTED:
            plan[name] = Action("initialize", "an earlier run was ended before it had started the first primary")
        elif name == first:
            plan[name] = Action("initialize", f"{cluster} does not exist yet, and {name} is to be its first primary")
        else:
            plan[name] = Action("clone", f"a replica of {first}, which is made now")
    return plan


def _of_another_version(cluster: str, instances: Instances) -> Action | None:
    """Data that may be this cluster's from before its hosts, or the inventory, had a newer PostgreSQL."""
    found = [
        (name, other)
        for name, instance in instances.items()
        if instance is not None
        for other in instance.others
        if other.version != instance.version
        and ((other.owner is not None and other.owner.cluster == cluster) or (other.name == "main" and not other.empty))
    ]
    if not found:
        return None
    name, first = found[0]
    texts = [
        f"{host} has {other.version}/{other.name} of {other.owner.cluster if other.owner else 'unknown origin'}"
        f" ({'running' if other.running else 'stopped'}, {other.data_directory})"
        for host, other in found
    ]
    return _refuse(
        "other_version",
        f"{cluster} would be made anew and empty, but {', '.join(texts)}",
        f"To go on with these data, set postgres_server_version: {first.version} for the hosts of {cluster} and start"
        f" it on {name}: systemctl start postgresql@{first.version}-{first.name}. If nobody needs them, remove them"
        f" yourself there: pg_dropcluster --stop {first.version} {first.name}, or move the directory away.",
    )


def _begun_elsewhere(cluster: str, kinds: Mapping[str, str], initial_primaries: Sequence[str]) -> Action | None:
    begun = [name for name, kind in kinds.items() if kind == _UNSTARTED and name not in initial_primaries]
    if not begun:
        return None
    return _refuse(
        "begun_elsewhere",
        f"an earlier run began {cluster} on {', '.join(begun)}, which fleet_initial_primary does not name",
        f"Set fleet_initial_primary: true for {begun[0]} again, or remove what was begun there: pg_dropcluster.",
    )


def _no_new_cluster(
    cluster: str, instances: Instances, kinds: Mapping[str, str], initial_primaries: Sequence[str]
) -> Action | None:
    return (
        _data_may_be_there(cluster, kinds)
        or _of_another_version(cluster, instances)
        or _no_first_primary(cluster, kinds, initial_primaries)
        or _begun_elsewhere(cluster, kinds, initial_primaries)
    )


def _data_may_be_there(cluster: str, kinds: Mapping[str, str]) -> Action | None:
    unreachable = [name for name, kind in kinds.items() if kind == _UNREACHABLE]
    if unreachable:
        return _refuse(
            "unreachable",
            f"no data of {cluster} was found, but {', '.join(unreachable)} cannot be reached and may hold them",
            f"Bring {', '.join(unreachable)} back, or take it out of the inventory if it holds no data.",
        )
    foreign = [name for name, kind in kinds.items() if kind == _FOREIGN]
    if foreign:
        return _refuse(
            "foreign_data",
            f"no data of {cluster} was found, but {', '.join(foreign)} holds data that may be its own",
            f"Settle whose data {', '.join(foreign)} holds first (see its own refusal).",
        )
    return None


def _no_first_primary(cluster: str, kinds: Mapping[str, str], initial_primaries: Sequence[str]) -> Action | None:
    if not initial_primaries:
        return _refuse(
            "no_initial_primary",
            f"{cluster} does not exist yet, and no member is named as its first primary",
            f"Set fleet_initial_primary: true for one of {', '.join(kinds)}.",
        )
    if len(initial_primaries) > 1:
        return _refuse(
            "two_initial_primaries",
            f"{cluster} does not exist yet, and {' and '.join(initial_primaries)} are named as its first primary",
            "Set fleet_initial_primary: true for one host only.",
        )
    if initial_primaries[0] not in kinds:
        return _refuse(
            "unknown_initial_primary",
            f"the initial primary {initial_primaries[0]} is no member of {cluster}",
            f"Set fleet_initial_primary: true for one of {', '.join(kinds)}.",
        )
    return None


def _in_existing_cluster(
    name: str, instances: Instances, kinds: Mapping[str, str], cluster_identifier: str | None
) -> Action:
    instance, kind = instances[name], kinds[name]
    if instance is None:
        return _unreachable()
    primary = next(
        (
            other.member.name
            for key, other in instances.items()
            if other is not None and kinds[key] == _OURS and other.member.is_primary and not other.member.orchestrators
        ),
        None,
    )
    if kind in (_BARE, _PARTIAL):
        if primary is None:
            return _refuse("no_primary", *_no_primary(name, instances, kinds))
        found = "has no data" if kind == _BARE else (instance.reason or "a clone was interrupted")
        return Action("clone", f"{found}; cloned from the primary {primary}")
    if kind == _UNSTARTED and primary is not None:
        return _unstarted_replica(cluster_identifier, instance, primary)
    if instance.member.is_primary:
        return Action("converge", "takes writes: the primary")
    if instance.member.is_standby:
        if primary is None:
            return Action("leave_alone", "a running replica of a cluster that has no primary right now")
        return Action("converge", f"a running replica; the primary is {primary}")
    detail = f" ({instance.reason or instance.member.error})" if instance.reason or instance.member.error else ""
    return Action("leave_alone", f"holds data of this cluster and is {instance.member.state}{detail}")


def _unstarted_replica(identifier: str | None, instance: InstanceFacts, primary: str) -> Action:
    """A clone is never started anew when it is another cluster's; of this one it only has to be started."""
    name, found = instance.member.name, instance.member.system_identifier
    if found != identifier:
        return _refuse(
            "foreign_data",
            f"{name} holds a database cluster with system identifier {found}, that of {primary} has {identifier}",
            f"Nothing was touched. If nobody needs these data, remove them yourself on {name}, then run this again.",
        )
    return Action("clone", f"cloned from {primary} by an earlier run that was ended before it had started it")


def _no_primary(name: str, instances: Instances, kinds: Mapping[str, str]) -> tuple[str, str]:
    found = [
        f"{other} is {instance.state if instance else 'unreachable'}"
        for other, instance in instances.items()
        if kinds[other] in (_OURS, _PARTIAL, _UNREACHABLE)
    ]
    return (
        f"{name} has no primary to be cloned from: {', '.join(found)}",
        "Start the primary that was stopped, or run failover.yml; then run this again.",
    )


def _unreachable() -> Action:
    return Action("unreachable", "did not answer; run this again when it is back")


def _refuse(code: str, reason: str, remedy: str) -> Action:
    return Action("refuse", reason, code, remedy)

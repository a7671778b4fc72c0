# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of an unplanned failover, made from what all hosts saw: what is done, or every reason why it is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.failover import fencing
from ansible_collections.dbops.fleet.plugins.module_utils.failover.confirm import Confirmation, confirm
from ansible_collections.dbops.fleet.plugins.module_utils.failover.cooldown import (
    DEFAULT_SECONDS,
    refuse_within_cooldown,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.election import (
    DEFAULT_MAXIMUM_LOSS_BYTES,
    Election,
    Policy,
    Standing,
    elect,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.lost_primary import (
    identify_primary,
    last_known_rule,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.orchestrators import refuse_managed
from ansible_collections.dbops.fleet.plugins.module_utils.failover.synchronous import SyncRule
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_request import FailoverRequest, Member
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_steps import STEPS
from ansible_collections.dbops.fleet.plugins.module_utils.failover.vantage import Sight
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts


@dataclass(frozen=True)
class Orders(Record):
    """What the operator decided, beforehand or on the command line. Overrides name the cluster or the member.

    Attributes:
        primary: the member that was the primary, where that cannot be told otherwise.
        candidate: promote this one and no other.
        force: the cluster: fail over although the primary is alive (it is fenced first).
        accept_data_loss, without_fence, ignore_cooldown: the cluster.
        operator_fenced: the member that a person has seen off.
        cooldown_seconds: 0 switches the guard off.
        restart_crashed: start PostgreSQL again on a reachable host where it only crashed, rather than fail over.
        drivers: fences that are set up for the members, beside "ssh" and "quorum": "command", "ec2", "pooler_cut".
    """

    primary: str | None = None
    candidate: str | None = None
    force: str | None = None
    accept_data_loss: str | None = None
    without_fence: str | None = None
    ignore_cooldown: str | None = None
    operator_fenced: str | None = None
    cooldown_seconds: float = DEFAULT_SECONDS
    maximum_loss_bytes: int = DEFAULT_MAXIMUM_LOSS_BYTES
    restart_crashed: bool = True
    drivers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refusal(Record):
    """One reason why nothing is done."""

    code: str
    message: str
    remedy: str | None = None


@dataclass(frozen=True)
class FailoverPlan(Record):
    """What will be done.

    Attributes:
        action: "fail_over", "restart" (start PostgreSQL again where it only crashed), "finish" (an interrupted failover
            whose candidate is the primary already), "put_back" (the primary of an interrupted failover answers again,
            and its replicas do not follow it), "refuse".
        primary: the lost one; None where it cannot be told.
        worker: the host that carries it out.
        election: as far as positions are known before replicas are frozen; the worker elects again.
        fences: drivers to try, in this order.
        rungs: what is known about the fence before any is tried.
        request: for the worker.
        steps: for people.
    """

    action: str
    primary: str | None
    refusals: tuple[Refusal, ...] = ()
    confirmation: Confirmation | None = None
    worker: str | None = None
    election: Election | None = None
    fences: tuple[str, ...] = ()
    rungs: tuple[fencing.Rung, ...] = field(default_factory=tuple)
    request: FailoverRequest | None = None
    steps: tuple[str, ...] = ()
    reason: str = ""


def plan_failover(
    cluster: str, members: Sequence[Member], sights: Sequence[Sight], orders: Orders, *, now: float
) -> FailoverPlan:
    """Make the plan. All reasons to refuse are collected, not only the first.

    Args:
        cluster: its name.
        members: all of them, from the inventory.
        sights: of every host that could be reached, and of the controller.
        orders: the operator's.
        now: seconds since 1970, of the controller.
    """
    facts = _facts(members, sights)
    refusals: list[Refusal] = []
    begun = next((sight for sight in sights if sight.promoting), None)
    _collect(refusals, lambda: refuse_managed(facts.values(), "failover"))
    try:
        primary = identify_primary(
            facts.values(),
            cluster=cluster,
            promoting=begun.promoting if begun else None,
            named=orders.primary,
        )
    except Refused as error:
        return FailoverPlan("refuse", None, (*refusals, _refusal(error)), reason=str(error))
    if begun and begun.promoting == primary and facts[primary].is_primary and not refusals:
        lost = begun.promoting_from if begun.promoting_from in facts else primary
        return FailoverPlan(
            "finish",
            lost,
            worker=begun.vantage,
            request=replace(_request(cluster, lost, members, facts, sights, orders, None), finish=True),
            reason=f"an interrupted failover had made {primary} the primary already",
        )
    confirmation = _confirmation(primary, facts, sights, cluster)
    forced = orders.force == cluster and confirmation.verdict == "alive"
    left = next((sight for sight in sights if sight.unfinished == primary), None)
    if confirmation.verdict == "alive" and left and _frozen(facts) and not forced and not refusals:
        return FailoverPlan(
            "put_back",
            primary,
            confirmation=confirmation,
            worker=left.vantage,
            request=replace(_request(cluster, primary, members, facts, sights, orders, None), put_back=True),
            steps=(f"Let the replicas follow {primary} again", f"Point every pooler at {primary} and let clients go"),
            reason=f"{primary} is alive, and an interrupted failover has cut its replicas off",
        )
    if not confirmation.allows_failover and not forced:
        refusals.append(Refusal(confirmation.verdict, confirmation.reason, confirmation.remedy))
    # Started again it would be a replica: a fence or a switchover that did not come to its end has seen to that.
    kept_out = any(sight.fenced or sight.standby_signal for sight in sights if sight.vantage == primary)
    if confirmation.verdict == "crashed" and orders.restart_crashed and not kept_out and not refusals:
        return FailoverPlan(
            "restart",
            primary,
            confirmation=confirmation,
            worker=primary,
            reason=f"{confirmation.reason}; starting it again loses nothing",
            steps=(f"Start PostgreSQL on {primary}",),
        )
    unfinished = begun is not None and begun.promoting == primary
    if not unfinished:
        ends = [sight.last_failover for sight in sights if sight.last_failover is not None]
        _collect(
            refusals,
            lambda: refuse_within_cooldown(
                cluster,
                ends,
                now,
                cooldown_seconds=orders.cooldown_seconds,
                overridden_for=orders.ignore_cooldown,
            ),
        )
    request = _request(cluster, primary, members, facts, sights, orders, confirmation)
    election = None
    try:
        election = _preview(request, facts)
    except Refused as error:
        refusals.append(_refusal(error))
    return _with_steps(refusals, confirmation, election, request, orders, sights)


def _with_steps(
    refusals: list[Refusal],
    confirmation: Confirmation,
    election: Election | None,
    request: FailoverRequest,
    orders: Orders,
    sights: Sequence[Sight],
) -> FailoverPlan:
    old = request.old.name
    reachable = any(sight.vantage == old for sight in sights)
    offered = {"ssh": reachable, **dict.fromkeys(orders.drivers, True)}
    tried = tuple(driver for driver in fencing.DRIVERS if offered.get(driver))
    steps: list[str] = ["Hold clients at every pooler, with a timer that lets them go again"]
    steps += [f"Fence {old}: {', then '.join(tried) or 'no driver is set up; only the quorum of replicas is left'}"]
    steps += [step.title for step in STEPS]
    steps.append("Report")
    worker = election.candidate if election else None
    reason = "; ".join(refusal.message for refusal in refusals) or confirmation.reason
    return FailoverPlan(
        "refuse" if refusals else "fail_over",
        old,
        tuple(refusals),
        confirmation,
        worker,
        election,
        tried,
        request.rungs,
        request,
        tuple(steps),
        reason,
    )


def _facts(members: Sequence[Member], sights: Sequence[Sight]) -> dict[str, MemberFacts]:
    """Facts of every member under its inventory name; "unreachable" without a look from its own host."""
    seen = {sight.vantage: sight.member for sight in sights if sight.member is not None}
    facts = {}
    for member in members:
        found = seen.get(member.name)
        if found is None:
            error = "its host could not be reached over SSH"
            facts[member.name] = MemberFacts(member.name, member.address, member.port, error=error)
        else:
            facts[member.name] = replace(found, name=member.name, address=member.address)
    return facts


def _frozen(facts: dict[str, MemberFacts]) -> bool:
    """Whether some replica was told to follow nobody."""
    return any(one.is_standby and one.settings.get("primary_conninfo") == "" for one in facts.values())


def _confirmation(primary: str, facts: dict[str, MemberFacts], sights: Sequence[Sight], cluster: str) -> Confirmation:
    probes, streams = [], []
    place = facts[primary]
    for sight in sights:
        probes += [probe for name, probe in sight.probes if name == primary]
        if sight.stream is None or sight.member is None or sight.vantage == primary:
            continue
        receiver = sight.member.receiver
        mine = receiver is None or (
            receiver.sender_host in (place.address, place.name) and receiver.sender_port in (place.port, None)
        )
        streams.append(replace(sight.stream, from_primary=mine))
    local = next((facts[primary] for sight in sights if sight.vantage == primary), None)
    return confirm(primary, probes, streams, local, cluster=cluster)


def _request(
    cluster: str,
    primary: str,
    members: Sequence[Member],
    facts: dict[str, MemberFacts],
    sights: Sequence[Sight],
    orders: Orders,
    confirmation: Confirmation | None,
) -> FailoverRequest:
    ends = {sight.vantage: sight.wal_end for sight in sights}
    rule, commit = last_known_rule(primary, facts.values())
    free = {sight.vantage: sight.free_mb for sight in sights}
    placed = {
        member.name: replace(member, on_disk_end=ends.get(member.name), free_mb=free.get(member.name))
        for member in members
    }
    rungs: tuple[fencing.Rung, ...] = ()
    if orders.operator_fenced == primary:
        rungs = (fencing.Rung("operator", fencing.CONFIRMED, (f"the operator has seen {primary} off",)),)
    return FailoverRequest(
        operation="",
        cluster=cluster,
        old=placed[primary],
        replicas=tuple(member for name, member in placed.items() if name != primary),
        rungs=rungs,
        policy=Policy(orders.candidate, orders.accept_data_loss == cluster, orders.maximum_loss_bytes),
        without_fence=orders.without_fence == cluster,
        synchronous=None if rule is None else str(rule),
        synchronous_commit=commit,
        last_known=confirmation.last_known_lsn if confirmation else None,
        on_primary_disk=_on_primary_disk(primary, facts, ends),
    )


def _on_primary_disk(primary: str, facts: dict[str, MemberFacts], ends: dict[str, Lsn | None]) -> Lsn | None:
    """Comparable only where the replicas are on the same timeline."""
    newest = max((f.timeline or 0 for f in facts.values() if f.is_standby), default=0)
    return ends.get(primary) if facts[primary].timeline == newest else None


def _preview(request: FailoverRequest, facts: dict[str, MemberFacts]) -> Election:
    standings = [
        Standing.of(
            facts[member.name], priority=member.priority, on_disk_end=member.on_disk_end, free_mb=member.free_mb
        )
        for member in request.replicas
    ]
    return elect(
        standings,
        None if request.synchronous is None else SyncRule.parse(request.synchronous),
        request.policy,
        cluster=request.cluster,
        last_known=request.last_known,
        on_primary_disk=request.on_primary_disk,
    )


def _collect(refusals: list[Refusal], check: Callable[[], None]) -> None:
    try:
        check()
    except Refused as error:
        refusals.append(_refusal(error))


def _refusal(error: Refused) -> Refusal:
    return Refusal(str(error.details.get("code", "refused")), error.message, error.remedy)

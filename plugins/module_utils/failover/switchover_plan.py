# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a switchover: the candidate, every check, and the order for the worker. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_checks import (
    CheckResult,
    Scene,
    check_candidate,
    check_cluster,
    refusals,
    synchronous_after,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_request import (
    Place,
    PoolerPlace,
    SwitchoverRequest,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_steps import POINT_OF_NO_RETURN, STEPS
from ansible_collections.dbops.fleet.plugins.module_utils.failover.synchronous import SyncRule
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.facts import PoolerFacts
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.guard import application_name
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.judge import pause_obstacles

# Obstacles of a pause that cost clients a wait, not the switchover.
_MILD = frozenset({"login_retry"})


@dataclass(frozen=True)
class SwitchoverPlan:
    """What would be done.

    Attributes:
        candidate: the chosen one; None where nobody can be.
        why: one sentence about the choice.
        checks: every result, of the cluster, the candidate and the poolers.
        request: the order; None where a check refuses.
    """

    candidate: str | None
    why: str
    checks: tuple[CheckResult, ...]
    request: SwitchoverRequest | None

    @property
    def refusals(self) -> tuple[CheckResult, ...]:
        """The reasons not to."""
        return refusals(self.checks)

    def steps(self) -> list[dict[str, Any]]:
        """The steps as they will be carried out."""
        undoable = True
        listed = []
        for step in STEPS:
            undoable = undoable and step.name != POINT_OF_NO_RETURN
            listed.append({"name": step.name, "title": step.title, "phase": step.phase, "undoable": undoable})
        return listed


def choose(scene: Scene, wanted: str | None, priorities: Mapping[str, int]) -> tuple[str | None, str]:
    """The candidate and why: the one that was asked for, or the best of those that no check refuses.

    One of priority 0 has to be asked for, as in a failover.
    """
    primary = scene.primary.name if scene.primary else None
    names = [member.name for member in scene.members]
    if wanted is not None:
        return (wanted, "it was asked for") if wanted in names else (None, f"{wanted} is no member of this cluster")
    standbys = [member for member in scene.members if member.name != primary]
    able = [member for member in standbys if not refusals(check_candidate(scene, member.name))]
    good = [member for member in able if priorities.get(member.name, 100) > 0]
    if not good:
        kept = (
            f"; priority 0 keeps {', '.join(member.name for member in able)} from it unless it is named" if able else ""
        )
        return None, f"no standby can take over{kept}"
    best = min(good, key=lambda m: (-priorities.get(m.name, 100), -(m.receive_lsn or 0), m.name))
    others = ", ".join(member.name for member in good if member is not best) or "nobody"
    return best.name, f"of those that can take over ({others} besides) it has the highest priority, then the least lag"


def check_poolers(
    scene: Scene, places: Sequence[PoolerPlace], facts: Mapping[str, PoolerFacts], operation: str | None
) -> tuple[CheckResult, ...]:
    """The checks of the poolers.

    Args:
        scene: with the primary that the poolers should point at.
        places: the processes and their databases.
        facts: by name of the process, with clients.
        operation: whose dead-man has to be armed; None in a plan that is made before they are.
    """
    results: list[CheckResult] = []
    for place in places:
        pooler = facts[place.name]
        obstacles = pause_obstacles(
            pooler, place.databases, scene.budgets.pause, accept_session_mode=scene.policy.accept_session_mode
        )
        for obstacle in obstacles:
            result = "warn" if obstacle.code in _MILD else "refuse"
            results.append(
                CheckResult(f"pooler_{obstacle.code}", result, obstacle.message, place.name, obstacle.remedy)
            )
        if pooler.error is None:
            results.extend(_pooler_target(scene, place, pooler))
            if operation is not None:
                results.append(_dead_man(place, pooler, operation))
            if not obstacles:
                results.append(CheckResult("pooler_pausable", "ok", "can be paused now", place.name))
    if places and scene.policy.dead_man_seconds < scene.budgets.pause + scene.budgets.drain:
        found = f"the dead-men resume after {scene.policy.dead_man_seconds:g} s"
        remedy = f"Give them more than {scene.budgets.pause + scene.budgets.drain:g} s, the longest planned pause."
        results.append(CheckResult("dead_man_time", "refuse", found, None, remedy))
    return tuple(results)


def _pooler_target(scene: Scene, place: PoolerPlace, pooler: PoolerFacts) -> list[CheckResult]:
    primary = scene.primary
    results = []
    for name in place.databases:
        database = pooler.database(name)
        if primary is None or database is None or (database.host, database.port) == (primary.address, primary.port):
            continue
        found = f"{name} points at {database.host}:{database.port}, not at {primary.name}"
        remedy = "Run playbooks/setup.yml, which points poolers at the primary."
        results.append(CheckResult("pooler_target", "refuse", found, place.name, remedy))
    return results


def _dead_man(place: PoolerPlace, pooler: PoolerFacts, operation: str) -> CheckResult:
    name = application_name(operation)
    if any(client.application_name == name for client in pooler.clients):
        return CheckResult("dead_man", "ok", "its dead-man watches it", place.name)
    remedy = "Arm it (dbops.fleet.pgbouncer_pool with state=staged, as playbooks/switchover.yml does)."
    return CheckResult("dead_man", "refuse", f"no dead-man of {operation} watches it", place.name, remedy)


def make_plan(
    scene: Scene,
    *,
    cluster: str,
    operation: str,
    wanted: str | None,
    priorities: Mapping[str, int],
    poolers: Sequence[PoolerPlace],
    pooler_checks: Sequence[CheckResult],
    further: Sequence[CheckResult] = (),
    terminate_writers: bool = False,
) -> SwitchoverPlan:
    """Put it all together.

    Args:
        scene: the facts.
        cluster: its name.
        operation: id of the operation.
        wanted: the candidate that was asked for, or None.
        priorities: by member, higher first, 0 only if it was asked for; 100 where none is given.
        poolers: to be paused; none for a cluster without.
        pooler_checks: results of `check_poolers`.
        further: results of checks that had to act, such as logins.
        terminate_writers: see `SwitchoverRequest`.
    """
    candidate, why = choose(scene, wanted, priorities)
    checks = [*check_cluster(scene)]
    if candidate is None:
        remedy = "See the checks of each standby. One that has none against it may be named."
        checks.append(CheckResult("candidate", "refuse", why, None, remedy))
        for member in scene.members:
            if not member.is_primary:
                checks.extend(check_candidate(scene, member.name))
    else:
        checks.append(CheckResult("candidate", "ok", why, candidate))
        checks.extend(check_candidate(scene, candidate))
    # What was tried of a standby that is not to take over is no reason against this switchover.
    concerned = (None, candidate, scene.local) if candidate else (None, *(member.name for member in scene.members))
    checks.extend([*pooler_checks, *(check for check in further if check.member in concerned)])
    request = None
    if candidate is not None and scene.primary is not None and not refusals(checks):
        request = _request(scene, candidate, cluster, operation, poolers, terminate_writers)
    return SwitchoverPlan(candidate, why, tuple(checks), request)


def _request(
    scene: Scene,
    candidate: str,
    cluster: str,
    operation: str,
    poolers: Sequence[PoolerPlace],
    terminate_writers: bool,
) -> SwitchoverRequest:
    primary = scene.primary
    if primary is None or primary.timeline is None:
        raise ValueError("a request needs a primary")
    slots = {member.name: member.settings.get("primary_slot_name") or None for member in scene.members}
    with_slots = any(slots[member.name] for member in scene.members if member.is_standby)
    places = {
        member.name: Place(
            member.name,
            member.address,
            member.port,
            slots[member.name] or (slot_name(member.name) if with_slots and member.is_primary else None),
        )
        for member in scene.members
    }
    after = synchronous_after(scene, candidate)
    now = scene.member(candidate).settings.get("synchronous_standby_names", "")
    rule = SyncRule.parse(after)
    siblings = tuple(
        place for name, place in places.items() if name not in (candidate, primary.name) and not _cascaded(scene, name)
    )
    return SwitchoverRequest(
        operation=operation,
        cluster=cluster,
        old=places[primary.name],
        new=places[candidate],
        timeline=primary.timeline,
        siblings=siblings,
        poolers=tuple(poolers),
        synchronous=after if str(SyncRule.parse(now)) != after else None,
        required_standbys=rule.required,
        terminate_writers=terminate_writers,
        budgets=scene.budgets,
    )


def _cascaded(scene: Scene, name: str) -> bool:
    """Whether it streams from another standby. It then follows the new timeline by itself, through that one."""
    receiver = scene.member(name).receiver
    return receiver is not None and receiver.status == "streaming" and scene.sender(name) is None


def slot_name(member: str) -> str:
    """The slot of a member by the fleet's rule: its inventory name, in what PostgreSQL allows."""
    return "".join(character if character.isalnum() else "_" for character in member.lower())

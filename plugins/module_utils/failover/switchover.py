# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A switchover from the module's side: join or resume what is under way, else check, plan, start the worker, and tell.

The door of `dbops.fleet.replica_promote`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, OperationFailed, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.failover import journal as journals
from ansible_collections.dbops.fleet.plugins.module_utils.failover.journal import Journal, Progress
from ansible_collections.dbops.fleet.plugins.module_utils.failover.lock import LockFile, boot_id
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_checks import CheckResult, Policy, Scene
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_logins import (
    PROBE,
    judge_logins,
    read_logins,
    read_rules,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_plan import (
    SwitchoverPlan,
    check_poolers,
    make_plan,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_record import record_of
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_request import (
    Access,
    Budgets,
    PoolerPlace,
    SwitchoverRequest,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_software import (
    compare,
    judge_restart,
    read_restart,
    read_software,
    read_used_extensions,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_worker import (
    decision_now,
    endpoint_of,
    instance_of,
    launch,
)
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.facts import PoolerFacts
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.read import read_facts
from ansible_collections.dbops.fleet.plugins.module_utils.postgres import session
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.conninfo import REPLICATION, between_members
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.instance import Instance
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts
from ansible_collections.dbops.fleet.plugins.module_utils.topology.judge import judge
from ansible_collections.dbops.fleet.plugins.module_utils.topology.read import Address, read_cluster, read_local
from ansible_collections.dbops.fleet.plugins.module_utils.topology.report import cluster_report

# A worker needs this long at most until it holds its lock.
_START_SECONDS = 20.0
_FAILED_STATES = frozenset({"rolled_back", "needs_operator", "refused"})


def replica_promote(params: Mapping[str, Any], check_mode: bool) -> Outcome:
    """Switch a cluster over. `params` are the module's.

    Raises:
        Refused: a check says no; all results are in the details.
        OperationFailed: it was rolled back, or needs the operator; the record is in the details.
    """
    if not params["operation"] and not check_mode and params["poolers"]:
        remedy = "Arm them with this operation's id first, or use playbooks/switchover.yml, which does."
        raise Refused("the option operation has to name the dead-men that watch the poolers", remedy=remedy)
    directory = Path(params["state_directory"]) / "switchover" / params["cluster"]
    access = _access(params)
    pending = journals.unfinished(directory)
    if pending is not None:
        return _go_on(pending, params, access, check_mode)
    scene, plan = _plan(params, access)
    primary = scene.primary
    if primary is not None and params["candidate"] == primary.name:
        return _nothing_to_do(params, plan, primary.name)
    told: dict[str, Any] = {
        "checks": [check.to_dict() for check in plan.checks],
        "steps": plan.steps(),
        "candidate": plan.candidate,
    }
    if plan.request is None:
        raise Refused(_why_not(plan), remedy=_remedies(plan), state="refused", **told)
    before = {"primary": plan.request.old.name, "timeline": plan.request.timeline}
    after = {"primary": plan.request.new.name, "timeline": plan.request.timeline + 1}
    warnings = tuple(
        f"{check.member or params['cluster']}: {check.found}" for check in plan.checks if check.result == "warn"
    )
    if check_mode:
        result = {"state": "planned", "operation": params["operation"], **told}
        return Outcome(True, result, before, after, warnings)
    path = _begin(directory, plan.request, access)
    end = _follow(path, access, launched=True)
    told["view"] = _view(params, access)
    return _outcome(path, end, told, before, after, warnings)


def _access(params: Mapping[str, Any]) -> Access:
    instance = Instance.debian(params["version"], params["instance"], data_directory=params["data_directory"])
    binaries = params["binaries"] or str(instance.binaries)
    # A data directory elsewhere is not the one that Debian's tools and units would start.
    debians = instance.data_directory == Instance.debian(params["version"], params["instance"]).data_directory
    config = instance.config_directory if debians else None
    return Access(
        version=instance.version,
        name=instance.name,
        data_directory=str(instance.data_directory),
        binaries=binaries,
        config_directory=str(config or ""),
        port=params["port"] or instance.port,
        socket_directory=params["socket_directory"] or instance.socket_directory,
        unit=instance.unit if config else "",
        conninfos={name: str(value) for name, value in params["conninfos"].items()},
        console_user=params["console_user"],
        passfile=params["passfile"] or "",
        sslmode=params["sslmode"],
        sslrootcert=params["sslrootcert"] or "",
        lock_directory=params["lock_directory"],
    )


# --- plan ---


def _plan(params: Mapping[str, Any], access: Access) -> tuple[Scene, SwitchoverPlan]:
    instances = {name: facts for name, facts in params["instances"].items() if facts}
    scene = Scene(
        members=_read_members(params, access),
        local=params["member"],
        policy=Policy(
            max_lag_bytes=params["max_lag_mb"] * 1024 * 1024,
            accept_slot_loss=params["accept_slot_loss"],
            accept_session_mode=params["accept_session_mode"],
            dead_man_seconds=params["dead_man_seconds"],
        ),
        budgets=Budgets(drain=params["drain_seconds"], pause=params["pause_seconds"], follow=params["follow_seconds"]),
        free_mb={name: facts["disk_free_mb"] for name, facts in instances.items() if facts.get("disk_free_mb")},
        orchestrated=tuple(
            MemberFacts.from_dict(facts["member"]) for facts in instances.values() if facts.get("member")
        ),
    )
    places = tuple(
        PoolerPlace(one["name"], one["host"], one["port"], tuple(one["databases"]), one.get("process"))
        for one in params["poolers"]
    )
    facts = _read_poolers(places, access)
    plan = make_plan(
        scene,
        cluster=params["cluster"],
        operation=params["operation"] or datetime.now(UTC).strftime("%Y%m%dT%H%M%S"),
        wanted=params["candidate"],
        priorities={one["name"]: one["priority"] for one in params["members"]},
        poolers=places,
        pooler_checks=check_poolers(scene, places, facts, params["operation"]),
        further=[
            *_replication_logins(params, scene),
            *_on_candidates(params, scene, access),
            *_lock_is_free(params, access),
        ],
        terminate_writers=params["terminate_writers"],
    )
    return scene, plan


def _read_members(params: Mapping[str, Any], access: Access) -> tuple[MemberFacts, ...]:
    here = params["member"]
    others = [one for one in params["members"] if one["name"] != here]
    own = next((one for one in params["members"] if one["name"] == here), None)
    if own is None:
        names = ", ".join(one["name"] for one in params["members"])
        raise FleetError(f"{here} is not among the members ({names})", remedy="Correct the options member and members.")
    local = read_local(instance_of(access), own["name"], own["address"])
    addresses = [Address(one["name"], one["address"], one["port"], access.conninfos.get(one["name"])) for one in others]
    return (local, *read_cluster(addresses))


def _read_poolers(places: Sequence[PoolerPlace], access: Access) -> dict[str, PoolerFacts]:
    endpoints = [endpoint_of(access, place) for place in places]
    found = read_facts(endpoints, 5.0) if endpoints else ()
    return {place.name: facts for place, facts in zip(places, found, strict=True)}


def _replication_logins(params: Mapping[str, Any], scene: Scene) -> list[CheckResult]:
    """Whether the others will be let in by each standby for replication: tried, not read from pg_hba.conf."""
    if params["conninfos"]:
        return []
    results = []
    for member in scene.members:
        if not member.is_standby or (params["candidate"] and member.name != params["candidate"]):
            continue
        conninfo = between_members(member.address, member.port, application_name=PROBE, user=REPLICATION, dbname=None)
        try:
            session.connect_remote(conninfo, replication="true").close()
            results.append(CheckResult("replication_login", "ok", "lets this host in for replication", member.name))
        except session.NotConnected as error:
            remedy = "Let the other members in (pg_hba.conf: playbooks/setup.yml writes it)."
            results.append(CheckResult("replication_login", "refuse", str(error), member.name, remedy))
    return results


def _on_candidates(params: Mapping[str, Any], scene: Scene, access: Access) -> list[CheckResult]:
    """What only a session with a candidate can tell, of every possible one: its software, and whom it would let in."""
    driver = session.require_psycopg()
    try:
        used = read_used_extensions(access.port, access.socket_directory)
        with session.connect_local(access.port, access.socket_directory) as connection:
            here, logins = read_software(connection), read_logins(connection)
    except (driver.Error, FleetError):
        # It does not answer: other checks say so.
        return []
    results = judge_restart(params["member"], access.unit, read_restart(access.unit))
    for member in scene.members:
        if not member.is_standby or (params["candidate"] and member.name != params["candidate"]):
            continue
        conninfo = access.conninfos.get(member.name) or between_members(
            member.address, member.port, application_name=PROBE
        )
        name, what, remedy = "candidate_extensions", "its collations and extensions", "Compare them by hand."
        try:
            with session.connect_remote(conninfo) as connection:
                results.extend(compare(member.name, here, read_software(connection), used))
                name, what = "candidate_logins", "its pg_hba.conf"
                remedy = "Run playbooks/setup.yml, which grants that to fleet_operator, or compare the files by hand."
                results.append(judge_logins(member.name, read_rules(connection), logins))
        except (driver.Error, FleetError) as error:
            found = f"{what} cannot be read: {' '.join(str(error).split())}"
            results.append(CheckResult(name, "warn", found, member.name, remedy))
    return results


def _lock_is_free(params: Mapping[str, Any], access: Access) -> list[CheckResult]:
    owner = LockFile(Path(access.lock_directory), params["cluster"]).owner()
    if owner is None:
        return [CheckResult("lock", "ok", "no other change of roles is at work here", params["member"])]
    return [CheckResult("lock", "refuse", f"{owner} is at work", params["member"], "Wait for its end.")]


def _why_not(plan: SwitchoverPlan) -> str:
    sentences = [f"{check.member + ': ' if check.member else ''}{check.found}" for check in plan.refusals]
    return f"no switchover: {'; '.join(sentences)}"


def _remedies(plan: SwitchoverPlan) -> str:
    return " ".join(dict.fromkeys(check.remedy for check in plan.refusals if check.remedy))


def _nothing_to_do(params: Mapping[str, Any], plan: SwitchoverPlan, name: str) -> Outcome:
    result = {
        "state": "ok",
        "reason": f"{name} is the primary already",
        "operation": params["operation"],
        "checks": [check.to_dict() for check in plan.checks],
    }
    return Outcome(False, result)


# --- work ---


def _begin(directory: Path, request: SwitchoverRequest, access: Access) -> Path:
    journal = Journal.create(directory / f"{request.operation}.jsonl")
    journal.append("start", request=request.to_dict(), access=access.to_dict(), boot=boot_id())
    journal.close()
    launch(journal.path, _run_directory(access, request.operation))
    return journal.path


def _run_directory(access: Access, operation: str) -> Path:
    return Path(access.lock_directory) / f"switchover-{operation}"


def _go_on(path: Path, params: Mapping[str, Any], access: Access, check_mode: bool) -> Outcome:
    """Join the operation that is under way, or resume the one that was interrupted."""
    progress = Progress.of(journals.read(path))
    request = SwitchoverRequest.from_dict(progress.request["request"]) if progress.request else None
    if request is None:
        # Killed between making the journal and its first line: nothing was begun.
        if not check_mode:
            journal = Journal.open(path)
            journal.append("end", state="refused", reason="it never began", next="", problems=[])
            journal.close()
        return Outcome(True, {"state": "rolled_back", "reason": f"{path.stem} never began", "resumed": True})
    owner = LockFile(Path(access.lock_directory), request.cluster).owner()
    before = {"primary": request.old.name, "timeline": request.timeline}
    if check_mode:
        decision = None if owner else decision_now(path)
        result = {
            "state": "planned",
            "operation": request.operation,
            "resumed": True,
            "reason": f"{owner} is at work"
            if owner
            else f"would {decision.action}: {decision.reason}"
            if decision
            else "",
        }
        return Outcome(True, result, before)
    if owner is None:
        launch(path, _run_directory(access, request.operation))
    end = _follow(path, access, launched=owner is None)
    after = {"primary": request.new.name, "timeline": request.timeline + 1}
    return _outcome(path, end, {"resumed": True, "view": _view(params, access)}, before, after, ())


def _follow(path: Path, access: Access, *, launched: bool) -> dict[str, Any]:
    """Wait for the worker's end; a worker that dies is replaced once, and the new one decides from the journal."""
    cluster = path.parent.name
    lock = LockFile(Path(access.lock_directory), cluster)
    seen = len(journals.read(path)) if launched else 0
    grace = time.monotonic() + _START_SECONDS
    replaced = not launched
    while True:
        entries = journals.read(path)
        if entries and entries[-1].event == "end" and (len(entries) > seen or not launched):
            return entries[-1].data
        if lock.owner() is not None:
            grace = time.monotonic() + 2.0
        elif time.monotonic() > grace:
            if replaced:
                raise OperationFailed(
                    "the worker of the switchover died twice",
                    remedy="Read `journalctl -u 'dbops-fleet-switchover-*'` on this host, then run this again.",
                    state="needs_operator",
                )
            replaced = True
            launch(path, _run_directory(access, path.stem))
            grace = time.monotonic() + _START_SECONDS
        time.sleep(0.05)


def _view(params: Mapping[str, Any], access: Access) -> dict[str, Any]:
    """The cluster as it is afterwards, as this host sees it."""
    view = judge(_read_members(params, access))
    return {**view.to_dict(), "report": cluster_report(params["cluster"], view)}


def _outcome(
    path: Path,
    end: Mapping[str, Any],
    told: Mapping[str, Any],
    before: dict[str, Any],
    after: dict[str, Any],
    warnings: tuple[str, ...],
) -> Outcome:
    record = record_of(journals.read(path), str(path))
    result = {**told, **record}
    if end["state"] in _FAILED_STATES:
        error = Refused if end["state"] == "refused" else OperationFailed
        raise error(f"switchover {end['state']}: {end['reason']}", remedy=f"Next: {end['next']}.", **result)
    problems = tuple(str(problem) for problem in end.get("problems", ()))
    return Outcome(True, result, before, after, warnings + problems)

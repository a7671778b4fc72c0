# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the steps of an unplanned failover, takes them back, and goes on with one that was interrupted."""

from __future__ import annotations

from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.failover.journal import Journal, Progress
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_request import FailoverRequest
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_steps import (
    POINT_OF_NO_RETURN,
    STEPS,
    Run,
    note,
    sentence,
    upstream,
)

NAMES = tuple(step.name for step in STEPS)
NO_RETURN = NAMES.index(POINT_OF_NO_RETURN)
# Behind the point of no return: without these the new primary must not get clients.
_ESSENTIAL = frozenset({"promote", "verify"})


def execute(run: Run, journal: Journal, *, first: int = 0) -> dict[str, Any]:
    """Run the steps from number `first` on, and undo them where one before the point of no return fails.

    Returns:
        The end, which is also the journal's last line: `state` (ok, degraded, refused, rolled_back, needs_operator),
        `reason`, `next` (the command to run next; empty for ok), `problems`, `details`.
    """
    for index in range(first, len(STEPS)):
        step = STEPS[index]
        begun = False
        try:
            # No step is begun that a rerun would not know of, as long as there is a way back.
            _note(run, journal, "begin", step.name, needed=index <= NO_RETURN)
            begun = True
            found = step.do(run) or {}
            run.state.update(found)
            _note(run, journal, "done", step.name, needed=index < NO_RETURN, **found)
        except Exception as error:
            # Also one that nobody expected: replicas must not stay frozen for it.
            _note(run, journal, "failed", step.name, reason=sentence(error))
            if index < NO_RETURN or (not begun and first == 0):
                return roll_back(run, journal, step.title, error, begun=NAMES[: index + 1])
            if step.name in _ESSENTIAL:
                reason = f"{sentence(error)}; clients are held"
                return _end(run, journal, "needs_operator", reason, _again(run.request))
            run.problems.append(sentence(error))
    return _finished(run, journal)


def _note(
    run: Run, journal: Journal, event: str, step: str | None = None, *, needed: bool = False, **data: Any
) -> None:
    """Write a line. One that is not needed for a rerun is done without where the disk is full."""
    try:
        journal.append(event, step, **data)
    except OSError as error:
        if needed:
            raise
        problem = f"the journal could not be written ({error.strerror})"
        if problem not in run.problems:
            run.problems.append(problem)


def roll_back(run: Run, journal: Journal, title: str, error: Exception, begun: tuple[str, ...]) -> dict[str, Any]:
    """Undo the steps that were begun, the last one first. Nothing was promoted: replicas go back to whom they followed.

    An undo that fails is told and does not stop the rest.
    """
    _undo(run, journal, begun)
    refused = isinstance(error, Refused)
    reason = error.message if isinstance(error, Refused) else f"{title}: {sentence(error)}"
    advice = (error.remedy or "") if isinstance(error, Refused) else _again(run.request)
    details = error.details if isinstance(error, Refused) else {}
    return _end(run, journal, "refused" if refused else "rolled_back", reason, advice, details)


def _undo(run: Run, journal: Journal, begun: tuple[str, ...]) -> None:
    """Undo these steps; what cannot be undone is left in `run.problems`."""
    failures = []
    for step in reversed(STEPS):
        if step.name not in begun or step.undo is None:
            continue
        _note(run, journal, "undo", step.name)
        try:
            step.undo(run)
        except Exception as problem:
            _note(run, journal, "failed", step.name, reason=sentence(problem))
            failures.append(sentence(problem))
        else:
            _note(run, journal, "undone", step.name)
    run.problems = failures


def put_back(run: Run, journal: Journal) -> dict[str, Any]:
    """Take back what an interrupted failover, which `adopt` has read, left: its primary answers again."""
    known: dict[str, str] = run.state.get("conninfo", {})
    noted = note(run)
    conninfo = {**noted["conninfo"], **known}
    for member in run.request.replicas:
        if member.name not in conninfo and member.name not in noted["unread"]:
            conninfo[member.name] = upstream(run, member, run.request.old)
    run.state["conninfo"] = conninfo
    _undo(run, journal, NAMES[:NO_RETURN])
    old = run.request.old.name
    reason = f"{old} answers again; what an interrupted failover had changed was put back"
    return _end(run, journal, "rolled_back", reason, _again(run.request) if run.problems else "")


def _finished(run: Run, journal: Journal) -> dict[str, Any]:
    new, old = run.new.name, run.request.old.name
    rejoin = f"ansible-playbook dbops.fleet.rejoin -e fleet_cluster={run.request.cluster} -e fleet_rejoin_member={old}"
    state = "degraded" if run.problems else "ok"
    return _end(run, journal, state, f"{new} is the primary", rejoin)


def _again(request: FailoverRequest) -> str:
    return f"ansible-playbook dbops.fleet.failover -e fleet_cluster={request.cluster}"


def _end(
    run: Run, journal: Journal, state: str, reason: str, advice: str, details: dict[str, Any] | None = None
) -> dict[str, Any]:
    end: dict[str, Any] = {
        "state": state,
        "reason": reason,
        "next": advice,
        "problems": run.problems,
        "details": details or {},
    }
    _note(run, journal, "end", **end)
    return end


def adopt(run: Run, earlier: Progress) -> int:
    """Take over what an interrupted failover of the same primary left, and say with which step to begin.

    Before its promotion began, everything is done anew, with what it noted: replicas may be frozen, and only its
    journal knows whom they followed. After that there is no other candidate as long as this one may be a primary.
    """
    if POINT_OF_NO_RETURN not in earlier.begun:
        run.state["conninfo"] = earlier.state.get("conninfo", {})
        source = earlier.state.get("election", {}).get("catch_up_from")
        if source and "catch_up" in earlier.begun:
            borrower = run.request.replica(earlier.state["candidate"])
            run.state |= {"lent_slot": [source, borrower.slot], "borrower": borrower.name}
        elif "lent_slot" in earlier.state:
            run.state |= {name: earlier.state[name] for name in ("lent_slot", "borrower")}
        if run.request.put_back:
            run.state = {**earlier.state, **run.state}
        return 0
    run.state.update(earlier.state)
    return NO_RETURN


def unfinished(progress: Progress) -> bool:
    """Whether a failover that promoted nobody may have left replicas without their primary."""
    if POINT_OF_NO_RETURN in progress.begun:
        return False
    return progress.end is None or (
        progress.end["state"] in ("refused", "rolled_back") and bool(progress.end["problems"])
    )


def promoting(progress: Progress) -> str | None:
    """The candidate whose promotion an unfinished failover had begun; None where it had not."""
    if progress.end is not None and progress.end.get("state") != "needs_operator":
        return None
    return progress.state.get("candidate") if POINT_OF_NO_RETURN in progress.begun else None

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the steps of a switchover, takes them back, and decides what becomes of one that was interrupted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError
from ansible_collections.dbops.fleet.plugins.module_utils.failover.journal import Journal, Progress
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_ports import (
    LocalStatus,
    PortError,
    Position,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_request import SwitchoverRequest
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_steps import (
    POINT_OF_NO_RETURN,
    STEPS,
    Run,
    StepFailed,
    restore_primary,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unexpected import told

NAMES = tuple(step.name for step in STEPS)
NO_RETURN = NAMES.index(POINT_OF_NO_RETURN)
# Steps behind the point of no return without which the new primary must not get clients.
_ESSENTIAL = frozenset({"promote", "verify"})


@dataclass(frozen=True)
class Decision:
    """What a rerun does with an operation that was interrupted.

    Attributes:
        action: "roll_back", "finish" (go on from the promotion), "close" (somebody else settled it), "ask" (operator).
        reason: one sentence.
        next: for "ask", what the operator has to do.
    """

    action: str
    reason: str
    next: str = ""


def decide(
    request: SwitchoverRequest,
    progress: Progress,
    old: LocalStatus,
    others: dict[str, Position | None],
) -> Decision:
    """Decide from the journal and the live state alone.

    Args:
        request: the interrupted operation.
        progress: of its journal.
        old: the old primary.
        others: the candidate and the siblings by name; None for one that does not answer.
    """
    new = others[request.new.name]
    primaries = [name for name, at in others.items() if at is not None and not at.in_recovery]
    if old.is_primary and primaries:
        return Decision(
            "ask",
            f"{request.old.name} and {primaries[0]} both take writes",
            f"stop PostgreSQL on {request.old.name} at once, then run playbooks/rejoin.yml for it",
        )
    stranger = next((name for name in primaries if name != request.new.name), None)
    if stranger:
        return Decision("close", f"{stranger} has become primary meanwhile, by another hand")
    if POINT_OF_NO_RETURN not in progress.begun:
        if primaries:
            return Decision("close", f"{request.new.name} was promoted by another hand")
        return Decision("roll_back", f"the promotion of {request.new.name} had not begun")
    return _after_no_return(request, progress, old, new)


def _after_no_return(
    request: SwitchoverRequest, progress: Progress, old: LocalStatus, new: Position | None
) -> Decision:
    if new is None:
        return Decision(
            "ask",
            f"{request.new.name} does not answer, and its promotion had begun: it may be the primary",
            f"bring {request.new.name} back and run this again, or run playbooks/failover.yml, which fences it first",
        )
    if not new.in_recovery:
        return Decision("finish", f"{request.new.name} is the primary")
    if old.is_primary:
        if new.streaming:
            return Decision(
                "roll_back", f"{request.old.name} was made primary again, and {request.new.name} follows it"
            )
        return Decision(
            "ask",
            f"{request.old.name} takes writes, and {request.new.name} may still carry out its promotion",
            f"restart PostgreSQL on {request.new.name} (it then forgets the promotion) and run this again",
        )
    if old.silent and not old.standby_signal:
        return Decision(
            "ask",
            f"{request.old.name} is starting as a primary",
            f"wait until PostgreSQL on {request.old.name} takes sessions, and run this again",
        )
    if new.timeline > request.timeline or old.timeline > request.timeline:
        return Decision("close", f"{request.new.name} follows another primary on a newer timeline")
    if "end" not in progress.state:
        return Decision("ask", "the journal does not say where the old primary ended", "run playbooks/failover.yml")
    return Decision("finish", f"{request.new.name} was to be promoted and has everything")


def execute(run: Run, journal: Journal, *, first: int = 0) -> dict[str, Any]:
    """Run the steps from number `first` on, and the rollback where one before the point of no return fails.

    Whatever a step fails with, foreseen or not, is an end of the step and never of the worker: clients wait.

    Returns:
        The end: also the data of the journal's last line. `state` is ok, rolled_back, degraded or needs_operator.
    """
    for index in range(first, len(STEPS)):
        step = STEPS[index]
        try:
            journal.append("begin", step.name, sync=step.durable)
        except OSError as error:
            # A rerun that cannot read of the promotion would take back what has no way back.
            if first == 0 and index <= NO_RETURN:
                reason = f"the journal cannot be written: {_said(error)}"
                return roll_back(run, journal, reason, begun=NAMES[:index])
            _note_full_disk(run, error)
        try:
            found = step.do(run) or {}
            run.state.update(found)
            if index < NO_RETURN:
                journal.append("done", step.name, sync=False, **found)
            else:
                _tell(run, journal, "done", step.name, sync=False, **found)
        except Exception as error:
            reason = _said(error)
            _tell(run, journal, "failed", step.name, reason=reason)
            if index < NO_RETURN:
                return roll_back(run, journal, f"{step.title}: {reason}", begun=NAMES[: index + 1])
            if step.name in _ESSENTIAL:
                return _ask(run, journal, reason)
            run.problems.append(f"{step.title}: {reason}")
    return _finished(run, journal)


def _tell(run: Run, journal: Journal, event: str, step: str | None = None, *, sync: bool = True, **data: Any) -> None:
    """Write a line that no rerun needs: while clients wait, a full disk is a problem to be told and no more."""
    try:
        journal.append(event, step, sync=sync, **data)
    except OSError as error:
        _note_full_disk(run, error)


def _note_full_disk(run: Run, error: OSError) -> None:
    sentence = f"the journal could not be written: {_said(error)}"
    if sentence not in run.problems:
        run.problems.append(sentence)


def _said(error: Exception) -> str:
    """The reason for the operator. An error that nobody foresaw may quote a secret: only where it was is told."""
    return str(error) if isinstance(error, StepFailed | PortError | FleetError) else told(error)


def roll_back(run: Run, journal: Journal, reason: str, begun: tuple[str, ...]) -> dict[str, Any]:
    """Make the old primary the primary, then undo the steps that were begun, the last one first.

    Where the old primary cannot be made primary, nothing else is undone: clients must not be let in. Any other undoing
    that fails is told and does not stop the rest.
    """
    failures: list[str] = []
    undos = [(step.name, step.undo) for step in reversed(STEPS) if step.name in begun and step.undo is not None]
    for name, undo in [("restore_primary", restore_primary), *undos]:
        _tell(run, journal, "undo", name)
        try:
            undo(run)
        except Exception as error:
            said = _said(error)
            _tell(run, journal, "failed", name, reason=said)
            failures.append(said)
            if name == "restore_primary":
                end = {
                    "state": "needs_operator",
                    "reason": f"{reason}; and {run.request.old.name} could not be made primary again: {said}",
                    "next": f"look at PostgreSQL's log on {run.request.old.name}, then run this again; "
                    "or run playbooks/failover.yml",
                }
                return _end(run, journal, end, failures)
        else:
            _tell(run, journal, "undone", name, sync=False)
    end = {"state": "rolled_back", "reason": reason, "next": "remove the reason and run this again"}
    return _end(run, journal, end, failures)


def _ask(run: Run, journal: Journal, reason: str) -> dict[str, Any]:
    end = {
        "state": "needs_operator",
        "reason": f"{reason}; clients are held, {run.request.old.name} stays out",
        "next": f"repair {run.request.new.name} and run this again; or run playbooks/failover.yml",
    }
    return _end(run, journal, end, [])


def _finished(run: Run, journal: Journal) -> dict[str, Any]:
    new = run.request.new.name
    if run.unserved:
        names = ", ".join(sorted(run.unserved))
        end = {
            "state": "needs_operator",
            "reason": f"{new} is the primary, but {names} may still send clients to {run.request.old.name}",
            "next": f"start or reload PgBouncer there (its files name {new} already) and run this again",
        }
    elif run.problems:
        end = {
            "state": "degraded",
            "reason": f"{new} is the primary, but {run.problems[0]}",
            "next": "repair what is named, with playbooks/rejoin.yml for a replica that does not follow",
        }
    else:
        end = {"state": "ok", "reason": f"{new} is the primary", "next": ""}
    return _end(run, journal, end, [])


def _end(run: Run, journal: Journal, end: dict[str, Any], failures: list[str]) -> dict[str, Any]:
    data = {**end, "problems": [*run.problems, *failures]}
    _tell(run, journal, "end", **data)
    return data


def resume(run: Run, journal: Journal, others: dict[str, Position | None], old: LocalStatus) -> dict[str, Any]:
    """Go on with an interrupted operation: finish it, take it back, or say why neither is safe.

    Args:
        run: with the request and the state of the journal.
        journal: opened again.
        others: positions of the candidate and the siblings.
        old: the old primary's status.
    """
    progress = Progress.of(journal.entries)
    run.state.update(progress.state)
    decision = decide(run.request, progress, old, others)
    _tell(run, journal, "resume", action=decision.action, reason=decision.reason)
    if decision.action == "roll_back":
        return roll_back(run, journal, f"interrupted; {decision.reason}", begun=progress.begun)
    if decision.action == "finish":
        return execute(run, journal, first=NO_RETURN)
    if decision.action == "close":
        return _end(run, journal, {"state": "degraded", "reason": decision.reason, "next": CLOSE_NEXT}, [])
    return _end(run, journal, {"state": "needs_operator", "reason": decision.reason, "next": decision.next}, [])


CLOSE_NEXT = "run playbooks/rejoin.yml for members that do not follow the primary, then look at the poolers"

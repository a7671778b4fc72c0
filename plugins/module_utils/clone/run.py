# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way of one clone: read, plan, start the worker or join it, follow it for as long as the caller waits."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.clone import observe, worker
from ansible_collections.dbops.fleet.plugins.module_utils.clone.facts import (
    MARKER_SUFFIX,
    CloneRequest,
    Marker,
    Source,
    Target,
)
from ansible_collections.dbops.fleet.plugins.module_utils.clone.plan import (
    CLONE,
    IDENTIFY,
    JOIN,
    NOTHING,
    Plan,
    complete,
    decide,
    describe,
    tablespace_directories,
    unfinished,
)
from ansible_collections.dbops.fleet.plugins.module_utils.clone.progress import figures, sentence
from ansible_collections.dbops.fleet.plugins.module_utils.clone.source import read_source
from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, OperationFailed, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome

POLL_SECONDS = 0.2
OWN_SLOT_SECONDS = 75.0


class WorkerKilled(OperationFailed):
    """The process of a clone is gone without a word."""


def from_params(params: Mapping[str, Any]) -> CloneRequest:
    """The module's parameters as a request; links in the data directory's path are resolved here."""
    data_directory = os.path.realpath(params["data_directory"])
    return CloneRequest(
        data_directory=data_directory,
        version=params["version"],
        source=Source(**params["source"]),
        member=params["member"],
        bin_directory=params["bin_directory"] or default_bin_directory(params["version"]),
        slot=params["slot"],
        expected_system_identifier=params["expected_system_identifier"],
        recovery_min_apply_delay=params["recovery_min_apply_delay"],
        tablespaces=params["tablespaces"],
        max_rate=params["max_rate"],
        checkpoint=params["checkpoint"],
        verify=params["verify"],
        stall_timeout_seconds=params["stall_timeout"],
        owner=params["owner"],
        group=params["group"],
    )


def default_bin_directory(version: int) -> str:
    """Where Debian keeps the programs of a major version."""
    return f"/usr/lib/postgresql/{version}/bin"


def cloned(params: Mapping[str, Any], check_mode: bool) -> Outcome:
    """The operation of the module `pg_basebackup_restore` in the state `cloned`.

    Raises:
        Refused: before anything was changed.
        OperationFailed: the clone failed; its remains are removed, or marked so that the next run removes them.
    """
    with _naming_this_host():
        request = from_params(params)
        if params["follow"]:
            return _follow(request, params["follow"], params["wait"])
        return clone(request, wait_seconds=params["wait"], check_mode=check_mode)


def clone(request: CloneRequest, *, wait_seconds: float | None = None, check_mode: bool = False) -> Outcome:
    """Clone a running member, join a clone that runs already, or find that nothing is to be done.

    Args:
        wait_seconds: how long to wait for the end; None until it is there. The worker goes on either way.

    Returns:
        An outcome with `action` (nothing, clone, finish, join), `steps`, `msg` and the figures of progress.
    """
    with _locked(request, check_mode):
        target = _read_target(request)
        earlier = unfinished(target)
        ours = (request.copy_directory, request.data_directory)
        if earlier is not None and not target.worker_alive and not check_mode and earlier.directory in ours:
            worker.end_orphans(earlier.directory)
        # A server notices after wal_sender_timeout (1 minute by default) that a killed clone is gone.
        plan = make_plan(request, target, own_slot_seconds=0.0 if check_mode else OWN_SLOT_SECONDS)
        steps = describe(request, plan)
        result: dict[str, Any] = {"action": plan.action, "steps": steps, "data_directory": request.data_directory}
        before, after = _states(request, target, plan)
        if plan.action == NOTHING:
            if not check_mode:
                _settle(target)
            result |= {"msg": steps[0], "finished": True, "system_identifier": plan.system_identifier}
            return Outcome(False, result, before, after)
        if check_mode:
            result |= {"msg": f"would: {steps[0]}", "finished": False, "system_identifier": plan.system_identifier}
            return Outcome(plan.changes, result, before, after, plan.warnings)
        if plan.action != JOIN:
            worker.start(request, plan, target.marker)
    begun = time.monotonic()
    try:
        marker = _await(request, wait_seconds)
    except WorkerKilled:
        if plan.action != JOIN:
            raise
        # Somebody else's clone, which this call only waited for, is ours to redo now.
        left = None if wait_seconds is None else max(0.0, wait_seconds - (time.monotonic() - begun))
        return clone(request, wait_seconds=left)
    return Outcome(True, result | _progress(marker), before, after, plan.warnings)


def _read_target(request: CloneRequest) -> Target:
    """As found. A worker that has noted its failure is about to end, and nobody should join it."""
    while True:
        target = observe.read_target(request)
        if not target.worker_alive or target.marker is None or target.marker.phase != "failed":
            return target
        time.sleep(POLL_SECONDS)


def make_plan(request: CloneRequest, target: Target, *, own_slot_seconds: float = 0.0) -> Plan:
    """The complete plan; asks the source where it takes that.

    Args:
        own_slot_seconds: how long a slot that a killed clone of ours used may take to become free.

    Raises:
        Refused: see `plan.decide`, `plan.complete` and `source.read_source`.
    """
    decision = decide(request, target)
    if decision.action not in {IDENTIFY, CLONE}:
        return decision
    earlier = unfinished(target)
    held = decision.action == CLONE and earlier is not None and earlier.request.slot == request.slot
    source = read_source(request.source, request.slot, own_slot_seconds=own_slot_seconds if held else 0.0)
    if decision.action == IDENTIFY:
        return decide(request, target, source.system_identifier)
    tablespaces = tablespace_directories(request, source)
    places = observe.read_places(decision.directory, tablespaces.values(), target, decision.remains)
    return complete(request, decision, target, source, places)


def status(data_directory: str) -> dict[str, Any]:
    """What is known of a clone into a directory, for the `_info` module.

    Returns:
        `state`: none, running, finished, failed, or killed (its worker is gone without a word; run the clone again);
        with the figures of progress, the source, the failure, and times in seconds since the epoch.
    """
    path = os.path.realpath(data_directory) + MARKER_SUFFIX
    marker, problem = observe.read_marker(path)
    if problem is not None:
        raise Refused(f"{path} cannot be trusted: {problem}", host=socket.gethostname(), remedy="See what it is.")
    if marker is None:
        return {"state": "none", "msg": "no clone is known here"}
    alive = observe.is_alive(marker.worker)
    state = marker.phase if marker.phase in {"finished", "failed"} else "running" if alive else "killed"
    return {
        "state": state,
        **_progress(marker),
        "source": f"{marker.request.source.host}:{marker.request.source.port}",
        "system_identifier": marker.system_identifier,
        "started_at": marker.started_at,
        "updated_at": marker.updated_at,
        "failure": marker.failure.message if marker.failure is not None else None,
    }


def _follow(request: CloneRequest, operation_id: str, wait_seconds: float | None) -> Outcome:
    """Go on waiting for a clone that an earlier call has started, and never start another."""
    marker = observe.read_marker(request.marker_path)[0]
    if marker is None or marker.operation_id != operation_id:
        raise OperationFailed(
            f"The clone {operation_id} into {request.data_directory} is known no more",
            remedy="Another has taken its place. Run again without `follow`.",
        )
    return Outcome(True, {"data_directory": request.data_directory, **_progress(_await(request, wait_seconds))})


def _await(request: CloneRequest, wait_seconds: float | None) -> Marker:
    """Wait for the end of the clone, or as long as wanted; the marker as it is then.

    Raises:
        OperationFailed: it failed.
        WorkerKilled: its process is gone.
    """
    deadline = None if wait_seconds is None else time.monotonic() + wait_seconds
    while True:
        # First who works, then what is noted: the other way round, one that ends between the two looks killed.
        seen = observe.read_marker(request.marker_path)[0]
        alive = seen is not None and observe.is_alive(seen.worker)
        marker = observe.read_marker(request.marker_path)[0]
        if marker is None:
            raise OperationFailed(f"{request.marker_path} has vanished", remedy="Run again.")
        if marker.phase == "finished":
            return marker
        if marker.phase == "failed" and marker.failure is not None:
            raise OperationFailed(marker.failure.message, remedy=marker.failure.remedy, **_progress(marker))
        if not alive:
            raise WorkerKilled(
                f"The process of the clone, {marker.worker.pid}, was killed while it was {marker.phase}",
                remedy="Run again: what it has left is recognised and redone.",
                **_progress(marker),
            )
        if deadline is not None and time.monotonic() >= deadline:
            return marker
        time.sleep(POLL_SECONDS)


def _progress(marker: Marker) -> dict[str, Any]:
    now = time.time()
    return {
        **figures(marker, now),
        "msg": sentence(marker, now),
        "system_identifier": marker.system_identifier,
        "kept_directory": marker.kept_directory,
    }


def _settle(target: Target) -> None:
    """Close the marker of a worker that was killed after its last act, the rename."""
    marker = target.marker
    if marker is not None and marker.phase == "placing" and not target.worker_alive:
        observe.write_marker(dataclasses.replace(marker, phase="finished", finished_at=marker.updated_at), durable=True)


def _states(request: CloneRequest, target: Target, plan: Plan) -> tuple[dict[str, Any], dict[str, Any]]:
    """Before and after for --diff."""
    data = target.data
    before = {
        "data_directory": request.data_directory,
        "holds": "a data directory" if data.version else "nothing" if not data.entries else "something else",
        "system_identifier": data.system_identifier,
    }
    after = {
        "data_directory": request.data_directory,
        "holds": "a data directory",
        "system_identifier": plan.system_identifier or data.system_identifier,
    }
    return (before, before) if plan.action == NOTHING else (before, after)


@contextlib.contextmanager
def _locked(request: CloneRequest, check_mode: bool) -> Iterator[None]:
    """One decision at a time for a place: a second run waits here, and then finds the worker of the first."""
    directory = os.path.dirname(request.data_directory)
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not check_mode:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _naming_this_host() -> Iterator[None]:
    try:
        yield
    except FleetError as error:
        error.host = error.host or socket.gethostname()
        raise

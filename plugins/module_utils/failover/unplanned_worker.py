# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries an unplanned failover out in a process of its own, which outlives the SSH session and the job.

The module starts it, or joins the one that runs already, and reads the journal until its end.
"""

from __future__ import annotations

import os
import signal
import syslog
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.failover import unplanned_engine as engine
from ansible_collections.dbops.fleet.plugins.module_utils.failover.journal import (
    Journal,
    Progress,
    journals,
    read,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.lock import LockFile, lock_members
from ansible_collections.dbops.fleet.plugins.module_utils.failover.sight import STATE_DIRECTORY
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unexpected import trace
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_remote import RealWorld, reach
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_request import FailoverRequest
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_steps import Run
from ansible_collections.dbops.fleet.plugins.module_utils.postgres import session

POLL_SECONDS = 0.02


def fail_over(request: FailoverRequest, directory: Path = STATE_DIRECTORY) -> dict[str, Any]:
    """Start the worker on this host and wait for its end, or join one that is at work on this cluster.

    Returns:
        The end (see `unplanned_engine.execute`) with `journal`, `steps` (name, seconds) and `record`.

    Raises:
        Refused: another change of roles runs.
        OperationFailed: the worker died.
    """
    path = directory / f"{request.operation}.jsonl"
    lock = LockFile(directory, request.cluster)
    running = lock.owner()
    if running and running.split()[0] == request.operation:
        return _follow(path, lock)
    lock.acquire(request.operation)
    lock.release()
    _detached(lambda: work(request, directory))
    return _follow(path, lock)


def work(request: FailoverRequest, directory: Path = STATE_DIRECTORY) -> dict[str, Any]:
    """The worker itself: all steps, in this process."""
    lock = LockFile(directory, request.cluster)
    lock.acquire(request.operation)
    earlier = _earlier(request, directory)
    journal = Journal.create(directory / f"{request.operation}.jsonl")
    world = RealWorld(request)
    held: list[Any] = []
    try:
        journal.append("start", request=request.to_dict())
        run = Run(request, world)
        first = engine.adopt(run, earlier) if earlier else 0
        if run.state:
            # What was taken over is in this journal too: the next rerun reads only the newest.
            journal.append("begin", "note")
            journal.append("done", "note", **run.state)
        try:
            held = _lock_replicas(request)
        except Refused as error:
            return engine.roll_back(run, journal, "Lock", error, begun=())
        if request.put_back:
            return engine.put_back(run, journal)
        return engine.execute(run, journal, first=first)
    finally:
        for connection in held:
            connection.close()
        world.close()
        journal.close()
        lock.release()


def _earlier(request: FailoverRequest, directory: Path) -> Progress | None:
    """What the newest failover of this cluster left unfinished, if it was about the same lost primary."""
    for path in reversed(journals(directory)):
        progress = Progress.of(read(path))
        order = progress.request.get("request", {})
        if order.get("cluster") != request.cluster:
            continue
        finishing = request.finish and progress.end is not None and progress.end["state"] in ("ok", "degraded")
        open_end = finishing or progress.open or engine.unfinished(progress)
        return progress if open_end and order["old"]["name"] == request.old.name else None
    return None


def _lock_replicas(request: FailoverRequest) -> list[Any]:
    """The cluster's advisory lock on every replica that answers."""
    sessions = []
    for member in request.replicas:
        try:
            sessions.append((member.name, session.connect_remote(reach(member), connect_timeout=2.0)))
        except session.NotConnected:
            continue
    lock_members(sessions, request.cluster)
    return [connection for _name, connection in sessions]


def _detached(act: Callable[[], object]) -> None:
    """Run it in a process that has left session, terminal and open files of this one behind."""
    child = os.fork()
    if child == 0:
        _leave(act)
    os.waitpid(child, 0)


def _leave(act: Callable[[], object]) -> NoReturn:
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        act()
    except BaseException as error:
        # Nobody reads what this process prints: journalctl -t dbops-fleet
        syslog.openlog("dbops-fleet", syslog.LOG_PID)
        for line in trace(error):
            syslog.syslog(syslog.LOG_ERR, line)
    finally:
        os._exit(0)


def _follow(path: Path, lock: LockFile) -> dict[str, Any]:
    """Read the journal until its end."""
    started = time.monotonic()
    while True:
        idle = lock.owner() is None
        entries = read(path) if path.exists() else []
        progress = Progress.of(entries)
        if progress.end is not None:
            return {**progress.end, "journal": str(path), "steps": _times(path), "record": _record(progress)}
        # The lock is taken before the first line is written, and given back after the last one.
        if idle and time.monotonic() - started > 2.0:
            raise OperationFailed(
                f"the worker of the failover died at step {progress.begun[-1] if progress.begun else 'start'}",
                remedy="Run the same playbook again: it goes on from the journal.",
                journal=str(path),
            )
        time.sleep(POLL_SECONDS)


def _times(path: Path) -> list[dict[str, Any]]:
    """Seconds per step."""
    begun: dict[str, float] = {}
    times = []
    for entry in read(path):
        if entry.event == "begin" and entry.step:
            begun[entry.step] = entry.time
        elif entry.event in ("done", "failed") and entry.step in begun:
            seconds = round(entry.time - begun[entry.step], 3)
            times.append({"step": entry.step, "event": entry.event, "seconds": seconds})
    return times


def _record(progress: Progress) -> dict[str, Any]:
    """What is worth keeping of the journal: whom, where, by what fence, at what loss. No connection strings."""
    found = ("candidate", "election", "fence", "new_timeline", "switchpoint")
    names = (*found, "lowered_synchronous", "repointed", "let_go")
    return {name: progress.state[name] for name in names if name in progress.state}

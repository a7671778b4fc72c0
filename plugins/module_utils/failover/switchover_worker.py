# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that carries a switchover out. It outlives the module, ansible-playbook and the SSH session.

`launch` copies the collection's own code to a directory of the operation, because Ansible removes the module's archive
when the module ends, and starts `python3 -c ... SPEC` from there: as a transient systemd unit, whose control group is
not the login session's, or in a session of its own where there is no systemd.
"""

from __future__ import annotations

# Runs programs where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils import errors
from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, OperationFailed, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.failover import switchover_engine as engine
from ansible_collections.dbops.fleet.plugins.module_utils.failover.journal import Journal, Progress, read
from ansible_collections.dbops.fleet.plugins.module_utils.failover.lock import LockFile, boot_id, lock_members
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_local import LocalPrimary
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_pooler import PoolerProcess
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_ports import PortError, Position
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_remote import Remote
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_request import (
    Access,
    Place,
    PoolerPlace,
    SwitchoverRequest,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_steps import Run
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unexpected import told, trace
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.console import Endpoint
from ansible_collections.dbops.fleet.plugins.module_utils.postgres import session
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.conninfo import between_members
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.instance import Instance

APPLICATION_NAME = "dbops.fleet switchover"
_SEE_LOG = "Read `journalctl -u 'dbops-fleet-switchover-*'` on this host."
_BOOTSTRAP = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from ansible_collections.dbops.fleet.plugins.module_utils.failover import switchover_worker; "
    "switchover_worker.main(sys.argv[2])"
)


class RealClock:
    """See `switchover_ports.Clock`."""

    def monotonic(self) -> float:
        """Seconds."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def gather(self, calls: Sequence[Callable[[], Any]], timeout: float) -> list[Any]:
        """A thread per call. One that does not come back in time is left behind; it ends with the process."""
        results: list[Any] = [PortError(f"no answer after {timeout:g} s")] * len(calls)

        def run(number: int) -> None:
            try:
                results[number] = calls[number]()
            except Exception as error:
                results[number] = error

        threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(calls))]
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return list(results)


def instance_of(access: Access) -> Instance:
    """The old primary's instance."""
    return Instance(
        version=access.version,
        name=access.name,
        data_directory=Path(access.data_directory),
        binaries=Path(access.binaries),
        config_directory=Path(access.config_directory) if access.config_directory else None,
        port=access.port,
        socket_directory=access.socket_directory,
        unit=access.unit,
    )


def conninfo_of(access: Access, place: Place) -> str:
    """How to log in to a member."""
    known = access.conninfos.get(place.name)
    return known or between_members(place.address, place.port, application_name=APPLICATION_NAME)


def endpoint_of(access: Access, place: PoolerPlace) -> Endpoint:
    """The admin console of a PgBouncer process."""
    return Endpoint(
        name=place.name,
        host=place.host,
        port=place.port,
        user=access.console_user,
        passfile=access.passfile or None,
        sslmode=access.sslmode,
        sslrootcert=access.sslrootcert or None,
        process=place.process,
    )


def make_run(request: SwitchoverRequest, access: Access, *, same_boot: bool = True) -> Run:
    """The steps' view of the real world; nothing is opened yet."""
    places = (request.new, *request.siblings)
    return Run(
        request=request,
        clock=RealClock(),
        local=LocalPrimary(instance_of(access)),
        remote={place.name: Remote(place, conninfo_of(access, place)) for place in places},
        poolers={place.name: PoolerProcess(place, endpoint_of(access, place)) for place in request.poolers},
        same_boot=same_boot,
    )


def open_everything(run: Run) -> None:
    """Have every session before the pause.

    Raises:
        FleetError: one could not be had.
    """
    # Threads that import the same module at the same moment see it half made.
    session.require_psycopg()
    ports: list[Any] = [run.local, *run.remote.values(), *run.poolers.values()]
    for result in run.clock.gather([port.open for port in ports], 10.0):
        if isinstance(result, Exception):
            raise OperationFailed(str(result))


def work(spec: dict[str, Any]) -> dict[str, Any]:
    """Carry out or go on with the operation of a journal; its end.

    Args:
        spec: ``journal``: path. The journal's first line has everything else.
    """
    journal = Journal.open(Path(spec["journal"]))
    progress = Progress.of(journal.entries)
    request = SwitchoverRequest.from_dict(progress.request["request"])
    access = Access.from_dict(progress.request["access"])
    fresh = not progress.begun and progress.end is None
    lock = LockFile(Path(access.lock_directory), request.cluster)
    try:
        lock.acquire(request.operation)
    except Refused as error:
        if fresh:
            return _refused(journal, error)
        raise
    run = make_run(request, access, same_boot=progress.request["boot"] == boot_id())
    if fresh:
        try:
            open_everything(run)
            sessions = _lock_sessions(request, access)
        except FleetError as error:
            return _refused(journal, error)
        except Exception as error:
            sys.stderr.write("\n".join(trace(error)) + "\n")
            return _refused(journal, OperationFailed(told(error), remedy=_SEE_LOG))
        end = engine.execute(run, journal)
    else:
        sessions = []
        end = engine.resume(run, journal, _look(run), run.local.status())
    if journal.entries[-1].event != "end":
        # The disk is full. Who waits for the end is told to look here.
        sys.stderr.write(f"{json.dumps(end)}\n")
    for connection in sessions:
        connection.close()
    journal.close()
    lock.release()
    return end


def decision_now(path: Path) -> engine.Decision:
    """What a rerun would do with an interrupted operation right now; changes nothing."""
    progress = Progress.of(read(path))
    request = SwitchoverRequest.from_dict(progress.request["request"])
    run = make_run(request, Access.from_dict(progress.request["access"]))
    return engine.decide(request, progress, run.local.status(), _look(run))


def _refused(journal: Journal, error: FleetError) -> dict[str, Any]:
    again = "remove the reason and run this again"
    end: dict[str, Any] = {"state": "refused", "reason": str(error), "next": error.remedy or again, "problems": []}
    journal.append("end", **end)
    return end


def _look(run: Run) -> dict[str, Position | None]:
    """Where the others are; a crashed server gets a few seconds to come back."""
    deadline = run.clock.monotonic() + 5.0
    while True:
        answers = run.clock.gather([server.position for server in run.remote.values()], 4.0)
        found = {
            name: answer if isinstance(answer, Position) else None
            for name, answer in zip(run.remote, answers, strict=True)
        }
        if found[run.request.new.name] is not None or run.clock.monotonic() >= deadline:
            return found
        run.clock.sleep(0.5)


def _lock_sessions(request: SwitchoverRequest, access: Access) -> list[Any]:
    """Sessions that hold the advisory lock on every member."""
    instance = instance_of(access)
    local = session.connect_local(instance.port, instance.socket_directory, application_name=APPLICATION_NAME)
    sessions = [(request.old.name, local)]
    for place in (request.new, *request.siblings):
        sessions.append((place.name, session.connect_remote(conninfo_of(access, place))))
    lock_members(sessions, request.cluster)
    return [connection for _name, connection in sessions]


def main(path: str) -> None:
    """The worker's process."""
    spec = json.loads(Path(path).read_text(encoding="utf-8"))
    try:
        work(spec)
    except Refused as error:
        sys.stderr.write(f"{error}\n")
    except BaseException as error:
        sys.stderr.write("\n".join(trace(error)) + "\n")
    finally:
        shutil.rmtree(spec["directory"], ignore_errors=True)
        sys.stderr.flush()
        # Threads that wait for a host that will never answer must not keep the process.
        os._exit(0)


# --- the module's side ---


def launch(journal: Path, directory: Path) -> None:
    """Start a worker for a journal and return at once.

    Args:
        journal: with its first line written.
        directory: of this operation, for the code; removed by the worker at its end. Without systemd the worker's
            output is beside it, in a file of the same name and ``.log``.

    Raises:
        OperationFailed: systemd refused to start it.
    """
    code = directory / "code"
    shutil.rmtree(directory, ignore_errors=True)
    copy_code(code)
    spec = directory / "spec.json"
    spec.write_text(json.dumps({"journal": str(journal), "directory": str(directory)}), encoding="utf-8")
    command = [sys.executable, "-c", _BOOTSTRAP, str(code), str(spec)]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    if not Path("/run/systemd/system").is_dir():
        # Not in the directory, which the worker removes.
        with directory.with_name(f"{directory.name}.log").open("ab") as log:
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                env=environment,
            )
        return
    unit = f"dbops-fleet-switchover-{journal.stem}-{time.time_ns() // 1_000_000}"
    wrapped = ["systemd-run", "--quiet", "--collect", f"--unit={unit}", "--setenv=LC_ALL=C", *command]
    done = subprocess.run(wrapped, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise OperationFailed(f"the worker could not be started: {done.stderr.strip()}")


def copy_code(target: Path) -> None:
    """The collection's module_utils, out of the module's zip archive or from a directory, so that they outlive it."""
    inside = Path("ansible_collections/dbops/fleet/plugins/module_utils")
    here = Path(str(errors.__file__)).parent
    archive = next((parent for parent in here.parents if parent.is_file()), None)
    if archive is None:
        shutil.copytree(here, target / inside, ignore=shutil.ignore_patterns("__pycache__"))
        return
    with zipfile.ZipFile(archive) as packed:
        names = [name for name in packed.namelist() if name.startswith(f"{inside}/")]
        packed.extractall(target, members=names)

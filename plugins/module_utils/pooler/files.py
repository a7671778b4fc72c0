# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the module `pgbouncer_pool` does with PgBouncer's files: read, plan, try, write, reload, and look again."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import pwd
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.files import apply
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome
from ansible_collections.dbops.fleet.plugins.module_utils.pooler import loaded
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.console import Endpoint
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.facts import PoolerFacts
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.ini import Ini
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.operations import POLL_SECONDS, Poolers
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.plan import (
    Difference,
    Wanted,
    changed_files,
    diff,
    difference,
    not_loaded,
    others_wait,
)
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.processes import Process, running_with
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.read import read_facts
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.trial import try_files

# Debian's: the user that its unit starts PgBouncer as, and where it puts the socket.
DEFAULT_OWNER = "postgres"
DEFAULT_SOCKET_DIRECTORY = "/var/run/postgresql"
DEFAULT_MODE = 0o640


def make_present(params: Mapping[str, Any], check_mode: bool) -> Outcome:
    """Bring the files to what is wanted, and the running processes to the files.

    A process that does not run is left alone: it reads the files when it is started. One that is not among the
    endpoints, but goes by the same files, is brought to them like the others.

    Raises:
        Refused: before anything was changed; PgBouncer would not take the new files.
        OperationFailed: a process did not take over what is in the files.
    """
    wanted = Wanted.from_params(params)
    found = {path: Path(path).read_text() for path in wanted.paths if Path(path).is_file()}
    changed = changed_files(wanted, found)
    named = _named_endpoints(params, found | changed)
    listening = [endpoint for endpoint in named if not endpoint.is_local or _is_listened_on(endpoint.socket_path)]
    processes = running_with(wanted.config_file)
    surplus = _surplus(processes, named)
    running = [*listening, *surplus]
    facts = _read_running(running, params["timeout_seconds"])
    before = _differences(wanted, facts)
    pending = [sentence for one in before.values() for sentence in one.pending]
    present = loaded.digests(wanted.read_paths)
    stale = not_loaded(wanted.read_paths, loaded.noted(wanted.config_file), present) if running else ()
    if others_wait(wanted, found, facts):
        stale = tuple(path for path in stale if path != wanted.databases_file)
    after = before
    if not check_mode:
        # What others have written nobody has tried yet, and RELOAD says yes to anything.
        if changed or set(stale) - set(wanted.paths):
            owner = _owner(wanted.config_file)
            try_files(wanted.config_file, changed, owner)
            _write(changed, owner)
            present = loaded.digests(wanted.read_paths)
        # A worker that was killed in a pause has left its settings in the processes: `settled` brings the files' back.
        due = changed or pending or stale or params["state"] == "settled"
        if running and due:
            after = _reload(wanted, running, params["timeout_seconds"])
        # Only now: a run that is killed before this leaves it to the next one. Where nothing runs, the start loads all.
        if due or not running:
            loaded.note(wanted.config_file, wanted.read_paths, present)
    restart = _restart_required(wanted, after, processes)
    return Outcome(
        changed=bool(changed or pending or stale),
        result={
            "changed_files": sorted(changed),
            "running": bool(running),
            "clients_connected": sum(one.clients_connected for one in facts),
            "restart_required": restart,
            "stopped_endpoints": [endpoint.name for endpoint in named if endpoint not in listening],
            "surplus_processes": [endpoint.name for endpoint in surplus],
        },
        warnings=_warnings(restart, surplus if params["endpoints"] else []),
        diff=diff(wanted, found, changed) or _pending_diff(before, stale),
    )


def stage(params: Mapping[str, Any], check_mode: bool) -> Outcome:
    """Bring the files to what is wanted and tell no process: it reads them at its next RELOAD, or when it is started.

    Raises:
        Refused: before anything was changed; PgBouncer would not take the new files.
    """
    wanted = Wanted.from_params(params)
    found = {path: Path(path).read_text() for path in wanted.paths if Path(path).is_file()}
    changed = changed_files(wanted, found)
    if changed and not check_mode:
        owner = _owner(wanted.config_file)
        try_files(wanted.config_file, changed, owner)
        _write(changed, owner)
    return Outcome(bool(changed), {"changed_files": sorted(changed)}, diff=diff(wanted, found, changed))


@contextlib.contextmanager
def locked(config_file: str) -> Iterator[None]:
    """Nobody else who comes this way writes the files meanwhile, for another cluster for instance.

    The lock is the kernel's, on the directory of the main file; it ends with the process.
    """
    try:
        descriptor = os.open(Path(config_file).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        # Where there is no directory yet there is nothing to lose.
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _named_endpoints(params: Mapping[str, Any], texts: Mapping[str, str]) -> list[Endpoint]:
    """The processes that shall run: the endpoints that were given, or the one that the main file describes."""
    path = params["config_file"]
    return endpoints_of(params) or [local_endpoint(texts.get(path, ""), path)]


def _surplus(processes: Sequence[Process], named: Sequence[Endpoint]) -> list[Endpoint]:
    """The consoles of processes that run and shall not: of an earlier number, port or directory."""
    if not all(endpoint.is_local for endpoint in named):
        return []  # any of them may be one of those that are named by address
    sockets = {os.path.realpath(endpoint.socket_path) for endpoint in named}
    return [one.endpoint for one in processes if one.endpoint.socket_path not in sockets]


def unnamed_processes(endpoints: Sequence[Endpoint], root: Path = Path("/")) -> list[str]:
    """Sockets of further PgBouncer processes of this host that take clients at the port of these.

    They are what is left of an earlier, larger number of processes, or more than the inventory says. Whoever holds
    clients would let theirs go on.

    Args:
        endpoints: the processes that are known; those that are not on this host are not looked at.
        root: of the file system, for tests.
    """
    named = {os.path.realpath(endpoint.socket_path) for endpoint in endpoints if endpoint.is_local}
    ports = {endpoint.port for endpoint in endpoints if endpoint.is_local}
    places = [*sorted(root.glob("run/pgbouncer-*")), root / DEFAULT_SOCKET_DIRECTORY.lstrip("/")]
    sockets = [os.path.realpath(place / f".s.PGSQL.{port}") for place in places for port in ports]
    return [path for path in dict.fromkeys(sockets) if path not in named and _is_listened_on(path)]


def _is_listened_on(path: str) -> bool:
    """Whether a process is behind a unix socket. One that was killed leaves the file."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            return True  # somebody is there and does not answer: the login will say more
    return True


def local_endpoint(text: str, path: str) -> Endpoint:
    """The process that the main file describes, by its unix socket."""
    settings = Ini.parse(text, path).entries("pgbouncer")
    directory = settings.get("unix_socket_dir", DEFAULT_SOCKET_DIRECTORY)
    return Endpoint(socket.gethostname(), directory, int(settings.get("listen_port", 6432)))


def endpoints_of(params: Mapping[str, Any]) -> list[Endpoint]:
    """The endpoints of a module's parameters."""
    return [
        Endpoint(
            name=one["name"] or one["host"],
            **{key: one[key] for key in ("host", "port", "user", "password", "passfile", "sslmode", "sslrootcert")},
        )
        for one in params["endpoints"]
    ]


def _read_running(endpoints: Sequence[Endpoint], timeout_seconds: float) -> tuple[PoolerFacts, ...]:
    facts = read_facts(endpoints, timeout_seconds, traffic=False) if endpoints else ()
    for one in facts:
        if one.error is not None:
            remedy = "Repair or stop that process; nothing was changed."
            raise OperationFailed(one.error, host=one.endpoint, remedy=remedy)
    return facts


def _differences(wanted: Wanted, facts: Sequence[PoolerFacts]) -> dict[str, Difference]:
    return {one.endpoint: difference(wanted, one, _own_settings(one, wanted.config_file)) for one in facts}


def _restart_required(wanted: Wanted, differences: Mapping[str, Difference], processes: Sequence[Process]) -> list[str]:
    names = {name for one in differences.values() for name in one.restart}
    if any(one.open_files < (wanted.open_files or 0) for one in processes):
        names.add("LimitNOFILE")
    return sorted(names)


def _warnings(restart: Sequence[str], surplus: Sequence[Endpoint]) -> tuple[str, ...]:
    warnings = []
    if restart:
        warnings.append(f"A restart of PgBouncer, which disconnects clients, is what these take: {', '.join(restart)}.")
    if surplus:
        names = ", ".join(endpoint.name for endpoint in surplus)
        warnings.append(f"PgBouncer processes go by these files and are none of the endpoints: {names}.")
    return tuple(warnings)


def _own_settings(facts: PoolerFacts, config_file: str) -> dict[str, str]:
    """What a process sets over the common file in a file of its own, as the units pgbouncer@N do."""
    path = facts.setting("conffile")
    if not path or os.path.realpath(path) == os.path.realpath(config_file):
        return {}
    with contextlib.suppress(OSError, FleetError):
        text = Path(path).read_text()
        return Ini.parse(text, path, behind_include="pgbouncer").entries("pgbouncer")
    return {}


def _reload(wanted: Wanted, endpoints: Sequence[Endpoint], timeout_seconds: float) -> dict[str, Difference]:
    """RELOAD everywhere and wait until every process goes by the files."""
    with Poolers.open(endpoints, [], timeout_seconds) as poolers:
        errors = {name: error for name, error in poolers.reload(timeout_seconds).items() if error}
        if errors:
            raise OperationFailed(f"RELOAD failed: {errors}", remedy="Look at PgBouncer's log; the files are written.")
        deadline = time.monotonic() + timeout_seconds
        while True:
            answering = [one for one in poolers.facts(timeout_seconds) if one.error is None]
            after = _differences(wanted, answering)
            pending = [f"{name}: {sentence}" for name, one in after.items() for sentence in one.pending]
            if not pending and len(after) == len(endpoints):
                return after
            if time.monotonic() >= deadline:
                raise OperationFailed(
                    f"PgBouncer has not taken over its files after RELOAD: {'; '.join(pending) or 'no answer'}",
                    remedy="Its log says why. It goes on with the old configuration.",
                )
            time.sleep(POLL_SECONDS)


def _owner(config_file: str) -> tuple[int, int]:
    """Who PgBouncer runs as: the owner of its configuration, or Debian's user for it."""
    with contextlib.suppress(OSError):
        status = os.stat(config_file)
        if status.st_uid != 0:
            return status.st_uid, status.st_gid
    with contextlib.suppress(KeyError):
        user = pwd.getpwnam(DEFAULT_OWNER)
        return user.pw_uid, user.pw_gid
    raise OperationFailed(
        f"There is no user {DEFAULT_OWNER} to own {config_file}", remedy="Install PgBouncer first, or make the file."
    )


def _write(changed: Mapping[str, str], owner: tuple[int, int]) -> None:
    """All files or none, each with the owner and mode that it had."""
    files = []
    for path, text in changed.items():
        current = apply.observe(path)
        files.append(
            {
                "path": path,
                "content": text,
                "owner": current.owner or pwd.getpwuid(owner[0]).pw_name,
                "group": current.group or grp.getgrgid(owner[1]).gr_name,
                "mode": f"{current.mode if current.kind == 'file' else DEFAULT_MODE:04o}",
            }
        )
    apply.manage({"files": files}, check_mode=False)


def _pending_diff(before: Mapping[str, Difference], stale: Sequence[str]) -> list[dict[str, str]]:
    sentences = {name: one.pending for name, one in before.items()}
    if stale:
        sentences["all processes"] = tuple(f"{path} was not loaded as it is" for path in stale)
    return [
        {
            "before_header": f"PgBouncer at {name}",
            "after_header": f"PgBouncer at {name}",
            "before": "".join(f"{sentence}\n" for sentence in pending),
            "after": "",
        }
        for name, pending in sentences.items()
        if pending
    ]

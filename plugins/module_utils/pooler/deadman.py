# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Arm, prove, disarm and list dead-men on the pooler's own host; guard.py is what they run."""

from __future__ import annotations

# Runs programs where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import contextlib
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.pooler import guard
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.console import Endpoint
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.read import read_facts

# On a memory file system: after a boot no pooler is paused and nobody has to guard it.
DIRECTORY = Path("/run/dbops-fleet/deadman")


@dataclass(frozen=True)
class Deadman:
    """What a dead-man guards.

    Attributes:
        operation: its name, such as the id of a switchover: letters, digits and ``_ . -``.
        endpoints: all processes on this host, by unix socket.
        databases: the entries to resume.
        max_pause_seconds: how long one of them may stay paused.
        lifetime_seconds: after which it goes by itself, if nothing is paused then.
        staged: by database, the server (host, port, dbname) that the files name and the processes do not use yet.
    """

    operation: str
    endpoints: tuple[Endpoint, ...]
    databases: tuple[str, ...]
    max_pause_seconds: float
    lifetime_seconds: float = 3600.0
    staged: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", self.operation):
            raise Refused(
                f"{self.operation!r} cannot name a dead-man", remedy="Use up to 40 letters, digits, and _ . - only."
            )
        remote = [endpoint.name for endpoint in self.endpoints if not endpoint.is_local]
        if remote:
            raise Refused(
                f"A dead-man runs beside the pooler, but {', '.join(remote)} is reached over the network",
                remedy="Arm it on the pooler's own host, through its unix sockets.",
            )

    def config(self, uid: int) -> str:
        """The configuration for guard.py, which is to run as this operating system user."""
        return json.dumps(
            {
                "operation": self.operation,
                "uid": uid,
                "endpoints": [{"name": one.name, "host": one.host, "port": one.port} for one in self.endpoints],
                "databases": list(self.databases),
                "staged": {name: dict(server) for name, server in self.staged.items()},
                "max_pause_seconds": self.max_pause_seconds,
                "lifetime_seconds": self.lifetime_seconds,
            }
        )


def unit_name(operation: str) -> str:
    """The name of the transient systemd unit."""
    return f"dbops-fleet-deadman-{operation}.service"


def systemd_command(operation: str, program: Path, config: Path, python: str) -> list[str]:
    """The command that starts a dead-man as a unit of its own, outside the login session that armed it."""
    return [
        "systemd-run",
        "--quiet",
        "--collect",
        f"--unit={unit_name(operation)}",
        f"--description=Resumes PgBouncer when {operation} leaves it paused",
        "--property=Restart=on-failure",
        "--property=RestartSec=200ms",
        python,
        str(program),
        str(config),
    ]


def arm(deadman: Deadman, timeout_seconds: float = 10.0, directory: Path | None = None) -> None:
    """Start it (in place of an older one of the same operation) and wait until it watches every process.

    Raises:
        OperationFailed: it could not be started, or is not seen at each console in time. Nothing is left running.
    """
    directory = directory or DIRECTORY
    disarm(deadman.operation, directory)
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / "guard.py"
    program.write_text(inspect.getsource(guard))
    config = directory / f"{deadman.operation}.json"
    config.write_text(deadman.config(_owner(deadman.endpoints[0])))
    if _has_systemd():
        command = systemd_command(deadman.operation, program, config, sys.executable)
        started = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)
        if started.returncode:
            raise OperationFailed(f"The dead-man could not be started: {started.stderr.strip()}")
    else:
        _start_detached(program, config)
    deadline = time.monotonic() + timeout_seconds
    while missing := not_armed(deadman.endpoints, deadman.operation):
        if time.monotonic() >= deadline:
            disarm(deadman.operation, directory)
            raise OperationFailed(
                f"The dead-man does not watch {', '.join(missing)} after {timeout_seconds:g} s",
                remedy="Look at `journalctl -u 'dbops-fleet-deadman-*'`; nothing has been paused.",
            )
        time.sleep(0.05)


def not_armed(endpoints: Sequence[Endpoint], operation: str, timeout_seconds: float = 2.0) -> list[str]:
    """The endpoints whose console does not show the dead-man of this operation. Works from any host."""
    name = guard.application_name(operation)
    return [
        facts.endpoint
        for facts in read_facts(endpoints, timeout_seconds)
        if not any(client.application_name == name for client in facts.clients)
    ]


def disarm(operation: str, directory: Path | None = None) -> bool:
    """Stop it; whether there was one. It resumes nothing: do that, and verify it, before."""
    config = (directory or DIRECTORY) / f"{operation}.json"
    pids = _pids(config)
    if _has_systemd():
        command = ["systemctl", "stop", unit_name(operation)]
        subprocess.run(command, capture_output=True, env=_environment(), check=False)
    for pid in _pids(config):
        os.kill(pid, signal.SIGTERM)
    existed = config.exists()
    config.unlink(missing_ok=True)
    return existed or bool(pids)


def armed(directory: Path | None = None) -> tuple[str, ...]:
    """The operations whose dead-men are running on this host."""
    directory = directory or DIRECTORY
    configs = sorted(directory.glob("*.json")) if directory.is_dir() else []
    return tuple(config.stem for config in configs if _pids(config))


def staged_by_others(
    operation: str, databases: Collection[str], directory: Path | None = None
) -> dict[str, tuple[str, ...]]:
    """What other operations have staged here: any RELOAD of a process reads it, for whatever that RELOAD is meant.

    Args:
        operation: the one that asks.
        databases: those that it writes itself, and with that takes over from the others.

    Returns:
        The operations whose dead-men run here, each with the databases whose file names another server.
    """
    directory = directory or DIRECTORY
    found = {}
    for other in armed(directory):
        if other != operation:
            with contextlib.suppress(FileNotFoundError):  # it was sent home just now
                staged = json.loads((directory / f"{other}.json").read_text())["staged"]
                found[other] = tuple(name for name in staged if name not in databases)
    return {other: names for other, names in found.items() if names}


def _start_detached(program: Path, config: Path) -> None:
    """Without systemd: a process in a session of its own, which outlives the one that started it."""
    log = config.with_suffix(".log").open("ab")
    with log:
        subprocess.Popen(
            [sys.executable, str(program), str(config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=_environment(),
        )


def _pids(config: Path) -> list[int]:
    """Processes that were started with this configuration."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(config).encode() in arguments and any(part.endswith(b"guard.py") for part in arguments):
                found.append(int(entry.name))
    return found


def _owner(endpoint: Endpoint) -> int:
    try:
        return os.stat(endpoint.socket_path).st_uid
    except OSError as error:
        raise OperationFailed(
            f"PgBouncer's socket {endpoint.socket_path} is not there: {error.strerror}",
            host=endpoint.name,
            remedy="Start PgBouncer, or correct the endpoint.",
        ) from error


def _has_systemd() -> bool:
    return Path("/run/systemd/system").is_dir()


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}

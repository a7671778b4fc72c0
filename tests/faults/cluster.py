# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster on loopback for fault tests: PostgreSQL servers, PgBouncer processes, and switchovers between them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.failover import switchover_engine as engine
from ansible_collections.dbops.fleet.plugins.module_utils.failover import switchover_worker as worker
from ansible_collections.dbops.fleet.plugins.module_utils.failover.journal import Journal
from ansible_collections.dbops.fleet.plugins.module_utils.failover.lock import boot_id
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover import replica_promote
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_request import (
    Access,
    Budgets,
    Place,
    PoolerPlace,
    SwitchoverRequest,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_steps import Run
from ansible_collections.dbops.fleet.tests.integration.servers import (
    Server,
    Servers,
    command_prefix,
    free_port,
    wait_until,
)

_INI = """
[databases]
{database} = host={host} port={dbport} dbname=postgres user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir = {directory}
auth_type = any
pool_mode = {pool_mode}
default_pool_size = 8
max_client_conn = 200
server_login_retry = 0.2
query_wait_timeout = 60
ignore_startup_parameters = extra_float_digits
logfile = {directory}/log
pidfile = {directory}/pid
"""


class Bouncer:
    """One PgBouncer process with one database, `app`."""

    def __init__(self, root: Path, name: str, target: Server, pool_mode: str = "transaction") -> None:
        self.name, self.port, self.pool_mode = name, free_port(), pool_mode
        self.directory = root / name
        self.directory.mkdir()
        _give(self.directory)
        self.process: subprocess.Popen[bytes] | None = None
        self.point_at(target)
        self.start()

    def point_at(self, server: Server) -> None:
        """Write the file; nothing is reloaded."""
        text = _INI.format(
            database="app",
            host=server.address,
            dbport=server.port,
            port=self.port,
            directory=self.directory,
            pool_mode=self.pool_mode,
        )
        (self.directory / "pgbouncer.ini").write_text(text)
        _give(self.directory / "pgbouncer.ini")

    def start(self) -> None:
        """Start it and wait until it listens."""
        self.process = subprocess.Popen(
            [*command_prefix(), "/usr/sbin/pgbouncer", "-q", str(self.directory / "pgbouncer.ini")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: (self.directory / f".s.PGSQL.{self.port}").exists(), f"{self.name} to listen")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
                self.process.kill()
            self.process.wait()
            (self.directory / f".s.PGSQL.{self.port}").unlink(missing_ok=True)

    @property
    def conninfo(self) -> str:
        """For clients."""
        return f"host=127.0.0.1 port={self.port} dbname=app user=postgres"


class Cluster:
    """Three servers and two poolers by default. Roles are found live; names never change."""

    def __init__(self, replicas: int = 2, poolers: int = 2, **settings: str) -> None:
        self._servers = Servers()
        self.root = self._servers.root
        first = self._servers.primary("pg1", **settings)
        self.servers = {"pg1": first}
        for number in range(2, replicas + 2):
            name = f"pg{number}"
            self.servers[name] = self._servers.replica(name, first, slot=name)
        self.poolers = [Bouncer(self.root, f"pool{number}", first) for number in range(1, poolers + 1)]
        self.journals = Path(tempfile.mkdtemp(dir=self.root))
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pooler in self.poolers:
            pooler.kill()
        for server in self.servers.values():
            self.kill(server)
        self._servers.close()

    def pid(self, server: Server) -> int | None:
        """The postmaster, whoever started it."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int((server.data / "postmaster.pid").read_text().splitlines()[0])
            if os.path.samefile(f"/proc/{pid}/cwd", server.data):
                return pid
        return None

    def kill(self, server: Server) -> None:
        """kill -9 of all its processes, whoever started it."""
        pid = self.pid(server)
        if pid is None:
            return
        victims = [pid]
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(entry.read_text().rpartition(")")[2].split()[1]) == pid:
                    victims.append(int(entry.parent.name))
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        wait_until(lambda: self.pid(server) is None, f"{server.name} to be gone")

    def processes(self, server: Server, kind: str) -> list[int]:
        """Processes of a server with this word in their title."""
        parent = self.pid(server)
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                ppid = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if ppid == parent and kind.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return found

    def primaries(self) -> list[str]:
        """Names of the servers that take writes now."""
        found = []
        for server in self.servers.values():
            with contextlib.suppress(Exception):
                if server.value("SELECT NOT pg_is_in_recovery()"):
                    found.append(server.name)
        return found

    def primary(self) -> Server:
        """The only primary."""
        names = self.primaries()
        assert len(names) == 1, f"primaries: {names}"
        return self.servers[names[0]]

    def clients(self) -> list[str]:
        """Where load may log in: through the poolers, or directly where there are none."""
        return [pooler.conninfo for pooler in self.poolers] or [self.primary().conninfo()]

    def request(self, new: str | None = None, **changes: Any) -> SwitchoverRequest:
        """A switchover from the primary to `new`, or to the next server."""
        names = list(self.servers)
        old = self.primary()
        candidate = new or names[(names.index(old.name) + 1) % len(names)]
        places = {
            server.name: Place(server.name, server.address, server.port, server.name)
            for server in self.servers.values()
        }
        self.count += 1
        plain = SwitchoverRequest(
            operation=f"{self.count:04d}",
            cluster="orders",
            old=places[old.name],
            new=places[candidate],
            timeline=old.value("SELECT timeline_id FROM pg_control_checkpoint()"),
            siblings=tuple(place for name, place in places.items() if name not in (old.name, candidate)),
            poolers=tuple(PoolerPlace(p.name, str(p.directory), p.port, ("app",)) for p in self.poolers),
            budgets=Budgets(catch_up=20, follow=20, promote=20, start=30),
        )
        return replace(plain, **changes)

    def access(self, old: str) -> Access:
        """How the worker reaches everything here."""
        server = self.servers[old]
        return Access(
            version=server.version,
            name=old,
            data_directory=str(server.data),
            binaries=str(server.binaries),
            port=server.port,
            socket_directory=str(server.socket_directory),
            conninfos={one.name: one.conninfo() for one in self.servers.values()},
            console_user="pgbouncer",
            passfile="",
            lock_directory=str(self.root / "lock"),
        )

    def plan(self, candidate: str | None = None, **changes: Any) -> dict[str, str]:
        """Have module replica_promote check everything and change nothing; what refuses: found, by name of the check.

        Args:
            candidate: the one that is asked for.
            changes: options of the module.
        """
        old = self.primary()
        members = changes.pop("members", list(self.servers.values()))
        access = self.access(old.name)
        options = {
            "cluster": "orders",
            "member": old.name,
            "members": [
                {"name": one.name, "address": one.address, "port": one.port, "priority": 100} for one in members
            ],
            "candidate": candidate,
            "poolers": [
                {"name": one.name, "host": str(one.directory), "port": one.port, "databases": ["app"]}
                for one in self.poolers
            ],
            "operation": None,
            "instances": {},
            "version": access.version,
            "instance": "main",
            "data_directory": access.data_directory,
            "binaries": access.binaries,
            "port": access.port,
            "socket_directory": access.socket_directory,
            "pause_seconds": 5.0,
            "drain_seconds": 2.0,
            "follow_seconds": 60.0,
            "dead_man_seconds": 15.0,
            "max_lag_mb": 16,
            "terminate_writers": False,
            "accept_slot_loss": False,
            "accept_session_mode": False,
            "conninfos": {one.name: one.conninfo() for one in members},
            "console_user": access.console_user,
            "passfile": None,
            "sslmode": "disable",
            "sslrootcert": None,
            "state_directory": str(self.root / "state"),
            "lock_directory": access.lock_directory,
        }
        try:
            outcome = replica_promote(options | changes, check_mode=True)
        except Refused as refused:
            checks = refused.details["checks"]
        else:
            assert outcome.result["state"] == "planned"
            checks = outcome.result["checks"]
        refusing = [check for check in checks if check["result"] == "refuse"]
        assert all(check["remedy"] for check in refusing), refusing
        return {check["name"]: f"{check['member'] or ''} {check['found']}" for check in refusing}

    def stage(self, name: str) -> None:
        """Write the poolers' files, as the playbook does before the pause."""
        for pooler in self.poolers:
            pooler.point_at(self.servers[name])

    def journal(self, request: SwitchoverRequest) -> Journal:
        """A journal with its first line."""
        journal = Journal.create(self.journals / f"{request.operation}.jsonl")
        access = self.access(request.old.name)
        journal.append("start", request=request.to_dict(), access=access.to_dict(), boot=boot_id())
        return journal

    def switch(
        self, request: SwitchoverRequest | None = None, before: Callable[[Run], None] | None = None
    ) -> tuple[dict[str, Any], Journal]:
        """Switch over in this process: the end, and the journal."""
        request = request or self.request()
        self.stage(request.new.name)
        journal = self.journal(request)
        run = worker.make_run(request, self.access(request.old.name))
        worker.open_everything(run)
        if before:
            before(run)
        end = engine.execute(run, journal)
        if end["state"] == "rolled_back":
            self.stage(request.old.name)
        for remote in run.remote.values():
            remote.close()  # type: ignore[attr-defined]
        journal.close()
        return end, journal


def seconds_between(journal: Journal, first: str, last: str) -> float:
    """From the beginning of one step to the end of another."""
    began = next(entry.time for entry in journal.entries if entry.event == "begin" and entry.step == first)
    ended = next(entry.time for entry in journal.entries if entry.event == "done" and entry.step == last)
    return ended - began


def wait_for_clients(seconds: float) -> None:
    """Let clients work for a while: their doing so is the condition, and there is no other to wait for."""
    time.sleep(seconds)


def _give(path: Path) -> None:
    if os.geteuid() == 0:
        subprocess.run(["chown", "postgres:postgres", str(path)], check=True)

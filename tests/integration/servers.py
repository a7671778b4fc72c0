# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real PostgreSQL servers for tests: on loopback, in a temporary directory, gone afterwards whatever happens.

    from ansible_collections.dbops.fleet.tests.integration.servers import Servers

    with Servers() as servers:                  # or the fixture `servers`
        first = servers.primary("db1")
        second = servers.replica("db2", of=first)
        first.sql("CREATE TABLE t (i int)")
        first.kill()                            # kill -9
        second.promote()

Servers run as the OS user postgres when the tests run as root (PostgreSQL refuses root), else as the tests' own user.
Nothing here knows the collection's own code: a test must not trust what it tests.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import psycopg

_PREFIX = "dbops-servers-"
_BINARIES = Path("/usr/lib/postgresql")


def newest_version() -> int:
    """The newest major version whose server programs are installed; DBOPS_TEST_POSTGRES chooses another."""
    chosen = os.environ.get("DBOPS_TEST_POSTGRES")
    if chosen:
        return int(chosen)
    versions = [int(path.name) for path in _BINARIES.glob("*") if (path / "bin" / "initdb").exists()]
    if not versions:
        raise RuntimeError(f"no PostgreSQL server below {_BINARIES}: apt-get install postgresql")
    return max(versions)


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """Ask again every 20 ms until the answer is true, and return it.

    Raises:
        TimeoutError: names `what` was waited for. A psycopg error of the last attempt is its cause.
    """
    deadline = time.monotonic() + seconds
    while True:
        failure: psycopg.Error | None = None
        try:
            answer = condition()
        except psycopg.Error as error:
            answer, failure = None, error
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}") from failure
        time.sleep(0.02)


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def command_prefix() -> list[str]:
    """What to put before a command so that it runs as the servers' OS user."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--inh-caps=-all"]


class Server:
    """One PostgreSQL server. Make it with `Servers`, which cleans up.

    Attributes:
        name: used as cluster_name, application_name and slot name.
        data: its data directory.
        address, port: where it listens.
        socket_directory: of its unix socket, where the superuser `postgres` is trusted, as on TCP.
        process: the postmaster while it runs or after its death; None before the first start.
    """

    def __init__(self, root: Path, name: str, *, version: int, address: str = "127.0.0.1") -> None:
        self.name = name
        self.version = version
        self.binaries = _BINARIES / str(version) / "bin"
        self.directory = root / name
        self.data = self.directory / "data"
        self.log_file = self.directory / "log"
        self.socket_directory = self.directory
        self.address = address
        self.port = free_port(address)
        self.settings: dict[str, str] = {}
        self.process: subprocess.Popen[bytes] | None = None
        self.directory.mkdir()
        if os.geteuid() == 0:
            shutil.chown(self.directory, "postgres", "postgres")

    # Making it

    def run(self, program: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's programs as the server's OS user, with untranslated output and times in UTC."""
        return subprocess.run(
            [*command_prefix(), str(self.binaries / program), *arguments],
            check=check,
            capture_output=True,
            text=True,
            cwd=self.directory,
            env={**os.environ, "LC_ALL": "C", "TZ": "UTC", "HOME": str(self.directory)},
        )

    def initdb(self, **settings: str) -> Self:
        """An empty database cluster with data checksums. `settings` go to its configuration."""
        local = ("--encoding=UTF8", "--locale=C", "--auth=trust", "--username=postgres")
        self.run("initdb", "--pgdata", str(self.data), "--data-checksums", "--no-sync", *local)
        self.allow("local all,replication all", "host all,replication all 127.0.0.0/8")
        self.settings = {
            "unix_socket_directories": str(self.socket_directory),
            "listen_addresses": self.address,
            "port": str(self.port),
            "cluster_name": self.name,
            "fsync": "off",  # processes die here, machines do not
            "shared_buffers": "16MB",
            "wal_log_hints": "on",
            "wal_retrieve_retry_interval": "100ms",
            "max_wal_senders": "10",
            "log_line_prefix": "%m [%p] %a ",
        }
        self.configure(**settings)
        return self

    def clone(self, of: Server, *, slot: str | None = None, **settings: str) -> Self:
        """A standby of another server by pg_basebackup, not started yet. `slot` is made there when missing."""
        if slot is not None and not of.sql("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", slot):
            of.sql("SELECT pg_create_physical_replication_slot(%s, true)", slot)
        fast = ("--checkpoint=fast", "--no-sync")
        self.run("pg_basebackup", "--pgdata", str(self.data), "--dbname", of.conninfo(), *fast)
        own = {
            "unix_socket_directories": str(self.socket_directory),
            "listen_addresses": self.address,
            "port": str(self.port),
            "cluster_name": self.name,
        }
        self.settings = {**of.settings, **own}
        self.follow(of, slot=slot, reload=False)
        self.configure(**settings)
        (self.data / "standby.signal").touch()
        return self

    # Configuration

    def configure(self, **settings: str | None) -> Self:
        """Set (or with None forget) settings in a file of our own. Call `reload` or `restart` for a running server."""
        for name, value in settings.items():
            if value is None:
                self.settings.pop(name, None)
            else:
                self.settings[name] = value
        escaped = ((name, value.replace("'", "''")) for name, value in self.settings.items())
        self._write(self.data / "test.conf", "".join(f"{name} = '{value}'\n" for name, value in escaped))
        main = self.data / "postgresql.conf"
        if "include 'test.conf'" not in main.read_text():
            self._write(main, main.read_text() + "\ninclude 'test.conf'\n")
        return self

    def allow(self, *lines: str, method: str = "trust") -> Self:
        """Write pg_hba.conf anew: each line without its method. `all` does not cover `replication`."""
        self._write(self.data / "pg_hba.conf", "".join(f"{line} {method}\n" for line in lines))
        return self

    def follow(self, upstream: Server, *, slot: str | None = None, reload: bool = True) -> Self:
        """Stream from another server. A setting that can be reloaded since PostgreSQL 13."""
        self.configure(
            primary_conninfo=f"host={upstream.address} port={upstream.port} user=postgres application_name={self.name}",
            primary_slot_name=slot or "",
        )
        return self.reload() if reload else self

    def follow_nobody(self) -> Self:
        """Ask for WAL where nobody listens. (A standby that is its own upstream streams from itself.)"""
        self.configure(
            primary_conninfo=f"host={self.address} port=1 user=postgres application_name={self.name}"
        ).reload()
        wait_until(lambda: self.value("SELECT count(*) FROM pg_stat_wal_receiver") == 0, f"{self.name} alone")
        return self

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text)
        if os.geteuid() == 0:
            shutil.chown(path, "postgres", "postgres")

    # Life and death

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, None when it does not run."""
        if self.process is None or self.process.poll() is not None:
            return None
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether there is a postmaster (a frozen one counts)."""
        return self.pid is not None

    def start(self, *, wait: bool = True, seconds: float = 30.0) -> Self:
        """Start it; `wait` until it takes sessions.

        Raises:
            RuntimeError: it ended instead; the message has the end of its log.
        """
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*command_prefix(), str(self.binaries / "postgres"), "-D", str(self.data)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,  # Ctrl-C at pytest must not reach it before the clean-up does
            )
        # Reap it when it dies, so that its process id does not look alive to the code under test.
        threading.Thread(target=self.process.wait, daemon=True).start()
        if wait:
            wait_until(self._answers_or_died, f"{self.name} to take sessions", seconds)
        return self

    def _answers_or_died(self) -> bool:
        if not self.running:
            raise RuntimeError(f"{self.name} did not start:\n{self.log()[-3000:]}")
        return psycopg.pq.PGconn.ping(self.conninfo().encode()) == psycopg.pq.Ping.OK

    def stop(self, mode: str = "fast", *, wait: bool = True, seconds: float = 30.0) -> Self:
        """Stop as `pg_ctl stop --mode` does: smart, fast or immediate."""
        number = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode]
        if self.pid is not None:
            os.kill(self.pid, number)
        if wait:
            wait_until(lambda: not self.running, f"{self.name} to stop", seconds)
        return self

    def kill(self) -> Self:
        """kill -9 of the postmaster and all its processes, as a power cut does. Cleans nothing up, as a power cut."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
        wait_until(lambda: not _listening(self.address, self.port), f"{self.name} to be gone")
        return self

    def restart(self, mode: str = "fast") -> Self:
        return self.stop(mode).start()

    def reload(self) -> Self:
        """Have the configuration read again (SIGHUP), if it runs."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGHUP)
        return self

    def promote(self) -> Self:
        """`pg_ctl promote`, as an operator would by hand."""
        self.run("pg_ctl", "promote", "--pgdata", str(self.data))
        return self

    def freeze(self, kind: str | None = None) -> Self:
        """SIGSTOP all processes, or only those whose title has `kind` ("walsender", "walreceiver", "startup", ...)."""
        return self._signal(signal.SIGSTOP, kind)

    def thaw(self, kind: str | None = None) -> Self:
        """SIGCONT what `freeze` stopped."""
        return self._signal(signal.SIGCONT, kind)

    def _signal(self, number: signal.Signals, kind: str | None) -> Self:
        pids = self.processes(kind)
        if kind is not None and not pids:
            raise RuntimeError(f"{self.name} has no process {kind!r}")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return self

    def processes(self, kind: str | None = None) -> list[int]:
        """Process ids: the postmaster first, then its children; with `kind` those with that word in their title."""
        if self.pid is None:
            return []
        pids = [self.pid, *_children(self.pid)]
        return [pid for pid in pids if kind is None or kind in _title(pid)]

    # Talking to it

    def conninfo(self, dbname: str = "postgres", user: str = "postgres", **more: str) -> str:
        """A libpq string over TCP."""
        return psycopg.conninfo.make_conninfo(
            host=self.address, port=self.port, dbname=dbname, user=user, connect_timeout=5, **more
        )

    def sql(self, query: str, *parameters: Any, dbname: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement as superuser in a session of its own, in autocommit; its rows, [] without a result."""
        with psycopg.connect(self.conninfo(dbname, application_name="test"), autocommit=True) as connection:
            cursor = connection.execute(query, parameters or None)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def value(self, query: str, *parameters: Any, dbname: str = "postgres") -> Any:
        """The first column of the first row."""
        rows = self.sql(query, *parameters, dbname=dbname)
        return rows[0][0] if rows else None

    def log(self) -> str:
        """Everything that it has logged."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def control_data(self) -> str:
        """The text of pg_controldata, which also works while it is stopped."""
        return self.run("pg_controldata", str(self.data)).stdout

    def wait_for_streaming(self, seconds: float = 20.0) -> Self:
        """Wait until its walreceiver streams."""
        query = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"
        wait_until(lambda: self.value(query), f"{self.name} to stream", seconds)
        return self

    def wait_for_replay(self, of: Server, seconds: float = 20.0) -> Self:
        """Wait until it has replayed everything that the other server has written up to now."""
        target = of.value("SELECT pg_current_wal_lsn()")
        query = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
        wait_until(lambda: self.value(query, target), f"{self.name} to replay {target}", seconds)
        return self


class Servers:
    """Makes servers in one temporary directory; at the end of the `with` block all of it is gone."""

    def __init__(self) -> None:
        _sweep()
        self.root = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        self.root.chmod(0o755)
        self.all: list[Server] = []

    def server(self, name: str, *, version: int | None = None, address: str = "127.0.0.1") -> Server:
        """A server that has no data directory yet."""
        server = Server(self.root, name, version=version or newest_version(), address=address)
        self.all.append(server)
        return server

    def primary(self, name: str, *, version: int | None = None, address: str = "127.0.0.1", **settings: str) -> Server:
        """A running primary with an empty database cluster."""
        return self.server(name, version=version, address=address).initdb(**settings).start()

    def replica(
        self, name: str, of: Server, *, slot: str | None = None, address: str = "127.0.0.1", **settings: str
    ) -> Server:
        """A running standby that streams from `of`, with a slot where one is named."""
        replica = self.server(name, version=of.version, address=address).clone(of, slot=slot, **settings)
        return replica.start().wait_for_streaming()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill every server, also frozen ones, and remove all files."""
        for server in self.all:
            for pid in server.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if server.process is not None:
                server.process.wait()
        shutil.rmtree(self.root, ignore_errors=True)


def _sweep() -> None:
    """Clean up after test runs that were killed: their directories name a process that is no more."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        match = re.match(rf"{_PREFIX}(\d+)-", directory.name)
        if match is None or Path(f"/proc/{match[1]}").exists():
            continue
        for lock in directory.glob("*/data/postmaster.pid"):
            pid = int(lock.read_text().split("\n", 1)[0])
            # A process id may have been given to somebody else since: look at what it runs.
            if str(lock.parent) in _title(pid):
                for victim in (pid, *_children(pid)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)
        shutil.rmtree(directory, ignore_errors=True)


def _children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # "pid (name) state ppid ...", and the name may have spaces and parentheses.
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _listening(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == 0


def os_user() -> pwd.struct_passwd:
    """The OS user that the servers run as."""
    return pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())

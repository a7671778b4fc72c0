# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real PgBouncer processes for tests: on loopback, in a temporary directory, gone afterwards whatever happens.

    with Servers() as servers, Poolers() as poolers:
        db1 = servers.primary("db1")
        pooler = poolers.start("pool1", {"orders": f"host={db1.address} port={db1.port} dbname=postgres"})
        pooler.query("orders", "SELECT 1")

DBOPS_TEST_PGBOUNCER names another program than Debian's, to run the same tests with another version.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import psycopg

from ansible_collections.dbops.fleet.tests.integration.servers import command_prefix, free_port, wait_until

PROGRAM = os.environ.get("DBOPS_TEST_PGBOUNCER", "/usr/sbin/pgbouncer")


class Pooler:
    """One PgBouncer process. The users `postgres` and, at the console, `operator` log in without a password."""

    def __init__(self, directory: Path, databases: Mapping[str, str], settings: Mapping[str, Any]) -> None:
        self.name = directory.name
        self.directory = directory
        self.address = "127.0.0.1"
        self.port = int(settings.get("listen_port", 0)) or free_port()
        self.config_file = directory / "pgbouncer.ini"
        self.databases = dict(databases)
        self.settings = {
            "listen_addr": self.address,
            "listen_port": self.port,
            "unix_socket_dir": str(directory),
            "auth_type": "trust",
            "auth_file": str(directory / "userlist.txt"),
            "admin_users": "operator",
            "pool_mode": "transaction",
            "server_login_retry": 0.2,
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None
        directory.mkdir()
        self._own(directory)
        self.write_file("userlist.txt", '"postgres" ""\n"operator" ""\n')
        self.write()

    def write(self) -> Self:
        """Write the files again from `databases` and `settings`."""
        databases = "".join(f"{name} = {target}\n" for name, target in self.databases.items())
        settings = "".join(f"{name} = {value}\n" for name, value in self.settings.items())
        self.write_file("pgbouncer.ini", f"[databases]\n{databases}\n[pgbouncer]\n{settings}")
        return self

    def write_file(self, name: str, text: str) -> Path:
        """A file of the pooler's own user."""
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o640)
        self._own(path)
        return path

    def start(self) -> Self:
        """Start it and wait until its console is there."""
        self.process = subprocess.Popen(
            # It dies with the tests, also when those are killed.
            [*command_prefix(), "setpriv", "--pdeathsig=KILL", PROGRAM, str(self.config_file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.directory / "log").open("ab"),
            cwd=self.directory,
        )
        wait_until(self._there_or_died, f"{self.name} to start")
        return self

    def _there_or_died(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} did not start:\n{self.log()}")
        # The file of the socket is there a moment before anybody listens on it.
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.directory / f".s.PGSQL.{self.port}")) == 0

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9, as when the machine loses power; frozen or not."""
        if self.process is not None:
            self._signal(signal.SIGKILL)
            self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def connect(self, database: str, **parameters: Any) -> psycopg.Connection[Any]:
        """A client's connection over TCP."""
        own = {"host": self.address, "port": self.port, "user": "postgres", "connect_timeout": 10}
        return psycopg.connect(dbname=database, **{**own, **parameters}, autocommit=True, prepare_threshold=None)

    def query(self, database: str, query: str, **parameters: Any) -> Any:
        """The first value of a query through the pool."""
        with self.connect(database, **parameters) as connection:
            row = connection.execute(query).fetchone()  # type: ignore[arg-type]
            return row[0] if row else None

    def console(self, command: str) -> list[dict[str, Any]]:
        """A command at the console, with nothing of the collection's own code: its rows."""
        with self.connect("pgbouncer", user="operator") as connection:
            cursor = connection.execute(command)  # type: ignore[arg-type]
            if cursor.description is None:
                return []
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    def paused(self, database: str) -> bool:
        return any(row["name"] == database and str(row["paused"]) == "1" for row in self.console("SHOW DATABASES"))

    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _own(self, path: Path) -> None:
        if os.geteuid() == 0:
            shutil.chown(path, "postgres", "postgres")


class Poolers:
    """Makes poolers in one temporary directory; at the end of the `with` block all of it is gone."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="dbops-poolers-"))
        self.root.chmod(0o755)
        self.all: list[Pooler] = []

    def make(self, name: str, databases: Mapping[str, str], **settings: Any) -> Pooler:
        """One that does not run yet."""
        pooler = Pooler(self.root / name, databases, settings)
        self.all.append(pooler)
        return pooler

    def start(self, name: str, databases: Mapping[str, str], **settings: Any) -> Pooler:
        """One that runs."""
        return self.make(name, databases, **settings).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pooler in self.all:
            pooler.kill()
        shutil.rmtree(self.root, ignore_errors=True)

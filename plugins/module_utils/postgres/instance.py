# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One PostgreSQL instance on this host: its directories, its control file, its process, its systemd unit."""

from __future__ import annotations

# Runs programs where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import os
import subprocess
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.postgres import session
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.control import ControlData
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.settings import read_conf_value
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import history_file_name

if TYPE_CHECKING:
    import psycopg

# What an empty file system may have at its root without being anybody's data.
_NO_DATA = frozenset({"lost+found"})


@dataclass(frozen=True)
class Instance:
    """An instance as Debian's postgresql-common lays it out; every path can be another one.

    Attributes:
        version: major version.
        name: the Debian name, mostly "main".
        binaries: directory of postgres, pg_controldata, ...
        config_directory: None where the configuration is in the data directory.
        unit: systemd unit.
        host: how messages call this host; None in a module, whose caller knows.
    """

    version: int
    name: str
    data_directory: Path
    binaries: Path
    config_directory: Path | None = None
    port: int = 5432
    socket_directory: str = session.SOCKET_DIRECTORY
    unit: str = ""
    host: str | None = None

    @classmethod
    def debian(
        cls, version: int, name: str = "main", *, data_directory: str | None = None, root: Path = Path("/")
    ) -> Instance:
        """The instance `version`/`name` of Debian, whether it exists or not.

        Port and data directory are read from its configuration where there is one; a server that runs is asked through
        its lock file.

        Args:
            data_directory: where it is or will be, if not in Debian's place.
            root: of the file system, for tests.
        """
        config = root / "etc/postgresql" / str(version) / name
        data = data_directory or read_conf_value(_text(config / "postgresql.conf"), "data_directory")
        instance = cls(
            version=version,
            name=name,
            data_directory=Path(data) if data else root / "var/lib/postgresql" / str(version) / name,
            binaries=Path("/usr/lib/postgresql") / str(version) / "bin",
            # pg_createcluster makes the directory first.
            config_directory=config if (config / "postgresql.conf").is_file() else None,
            unit=f"postgresql@{version}-{name}.service",
        )
        port = read_conf_value(_configuration(config), "port")
        if port and port.isdigit():
            instance = replace(instance, port=int(port))
        lock = instance.lock_file()
        if instance.running and lock is not None:
            instance = replace(instance, port=lock.port, socket_directory=lock.socket_directory)
        return instance

    # What is there

    @property
    def exists(self) -> bool:
        """Whether there is a data directory, empty or not."""
        return self.data_directory.is_dir()

    @property
    def empty(self) -> bool:
        """Whether there is nothing in the data directory, or no such directory."""
        return not self.exists or not any(entry.name not in _NO_DATA for entry in self.data_directory.iterdir())

    @property
    def data_version(self) -> str | None:
        """PG_VERSION of the data directory; None where there is none: these are no PostgreSQL data."""
        return _text(self.data_directory / "PG_VERSION").strip() or None

    @property
    def owner_uid(self) -> int | None:
        """Owner of the data directory: the OS user whom the server runs as."""
        return self.data_directory.stat().st_uid if self.exists else None

    def lock_file(self) -> LockFile | None:
        """What postmaster.pid says. After a crash it is still there: see `pid`."""
        return LockFile.parse(_text(self.data_directory / "postmaster.pid"))

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, if it lives.

        The lock file outlives a crash and its number may belong to another process by now; a postmaster is one that has
        the data directory as its working directory.
        """
        lock = self.lock_file()
        return lock.pid if lock is not None and self._lives(lock) else None

    def _lives(self, lock: LockFile) -> bool:
        try:
            return os.path.samefile(f"/proc/{lock.pid}/cwd", self.data_directory)
        except OSError:
            return False

    @property
    def running(self) -> bool:
        """Whether there is a postmaster, taking sessions or not."""
        return self.pid is not None

    def control_data(self) -> ControlData | None:
        """The control file; None where there is none.

        Raises:
            FleetError: there is one, and it or pg_controldata cannot be read or run.
        """
        if not (self.data_directory / "global" / "pg_control").exists():
            return None
        program = self.binaries / "pg_controldata"
        try:
            result = subprocess.run(
                [str(program), str(self.data_directory)],
                env={"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"},
                capture_output=True,
                text=True,
                check=False,
                timeout=30,
            )
        except OSError as error:
            raise FleetError(
                f"cannot run {program}: {error.strerror}",
                host=self.host,
                remedy=f"Install the package postgresql-{self.version}; the data in {self.data_directory} are of it.",
            ) from error
        try:
            if result.returncode != 0:
                raise ValueError(result.stderr.strip())
            return ControlData.parse(result.stdout)
        except ValueError as error:
            raise FleetError(
                f"the control file in {self.data_directory} cannot be read: {error}",
                host=self.host,
                remedy="Look at the data directory by hand; an interrupted copy or a damaged disk leaves this.",
            ) from error

    def history_text(self, timeline: int) -> str | None:
        """The history file of a timeline, from pg_wal; None where it is not there."""
        return _text(self.data_directory / "pg_wal" / history_file_name(timeline)) or None

    @property
    def log_file(self) -> Path:
        """Debian's log of the server."""
        return Path(f"/var/log/postgresql/postgresql-{self.version}-{self.name}.log")

    # Acting on it

    def connect(self, **parameters: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """A superuser's session; see `session.connect_local` for parameters and errors."""
        return session.connect_local(self.port, self.socket_directory, **parameters)

    @property
    def takes_sessions(self) -> bool:
        """Whether the postmaster says that it lets clients in, as a primary or as a hot standby (``pg_ctl --wait``)."""
        lock = self.lock_file()
        return lock is not None and lock.status == "ready" and self._lives(lock)

    def start(self, *, timeout: float = 120.0) -> None:
        """Start the unit and wait until it takes sessions, or systemd calls it started. Raises OperationFailed.

        pg_ctlcluster, which Debian's unit runs, sleeps for two seconds more to see it stable (cluster_port_ready). In a
        role change clients may be waiting.
        """
        problems: list[Exception] = []

        def start_unit() -> None:
            try:
                self._systemctl(timeout, "start", self.unit)
            except Exception as problem:
                problems.append(problem)

        unit = threading.Thread(target=start_unit, daemon=True)
        unit.start()
        while unit.is_alive() and not self.takes_sessions:
            time.sleep(0.02)
        if problems:
            raise problems[0]

    def stop(self, *, timeout: float = 120.0) -> None:
        """Stop the unit (Debian's stops fast) and wait for it. Raises OperationFailed."""
        self._systemctl(timeout, "stop", self.unit)

    def reload(self, *, timeout: float = 30.0) -> None:
        """Have the configuration read again. Raises OperationFailed."""
        self._systemctl(timeout, "reload", self.unit)

    def reload_units(self, *, timeout: float = 60.0) -> None:
        """Have systemd read the units of this host again. Raises OperationFailed."""
        self._systemctl(timeout, "daemon-reload")

    def _systemctl(self, timeout: float, *arguments: str) -> None:
        try:
            result = subprocess.run(
                ["systemctl", *arguments],
                env={**os.environ, "LC_ALL": "C"},
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout,
            )
            problem = result.stderr.strip() if result.returncode else ""
        except subprocess.TimeoutExpired:
            problem = f"no end after {timeout:g} s"
        if problem:
            raise OperationFailed(
                f"systemctl {' '.join(arguments)} failed: {problem}",
                host=self.host,
                remedy=f"Read journalctl -u {self.unit} and {self.log_file}.",
            )


@dataclass(frozen=True)
class LockFile:
    """The lines of postmaster.pid that matter here.

    Attributes:
        status: what the postmaster wrote last: "starting", "ready", "standby", or "stopping" from the moment on when it
            is asked to shut down, in any mode. Empty before it wrote anything.
    """

    pid: int
    port: int
    socket_directory: str
    status: str = ""

    @classmethod
    def parse(cls, text: str) -> LockFile | None:
        """None while the file is incomplete, as in the first moment of a start."""
        lines = text.splitlines()
        if len(lines) < 5 or not lines[0].strip().isdigit() or not lines[3].strip().isdigit():
            return None
        status = lines[7].strip() if len(lines) > 7 else ""
        return cls(int(lines[0]), int(lines[3]), lines[4].strip(), status)


def included_files(config: Path) -> list[Path]:
    """The files of conf.d beside postgresql.conf that PostgreSQL reads, in its order."""
    try:
        return sorted(path for path in (config / "conf.d").iterdir() if path.suffix == ".conf" and path.name[0] != ".")
    except OSError:
        return []


def _configuration(config: Path) -> str:
    return "\n".join(_text(path) for path in (config / "postgresql.conf", *included_files(config)))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""

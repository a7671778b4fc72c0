# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine as the role `backup` installs it:

a copy of module_utils with the command `dbops`, run by Debian's Python.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, Self

from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal import commands
from ansible_collections.dbops.fleet.tests.integration.servers import Server, Servers, command_prefix, wait_until

CHECKOUT = Path(__file__).parents[3]


class Engine:
    """The engine of one server. Use it in a `with` block: it stops its archiver."""

    def __init__(self, servers: Servers, server: Server, repositories: list[dict[str, Any]], **settings: Any) -> None:
        self.servers = servers
        self.server = server
        self.home = server.directory / "engine"
        self.installed = servers.root / "installed"
        self.config_file = self.home / "backup.json"
        self.archiver: subprocess.Popen[bytes] | None = None
        self._install()
        for part in ("", "spool", "state"):
            directory(self.home / part)
        self.settings: dict[str, Any] = {
            "cluster": "orders",
            "data_directory": str(server.data),
            "bin_directory": str(server.binaries),
            "socket_directory": str(server.socket_directory),
            "port": server.port,
            "spool_directory": str(self.home / "spool"),
            "state_directory": str(self.home / "state"),
            "repositories": repositories,
            **settings,
        }
        self.configure()

    @classmethod
    def with_primary(cls, servers: Servers, **settings: Any) -> Self:
        """A primary that archives into a directory repository which is initialised."""
        server = servers.primary("db1", archive_mode="on", archive_command="/bin/false", wal_level="replica")
        path = directory(servers.root / "repository")
        engine = cls(servers, server, [{"name": "local", "type": "directory", "path": str(path)}], **settings)
        engine.dbops("init")
        engine.use_archive_command()
        return engine

    def _install(self) -> None:
        if self.installed.exists():
            return
        target = self.installed / commands.ENGINE
        shutil.copytree(CHECKOUT / "plugins/module_utils", target, ignore=shutil.ignore_patterns("__pycache__"))
        launcher = self.installed / "dbops"
        launcher.write_text(commands.launcher(str(self.installed)))
        launcher.chmod(0o755)

    def configure(self, **settings: Any) -> None:
        """Write the configuration, with other settings where given."""
        self.settings.update(settings)
        self.config_file.write_text(json.dumps(self.settings))

    def command(self, *arguments: str) -> list[str]:
        return [*command_prefix(), str(self.installed / "dbops"), "--config", str(self.config_file), *arguments]

    def dbops(self, *arguments: str, status: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `dbops` as the server's OS user; it must end with this status."""
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, check=False, timeout=120, env=clean(), **options
        )
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: str, status: int = 0) -> Any:
        return json.loads(self.dbops("--json", *arguments, status=status).stdout)

    def use_archive_command(self) -> None:
        """Set the server's archive_command to ours."""
        system = int(self.server.value("SELECT system_identifier FROM pg_control_system()"))
        command = commands.archive_command(
            self.settings["spool_directory"], system, config_file=str(self.config_file), installed=str(self.installed)
        )
        self.server.configure(archive_command=command).reload()
        wait_until(lambda: self.server.value("SHOW archive_command") == command, "the new archive_command")

    def restore_command(self) -> str:
        return commands.restore_command(config_file=str(self.config_file), installed=str(self.installed))

    def start_archiver(self) -> subprocess.Popen[bytes]:
        """Start it and wait until it listens."""
        socket = self.home / "spool" / "archiver.socket"
        socket.unlink(missing_ok=True)
        with (self.home / "archiver.log").open("ab") as log:
            command = self.command("wal", "archiver")
            self.archiver = subprocess.Popen(command, stdout=log, stderr=log, env=clean(), start_new_session=True)
        wait_until(socket.exists, "the archiver to listen")
        return self.archiver

    def archiver_log(self) -> str:
        return (self.home / "archiver.log").read_text()

    def rows(self, count: int) -> None:
        """Commit numbered rows and end the segment."""
        self.server.sql("CREATE TABLE IF NOT EXISTS t (i int)")
        first = self.server.value("SELECT coalesce(max(i), 0) FROM t") + 1
        for number in range(first, first + count):
            self.server.sql(f"INSERT INTO t VALUES ({number})")

    def switch(self) -> str:
        """End the segment; its name."""
        self.server.sql("SELECT pg_create_restore_point('test')")
        return str(self.server.value("SELECT pg_walfile_name(pg_switch_wal())"))

    def archive(self) -> str:
        """End the segment and wait until PostgreSQL was told that it is archived."""
        name = self.switch()
        query = "SELECT last_archived_wal >= %s FROM pg_stat_archiver"
        wait_until(lambda: self.server.value(query, name), f"{name} to be archived")
        return name

    def objects(self, pattern: str = "**/*") -> list[Path]:
        """Files of the directory repository."""
        root = Path(self.settings["repositories"][0]["path"])
        return sorted(path for path in root.glob(pattern) if path.is_file())

    def wal_objects(self, name: str) -> list[Path]:
        return [path for path in self.objects(f"*/wal/**/{name}-*") if not path.name.endswith("-claim")]

    def sibling(self, server: Server) -> Engine:
        """The engine of another server of the same cluster, with the same repositories."""
        return Engine(self.servers, server, copy.deepcopy(self.settings["repositories"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.archiver is not None and self.archiver.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.archiver.pid, signal.SIGKILL)
            self.archiver.wait()


def clean() -> dict[str, str]:
    """An environment without the developer's Python."""
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def directory(path: Path) -> Path:
    """A directory that the server's OS user owns."""
    path.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        shutil.chown(path, "postgres", "postgres")
    return path

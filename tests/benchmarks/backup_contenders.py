# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is compared by bench_backup.py, on the same server, into the same kind of repository: one at a time has one.

A contender makes its empty repository, archives into it, and says by which commands it takes and restores backups.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.tests.benchmarks.backup_places import Place
from ansible_collections.dbops.fleet.tests.integration.repository.engine import Engine, clean, directory
from ansible_collections.dbops.fleet.tests.integration.servers import Server, Servers, command_prefix, wait_until

# Compression of backups and of WAL, and processes or threads: the same for all that have the choice.
LEVEL, WAL_LEVEL, PROCESSES = 3, 1, 2


class Contender(ABC):
    """One way to back up.

    Args:
        servers: for directories that go at the end.
        server: what is backed up.
        place: where its repository is.
    """

    name = ""
    archives = True

    def __init__(self, servers: Servers, server: Server, place: Place) -> None:
        self.server, self.place = server, place
        self.home = directory(servers.root / type(self).__name__.lower())
        self.environment = clean()

    @classmethod
    def missing(cls, kind: str) -> str | None:
        """Why it cannot take part here, with a repository of this kind."""
        return None

    @abstractmethod
    def prepare(self) -> None:
        """Make an empty repository."""

    @abstractmethod
    def start_archiving(self) -> None:
        """Have the server archive its WAL into it from now on."""

    @abstractmethod
    def full(self) -> list[str]:
        """The command of a full backup."""

    def again(self) -> list[str] | None:
        """The command of a second backup that sends only what changed; None when there is no such thing."""
        return None

    @abstractmethod
    def restore(self, target: Path) -> list[str]:
        """The command that restores the files of the newest backup into an empty directory."""

    def delta(self, target: Path) -> list[str] | None:
        """The command that makes a data directory equal to the newest backup; None when there is no such thing."""
        return None

    @abstractmethod
    def sent(self) -> int:
        """Bytes that the newest backup wrote into the repository."""

    def clear(self) -> None:
        """Archive nothing any more, and leave nothing in the repository."""
        stop_archiving(self.server)
        self.place.clear()

    def run(self, command: list[str]) -> str:
        """Run one of its commands; its output."""
        return subprocess.run(command, check=True, env=self.environment, stdout=subprocess.PIPE, text=True).stdout


def set_archive_command(server: Server, command: str) -> None:
    """Set it and wait until it is in force."""
    server.configure(archive_command=command).reload()
    wait_until(lambda: server.value("SHOW archive_command") == command, "the archive_command")


def stop_archiving(server: Server) -> None:
    """Archive nothing from now on, and wait for what runs: its repository is still there."""
    set_archive_command(server, "/bin/true")
    ready = server.data / "pg_wal" / "archive_status"
    wait_until(lambda: not list(ready.glob("*.ready")), "the last archive_command", 120)


class DbopsFleet(Contender):
    """This collection's engine, as the role `backup` installs it."""

    name = "dbops.fleet"

    def __init__(self, servers: Servers, server: Server, place: Place) -> None:
        super().__init__(servers, server, place)
        threads = {"threads": PROCESSES}
        self.engine = Engine(
            servers, server, [place.for_dbops()], wal={"level": WAL_LEVEL} | threads, backup={"level": LEVEL} | threads
        )

    def prepare(self) -> None:
        self.place.make()
        self.engine.dbops("init")

    def start_archiving(self) -> None:
        self.engine.start_archiver()
        self.engine.use_archive_command()

    def full(self) -> list[str]:
        return self.engine.command("--quiet", "backup", "--full")

    def again(self) -> list[str]:
        return self.engine.command("--quiet", "backup")

    def restore(self, target: Path) -> list[str]:
        return self.engine.command("--quiet", "restore", "--to", str(target), "--action", "standby")

    def delta(self, target: Path) -> list[str]:
        return [*self.restore(target), "--delta"]

    def sent(self) -> int:
        return int(self.engine.json("list")[-1]["sent"])

    def clear(self) -> None:
        stop_archiving(self.server)
        self.stop_archiver()
        self.place.clear()

    def stop_archiver(self) -> None:
        if self.engine.archiver is not None:
            self.engine.archiver.terminate()
            self.engine.archiver.wait()


class PgBackRest(Contender):
    """Debian's package: zstd, two processes, asynchronous archiving."""

    name = "pgBackRest"
    more = ""

    def __init__(self, servers: Servers, server: Server, place: Place) -> None:
        super().__init__(servers, server, place)
        for part in ("log", "spool", "lock"):
            directory(self.home / part)
        self.file = self.home / "pgbackrest.conf"

    @classmethod
    def missing(cls, kind: str) -> str | None:
        return None if shutil.which("pgbackrest") else "needs the package pgbackrest"

    def prepare(self) -> None:
        self.place.make()
        self.file.write_text(
            f"[global]\n{self.place.for_pgbackrest()}log-path={self.home}/log\nspool-path={self.home}/spool\n"
            f"lock-path={self.home}/lock\ncompress-type=zst\ncompress-level={LEVEL}\nprocess-max={PROCESSES}\n"
            f"start-fast=y\nlog-level-console=warn\nlog-level-file=off\nrepo1-retention-full=9\narchive-async=y\n"
            f"{self.more}[global:archive-push]\ncompress-level={WAL_LEVEL}\n"
            f"[main]\npg1-path={self.server.data}\npg1-socket-path={self.server.socket_directory}\n"
            f"pg1-port={self.server.port}\npg1-user=postgres\n"
        )
        shutil.rmtree(self.home / "spool")
        directory(self.home / "spool")
        self.run(self._command("stanza-create"))

    def start_archiving(self) -> None:
        set_archive_command(self.server, self.archive_command)

    @property
    def archive_command(self) -> str:
        return f"pgbackrest --config={self.file} --stanza=main archive-push %p"

    def full(self) -> list[str]:
        return self._command("backup", "--type=full")

    def again(self) -> list[str]:
        return self._command("backup", "--type=incr")

    def restore(self, target: Path) -> list[str]:
        directory(target)
        # A restore empties the spool, and the running server needs its own.
        return self._command("restore", f"--pg1-path={target}", f"--spool-path={self.home}/none")

    def delta(self, target: Path) -> list[str]:
        return [*self.restore(target), "--delta"]

    def sent(self) -> int:
        (stanza,) = json.loads(self.run(self._command("info", "--output=json")))
        return int(stanza["backup"][-1]["info"]["repository"]["delta"])

    def _command(self, *words: str) -> list[str]:
        return [*command_prefix(), "pgbackrest", f"--config={self.file}", "--stanza=main", *words]


class PgBackRestBlocks(PgBackRest):
    """The same with bundles and block incremental backups, which are not its defaults."""

    name = "pgBackRest-blocks"
    more = "repo1-bundle=y\nrepo1-block=y\n"

    @classmethod
    def missing(cls, kind: str) -> str | None:
        absent = super().missing(kind)
        if absent is None and "repo-block" not in _output("pgbackrest", "help", "backup"):
            absent = "needs pgBackRest 2.46"
        return absent


class BarmanCloud(Contender):
    """Debian's package barman-cli-cloud, which knows object stores only: gzip, two processes."""

    name = "barman-cloud"

    def __init__(self, servers: Servers, server: Server, place: Place) -> None:
        super().__init__(servers, server, place)
        # Its processes meet at a socket in TMPDIR, and the path of a socket is short.
        self.environment |= place.for_boto3() | {"TMPDIR": "/var/tmp"}

    @classmethod
    def missing(cls, kind: str) -> str | None:
        if kind != "s3":
            return "has no directory repository"
        return None if shutil.which("barman-cloud-backup") else "needs the package barman-cli-cloud"

    def prepare(self) -> None:
        self.place.make()

    def start_archiving(self) -> None:
        variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.environment.items())
        push = shlex.join(self._command("wal-archive", "--gzip")[len(command_prefix()) :])
        set_archive_command(self.server, f"{variables} {push} %p")

    def full(self) -> list[str]:
        login = ("--host", str(self.server.socket_directory), "--port", str(self.server.port), "--user", "postgres")
        return self._command("backup", *login, "--immediate-checkpoint", "--gzip", f"--jobs={PROCESSES}")

    def restore(self, target: Path) -> list[str]:
        listed = json.loads(self.run(self._command("backup-list", "--format=json")))
        return [*self._command("restore"), listed["backups_list"][-1]["backup_id"], str(target)]

    def sent(self) -> int:
        return self.place.stored("main/base/")

    def _command(self, what: str, *options: str) -> list[str]:
        where = ("--endpoint-url", self.place.endpoint)
        return [*command_prefix(), f"barman-cloud-{what}", *where, *options, self.place.url, "main"]


class PgBaseBackup(Contender):
    """PostgreSQL's own means: one compressed tar archive beside the other, without WAL."""

    name = "pg_basebackup"
    archives = False

    @classmethod
    def missing(cls, kind: str) -> str | None:
        return None if kind == "directory" else "writes into directories only"

    def prepare(self) -> None:
        self.place.make()
        self.newest: Path | None = None

    def start_archiving(self) -> None:
        """It has no archive."""

    def full(self) -> list[str]:
        self.newest = Path(self.place.path) / "full"
        return self._command()

    def again(self) -> list[str] | None:
        if self.server.version < 17 or self.newest is None:
            return None
        manifest = self.newest / "backup_manifest"
        self.newest = self.newest.with_name("again")
        return self._command(f"--incremental={manifest}")

    def restore(self, target: Path) -> list[str]:
        directory(target)
        unpack = "zstd --decompress --stdout $0/base.tar.zst | tar --extract --directory=$1 && sync --file-system $1"
        return [*command_prefix(), "bash", "-o", "pipefail", "-c", unpack, str(self.newest), str(target)]

    def sent(self) -> int:
        return sum(path.stat().st_size for path in (self.newest or Path("-")).iterdir())

    def _command(self, *options: str) -> list[str]:
        program = str(self.server.binaries / "pg_basebackup")
        how = ("--format=tar", f"--compress=client-zstd:{LEVEL}", "--wal-method=none", "--checkpoint=fast", *options)
        return [*command_prefix(), program, f"--pgdata={self.newest}", f"--dbname={self.server.conninfo()}", *how]


def _output(*command: str) -> str:
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout


CONTENDERS: tuple[type[Contender], ...] = (DbopsFleet, PgBackRest, PgBackRestBlocks, BarmanCloud, PgBaseBackup)


def versions(server: Server) -> dict[str, Any]:
    """What was compared."""
    packages = ("pgbackrest", "barman-cli-cloud", "radosgw")
    found = {name: _output("dpkg-query", "--showformat=${Version}", "--show", name) for name in packages}
    return {"postgresql": server.value("SHOW server_version")} | {name: text for name, text in found.items() if text}

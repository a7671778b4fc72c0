# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The promise of the whole: numbered commits, random kills and faults, the host is lost, restores to random targets.

A restore to a target has exactly the rows that were committed up to it; one to the newest state has every row whose
commit lies in the archive. DBOPS_SEED=N repeats a run, as far as processes let themselves be repeated.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.tests.integration.repository.engine import Engine, clean, directory
from ansible_collections.dbops.fleet.tests.integration.servers import Server, Servers, wait_until

SECONDS = float(os.environ.get("DBOPS_FAULT_SECONDS", "30"))


@dataclass
class Writer:
    """One client that commits numbered rows and notes what it was promised.

    Attributes:
        acknowledged: number -> position of the log right after its commit.
    """

    server: Server
    acknowledged: dict[int, Lsn] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Writer:
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.thread.join()

    def _run(self) -> None:
        number = 0
        connection: psycopg.Connection[Any] | None = None
        while not self.stopping.is_set():
            # A number is used once: a commit without an answer may have happened.
            number += 1
            try:
                if connection is None:
                    connection = psycopg.connect(self.server.conninfo(), autocommit=True)
                connection.execute("INSERT INTO t VALUES (%s)", (number,))
                row = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
                assert row is not None
                self.acknowledged[number] = Lsn.parse(row[0])
            except psycopg.Error:
                connection = None
            time.sleep(0.003)
        if connection is not None:
            connection.close()


class Chaos:
    """What happens to the host while the writer writes."""

    def __init__(self, engine: Engine, chance: random.Random) -> None:
        self.engine = engine
        self.chance = chance
        self.backup: subprocess.Popen[bytes] | None = None
        self.done: list[str] = []
        self.repository = Path(engine.settings["repositories"][0]["path"])

    def run(self, seconds: float) -> None:
        acts: list[Callable[[], None]] = [
            self.kill_archiver,
            self.crash_server,
            self.take_repository_away,
            self.begin_backup,
            self.kill_backup,
            self.switch,
            self.expire,
        ]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            act = self.chance.choice(acts)
            self.done.append(act.__name__)
            act()
            time.sleep(self.chance.uniform(0.1, 1.0))  # the writer goes on meanwhile

    def kill_archiver(self) -> None:
        archiver = self.engine.archiver
        if archiver is not None:
            kill(archiver)
        self.engine.start_archiver()

    def crash_server(self) -> None:
        self.engine.server.kill().start()

    def take_repository_away(self) -> None:
        away = self.repository.rename(self.repository.with_name("away"))
        time.sleep(self.chance.uniform(0.1, 1.5))
        away.rename(self.repository)

    def begin_backup(self) -> None:
        if self.backup is None or self.backup.poll() is not None:
            self.backup = subprocess.Popen(
                self.engine.command("backup", "--wal-timeout", "30"),
                env=clean(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def kill_backup(self) -> None:
        if self.backup is not None:
            kill(self.backup)

    def switch(self) -> None:
        self.engine.server.sql("SELECT pg_switch_wal()")

    def expire(self) -> None:
        """Whatever it says: with the repository away or a backup running it may refuse."""
        subprocess.run(self.engine.command("expire"), env=clean(), capture_output=True, check=False)


def kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def engine() -> Iterator[Engine]:
    """A primary with small segments, an archiver and a first backup."""
    with Servers() as servers:
        server = servers.server("db1").initdb(
            archive_mode="on",
            archive_command="/bin/false",
            archive_timeout="1s",
            track_commit_timestamp="on",
            wal_level="replica",
        )
        server.run("pg_resetwal", "--wal-segsize=1", str(server.data))
        server.configure(min_wal_size="2MB", max_wal_size="8MB").start()
        repository = {"name": "local", "type": "directory", "path": str(directory(servers.root / "repository"))}
        with Engine(servers, server, [repository]) as made:
            made.dbops("init")
            made.use_archive_command()
            made.start_archiver()
            server.sql("CREATE TABLE t (i int PRIMARY KEY)")
            made.dbops("backup")
            yield made


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("run", range(int(os.environ.get("DBOPS_FAULT_RUNS", "2"))))
def test_restores_have_exactly_the_rows_up_to_their_target_and_none_that_was_archived_is_lost(
    engine: Engine, run: int
) -> None:
    seed = int(os.environ.get("DBOPS_SEED", time.time_ns() % 1_000_000)) + run
    print(f"DBOPS_SEED={seed}")
    chance = random.Random(seed)
    chaos = Chaos(engine, chance)
    with Writer(engine.server) as writer:
        chaos.run(SECONDS)
    print(f"faults: {' '.join(chaos.done)}; {len(writer.acknowledged)} rows acknowledged")
    kill_all(engine, chaos)
    listed = engine.json("list")
    newest = listed[-1]

    # The truth, from the lost disk, which nobody has in life. It archives no more.
    truth = engine.server.configure(archive_command="/bin/false").start()
    rows = truth.sql("SELECT i, pg_xact_commit_timestamp(xmin) FROM t ORDER BY i")
    committed = [number for number, _time in rows]
    assert set(writer.acknowledged) <= set(committed)

    latest = restored(engine, "latest")
    assert latest.numbers == committed[: len(latest.numbers)]
    archived = Lsn.parse(latest.report["wal_to"])
    promised = {number for number, lsn in writer.acknowledged.items() if lsn <= archived}
    assert promised <= set(latest.numbers)
    print(f"{len(committed)} committed, {len(promised)} in the archive, {len(latest.numbers)} back")

    # Any moment from the end of the first backup to the last commit that came back.
    first_end = min(one["stop_time"] for one in listed)
    reachable = [(number, when) for number, when in rows if number in set(latest.numbers)]
    reachable = [(number, when) for number, when in reachable if when.timestamp() > first_end]
    for number, when in chance.sample(reachable, min(3, len(reachable))):
        assert restored(engine, "time", when.isoformat()).numbers == [n for n in committed if n <= number]

    # A record has to come at the position or behind it for replay to know that it is there.
    positions = [number for number, _when in reachable if writer.acknowledged.get(number, archived) < archived][:-3]
    for number in chance.sample(positions, min(2, len(positions))):
        lsn = writer.acknowledged[number]
        assert restored(engine, "lsn", str(lsn)).numbers == [n for n in committed if n <= number]

    end = restored(engine, "immediate", backup=newest["id"]).numbers
    assert end == committed[: len(end)]
    assert engine.json("check", "--all")["problems"] == []


@dataclass
class Restored:
    """A scratch copy that was looked into."""

    report: dict[str, Any]
    numbers: list[int]


COPIES = iter(range(1000))


def restored(engine: Engine, *target: str, backup: str | None = None) -> Restored:
    place = directory(engine.servers.root / "to") / "data"
    named = ("--backup", backup) if backup else ()
    report = engine.json("restore", "--to", str(place), "--action", "scratch", "--target", *target, *named)
    server = engine.servers.server(f"copy{next(COPIES)}", version=engine.server.version)
    place.rename(server.data)
    server.settings = {
        "unix_socket_directories": str(server.socket_directory),
        "listen_addresses": server.address,
        "port": str(server.port),
        "track_commit_timestamp": "on",
    }
    server.configure().start()
    numbers = [number for (number,) in server.sql("SELECT i FROM t ORDER BY i")]
    server.stop("immediate")
    return Restored(report, numbers)


def kill_all(engine: Engine, chaos: Chaos) -> None:
    """The host is lost: everything on it ends in the middle of what it does."""
    engine.server.kill()
    if chaos.backup is not None:
        kill(chaos.backup)
    if engine.archiver is not None:
        kill(engine.archiver)
    wait_until(lambda: not engine.server.running, "the server to be gone")

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What bench_backup.py measures: a turn of backups and restores, archiving, and replay.

Every figure is that of a command as an operator would run it, from its start to its end. Before each of them what was
written earlier is on the disk.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore import replay
from ansible_collections.dbops.fleet.tests.benchmarks import backup_data
from ansible_collections.dbops.fleet.tests.benchmarks.backup_contenders import (
    Contender,
    DbopsFleet,
    set_archive_command,
)
from ansible_collections.dbops.fleet.tests.integration.repository.engine import directory
from ansible_collections.dbops.fleet.tests.integration.servers import Server, Servers, wait_until

Figures = dict[str, float]

MARKER_CALLS = 200


@contextmanager
def taking_part(contender: Contender, *, archiving: bool = True) -> Iterator[None]:
    """It has its repository inside, and nothing of it is left afterwards."""
    try:
        contender.prepare()
        if archiving:
            contender.start_archiving()
        yield
    finally:
        contender.clear()


def timed(contender: Contender, command: list[str]) -> tuple[float, float]:
    """(seconds, megabytes resident in its largest process, or in this one where that is larger) of a command.

    Raises RuntimeError when it fails.
    """
    os.sync()
    begun = time.monotonic()
    process = subprocess.Popen(command, env=contender.environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {process.returncode}")
    return time.monotonic() - begun, usage.ru_maxrss / 1024


def turn(servers: Servers, contender: Contender, number: int, parts: set[str]) -> Figures:
    """Full backup, restore, 1 % of the rows changed, second backup, delta restore."""
    size = backup_data.size(contender.server) / 1e6
    found: Figures = {}
    target = directory(servers.root / "to") / "restored"
    with taking_part(contender):
        try:
            seconds, found["backup_rss_mb"] = timed(contender, contender.full())
            found |= {"backup_s": seconds, "backup_mb_s": size / seconds, "backup_sent_mb": contender.sent() / 1e6}
            if "restore" in parts or "second" in parts:
                seconds, found["restore_rss_mb"] = timed(contender, contender.restore(target))
                found |= {"restore_s": seconds, "restore_mb_s": size / seconds}
            if "second" in parts:
                found |= _second(contender, target, number)
        finally:
            shutil.rmtree(target, ignore_errors=True)
    if "second_sent_mb" in found:
        found["second_share_percent"] = 100 * found["second_sent_mb"] / found["backup_sent_mb"]
    return found


def _second(contender: Contender, target: Path, number: int) -> Figures:
    found: Figures = {}
    backup_data.change(contender.server, number)
    again = contender.again()
    if again is not None:
        found["second_s"], _ = timed(contender, again)
        found["second_sent_mb"] = contender.sent() / 1e6
        delta = contender.delta(target)
        if delta is not None:
            found["delta_s"], _ = timed(contender, delta)
    return found


def archive(contender: Contender, segments: int) -> Figures:
    """A backlog is archived: segments per second from the moment when it may be."""
    server = contender.server
    # A command that waits: after one that fails PostgreSQL looks away for a while. It lies about one segment.
    gate = server.directory / "gate"
    gate.unlink(missing_ok=True)
    with taking_part(contender, archiving=False), _at_the_end(gate.touch):
        set_archive_command(server, f"while [ ! -e {gate} ]; do sleep 0.02; done")
        with _frozen_archiver(contender) as archiver:
            count = _backlog(server, segments)
            last = server.value("SELECT pg_walfile_name(pg_switch_wal())")
            os.sync()
            if isinstance(contender, DbopsFleet):
                contender.engine.use_archive_command()
            else:
                contender.start_archiving()
        begun = time.monotonic()
        gate.touch()
        _await_archived(server, last)
        found = {"segments_s": count / (time.monotonic() - begun)}
        if archiver is not None:
            found["archiver_rss_mb"] = _largest(archiver)
    return found


@contextmanager
def _at_the_end(act: Callable[[], object]) -> Iterator[None]:
    try:
        yield
    finally:
        act()


@contextmanager
def _frozen_archiver(contender: Contender) -> Iterator[int | None]:
    """Ours is always there in real life, but would archive the backlog while that is made; its process id."""
    if not isinstance(contender, DbopsFleet):
        yield None
        return
    pid = contender.engine.start_archiver().pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)


def marked(contender: DbopsFleet) -> Figures:
    """Milliseconds of archive_command, as the server runs it, for a segment that look-ahead has archived."""
    with taking_part(contender):
        contender.engine.archive()
        contender.stop_archiver()  # it would remove a marker that PostgreSQL did not ask for
        marker = next((contender.engine.home / "spool").glob("*/archived")) / "000000010000000000000099"
        segment = contender.engine.home / marker.name
        segment.touch()
        os.utime(segment, (0, 0))
        marker.touch()
        command = contender.server.settings["archive_command"].replace("%f", marker.name).replace("%p", str(segment))
        found = []
        for _ in range(MARKER_CALLS):
            begun = time.perf_counter()
            if os.system(command):
                raise RuntimeError(command)
            found.append((time.perf_counter() - begun) * 1000)
        segment.unlink()
    return {"archive_command_ms": statistics.median(found), "archive_command_max_ms": max(found)}


class Replay:
    """Replay of WAL by `dbops restore`, beside a server that copies its WAL from a local directory.

    Both go from the start of the server over the end of the WAL to promotion, checkpoint and shutdown.
    """

    def __init__(self, servers: Servers, contender: DbopsFleet, segments: int) -> None:
        """A full backup, and so much WAL behind it. Use it while the contender takes part."""
        self._servers, self._contender = servers, contender
        server = contender.server
        server.configure(wal_keep_size="64GB").reload()
        timed(contender, contender.full())
        first = server.value("SELECT pg_walfile_name(pg_current_wal_lsn())")
        _backlog(server, segments, archived=first)
        last = contender.engine.archive()
        # The backup begins a segment or two before its end.
        self._wal = directory(servers.root / "wal")
        for path in sorted((server.data / "pg_wal").glob("0*")):
            if path.name <= last:
                shutil.copy(path, self._wal)
                (self._wal / path.name).chmod(0o644)
        server.configure(wal_keep_size="0").reload()

    def measure(self) -> Figures:
        """One after the other."""
        found, end = self._ours()
        found["local_replay_s"] = self._local(end)
        found["replay_speed"] = found["local_replay_s"] / found["replay_s"]
        return found

    def _ours(self) -> tuple[Figures, str]:
        target = directory(self._servers.root / "to") / "replayed"
        restore = ("--json", "restore", "--action", "scratch", "--to", str(target))
        os.sync()
        try:
            done = self._contender.run(self._contender.engine.command(*restore))
        finally:
            shutil.rmtree(target, ignore_errors=True)
        report = json.loads(done)
        return {"replay_s": report["replay_seconds"]}, report["replayed_to"]

    def _local(self, end: str) -> float:
        local = self._servers.server("local")
        try:
            timed(self._contender, self._contender.restore(local.data))
            local.settings = dict(self._contender.server.settings)
            # What `dbops restore` has its server run with.
            local.configure(
                port=str(local.port),
                unix_socket_directories=str(local.socket_directory),
                archive_mode="off",
                autovacuum="off",
                max_wal_size="1GB",
                shared_buffers="128MB",
                wal_keep_size=None,
                restore_command=f"cp {self._wal}/%f %p",
                wal_retrieve_retry_interval="10s",
            )
            os.sync()
            begun = time.monotonic()
            local.start(wait=False)
            wait_until(lambda: _replayed(local, end), f"replay to {end}", 1200)
            local.sql("SELECT pg_promote(true, 300)")
            local.sql("CHECKPOINT")
            local.stop()
            return time.monotonic() - begun
        finally:
            local.kill()
            shutil.rmtree(local.directory, ignore_errors=True)
            self._servers.all.remove(local)


def _backlog(server: Server, segments: int, *, archived: str | None = None) -> int:
    """Write WAL until so many segments wait, or with `archived` were written since that one; how many wait."""
    server.sql("DROP TABLE IF EXISTS load")
    server.sql("CREATE TABLE load (id bigint PRIMARY KEY, number int, words text)")
    ready = server.data / "pg_wal" / "archive_status"
    query = "SELECT count(*) FROM pg_ls_waldir() WHERE name > %s AND name < pg_walfile_name(pg_current_wal_lsn())"
    rows = 0
    while True:
        count = int(server.value(query, archived)) if archived else len(list(ready.glob("*.ready")))
        if count >= segments:
            return count
        server.sql(
            "INSERT INTO load SELECT i, i %% 977, md5(random()::text) || ' goes on as row ' || i "
            "FROM generate_series(%s::int, %s) i",
            rows + 1,
            rows + 100_000,
        )
        # After a checkpoint WAL has images of whole pages, as part of it has in real life.
        server.sql("CHECKPOINT")
        server.sql("UPDATE load SET number = number + 1 WHERE id %% 10 = 0 AND id > %s", rows)
        rows += 100_000


def _replayed(server: Server, end: str) -> bool:
    """Asked as seldom as `dbops restore` asks."""
    time.sleep(replay.POLL_SECONDS)
    return bool(server.value("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", end))


def _await_archived(server: Server, name: str, seconds: float = 900) -> None:
    """Wait until PostgreSQL was told that this segment is archived."""
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        query = "SELECT last_archived_wal >= %s FROM pg_stat_archiver"
        wait_until(lambda: (connection.execute(query, (name,)).fetchone() or (False,))[0], f"{name} archived", seconds)


def _largest(pid: int) -> float:
    """Megabytes that were resident in a running process at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))

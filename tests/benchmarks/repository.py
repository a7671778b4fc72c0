# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures the engine beside pgBackRest and pg_basebackup: same data, same disk, interleaved rounds, medians.

    python tests/benchmarks/repository.py [--scale 100] [--rounds 3] [--segments 64]

Needs PostgreSQL and, to compare, Debian's package pgbackrest. Everything lies in a temporary directory and is removed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
importlib.import_module("conftest")

from ansible_collections.dbops.fleet.tests.integration.repository.engine import Engine, clean, directory  # noqa: E402
from ansible_collections.dbops.fleet.tests.integration.servers import (  # noqa: E402
    Server,
    Servers,
    command_prefix,
    wait_until,
)


class PgBackRest:
    """Debian's pgBackRest on the same server: zstd, two processes."""

    def __init__(self, servers: Servers, server: Server) -> None:
        self.root = directory(servers.root / "pgbackrest")
        for part in ("repo", "log", "spool", "lock"):
            directory(self.root / part)
        self.file = self.root / "pgbackrest.conf"
        self.file.write_text(
            f"[global]\nrepo1-path={self.root}/repo\nlog-path={self.root}/log\nspool-path={self.root}/spool\n"
            f"lock-path={self.root}/lock\ncompress-type=zst\ncompress-level=3\nprocess-max=2\nstart-fast=y\n"
            "log-level-console=warn\nlog-level-file=off\nrepo1-retention-full=9\narchive-async=y\narchive-check=n\n"
            "[global:archive-push]\ncompress-level=1\n"
            f"[main]\npg1-path={server.data}\npg1-socket-path={server.socket_directory}\npg1-port={server.port}\n"
            "pg1-user=postgres\n"
        )
        self.run("stanza-create")

    def command(self, *words: str) -> list[str]:
        return [*command_prefix(), "pgbackrest", f"--config={self.file}", "--stanza=main", *words]

    def run(self, *words: str) -> None:
        subprocess.run(self.command(*words), check=True, env=clean(), stdout=subprocess.DEVNULL)

    @property
    def archive_command(self) -> str:
        return f"pgbackrest --config={self.file} --stanza=main archive-push %p"


def timed(command: list[str]) -> tuple[float, int]:
    """(seconds, largest resident kilobytes) of a command."""
    begun = time.monotonic()
    process = subprocess.Popen(command, env=clean(), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command}: {process.returncode}")
    return time.monotonic() - begun, usage.ru_maxrss


def set_archive_command(server: Server, command: str) -> None:
    server.configure(archive_command=command).reload()
    wait_until(lambda: server.value("SHOW archive_command") == command, "the archive_command")


def backups(engine: Engine, rival: PgBackRest | None, rounds: int) -> dict[str, list[float]]:
    """Megabytes per second of full backups, as raw size by time."""
    size = int(engine.server.value("SELECT sum(pg_database_size(oid)) FROM pg_database")) / 1e6
    found: dict[str, list[float]] = {"dbops": [], "dbops_rss_mb": [], "pgbackrest": [], "pg_basebackup_zstd3": []}
    for number in range(rounds):
        engine.use_archive_command()
        seconds, memory = timed(engine.command("--quiet", "backup", "--full"))
        found["dbops"].append(size / seconds)
        found["dbops_rss_mb"].append(memory / 1024)
        if rival is not None:
            seconds, _ = timed(rival.command("backup", "--type=full"))
            found["pgbackrest"].append(size / seconds)
        target = engine.servers.root / "to" / f"plain{number}"
        program = str(engine.server.binaries / "pg_basebackup")
        command = [*command_prefix(), program, "-D", str(target), "-Ft", "--compress=client-zstd:3", "-X", "none"]
        seconds, _ = timed([*command, "-c", "fast", "-d", engine.server.conninfo()])
        found["pg_basebackup_zstd3"].append(size / seconds)
        shutil.rmtree(target)
    return found


def restores(engine: Engine, rival: PgBackRest | None, rounds: int) -> dict[str, list[float]]:
    """Megabytes per second of restored files, without replay."""
    size = int(engine.server.value("SELECT sum(pg_database_size(oid)) FROM pg_database")) / 1e6
    found: dict[str, list[float]] = {"dbops": [], "dbops_rss_mb": [], "pgbackrest": []}
    for _ in range(rounds):
        target = engine.servers.root / "to" / "data"
        seconds, memory = timed(engine.command("--quiet", "restore", "--to", str(target), "--action", "standby"))
        found["dbops"].append(size / seconds)
        found["dbops_rss_mb"].append(memory / 1024)
        shutil.rmtree(target)
        if rival is not None:
            other = directory(engine.servers.root / "to" / "other")
            seconds, _ = timed(rival.command("restore", f"--pg1-path={other}"))
            found["pgbackrest"].append(size / seconds)
            shutil.rmtree(other)
    return found


def archiving(engine: Engine, rival: PgBackRest | None, rounds: int, segments: int) -> dict[str, list[float]]:
    """Segments per second while a backlog is archived

    PostgreSQL's own pause of a second after the gate is included.
    """
    found: dict[str, list[float]] = {"dbops": [], "pgbackrest": []}
    for _ in range(rounds):
        for name in found:
            if name == "pgbackrest" and rival is None:
                continue
            # A command that waits: after one that fails three times PostgreSQL looks away for a minute.
            gate = engine.home / "gate"
            gate.unlink(missing_ok=True)
            set_archive_command(engine.server, f"while [ ! -e {gate} ]; do sleep 0.05; done; false")
            before = engine.server.value("SELECT pg_walfile_name(pg_current_wal_lsn())")
            count = backlog(engine.server, segments)
            begun = time.monotonic()
            if name == "dbops":
                engine.start_archiver()
                engine.use_archive_command()
            elif rival is not None:
                set_archive_command(engine.server, rival.archive_command)
            gate.touch()
            last = engine.server.value("SELECT pg_walfile_name(pg_switch_wal())")
            query = "SELECT last_archived_wal >= %s FROM pg_stat_archiver"
            wait_until(lambda query=query, last=last: engine.server.value(query, last), f"{before} to {last}", 600)
            found[name].append(count / (time.monotonic() - begun))
            if engine.archiver is not None:
                engine.archiver.terminate()
                engine.archiver.wait()
    return found


def backlog(server: Server, segments: int) -> int:
    """Write WAL until this many segments wait."""
    server.sql("DROP TABLE IF EXISTS load")
    server.sql("CREATE TABLE load (i int, words text)")
    ready = server.data / "pg_wal" / "archive_status"
    while (count := len(list(ready.glob("*.ready")))) < segments:
        server.sql("INSERT INTO load SELECT i, md5(random()::text) || md5(i::text) FROM generate_series(1, 100000) i")
    return count


def latency(engine: Engine, times: int = 200) -> list[float]:
    """Milliseconds of archive_command as the server runs it (sh -c), when look-ahead was there first."""
    marker = next((engine.home / "spool").glob("*/archived")) / "000000010000000000000099"
    segment = engine.home / marker.name
    segment.touch()
    time.sleep(0.02)
    marker.touch()
    command = engine.server.settings["archive_command"].replace("%f", marker.name).replace("%p", str(segment))
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        if os.system(command):
            raise RuntimeError(command)
        found.append((time.perf_counter() - begun) * 1000)
    return found


def second_backup(engine: Engine) -> float:
    """What the backup after a change of 1 % of the rows (one range) sends, as a share of the first."""
    (first,) = engine.json("backup", "--full")
    rows = engine.server.value("SELECT count(*) FROM pgbench_accounts")
    engine.server.sql("CHECKPOINT")
    engine.server.sql(f"UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid <= {rows // 100}")
    (second,) = engine.json("backup")
    return float(second["sent"] / first["sent"])


def shown(figures: dict[str, list[float]]) -> None:
    """Print medians as soon as they are known."""
    print({who: round(statistics.median(values), 2) for who, values in figures.items() if values}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scale", type=int, default=100, help="of pgbench; 100 is about 1.5 GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--segments", type=int, default=64)
    options = parser.parse_args()
    with Servers() as servers:
        engine = Engine.with_primary(servers)
        server = engine.server
        server.configure(shared_buffers="256MB", max_wal_size="4GB", autovacuum="off", fsync="on").restart()
        server.run(
            "pgbench",
            "-i",
            "-q",
            "-s",
            str(options.scale),
            "-h",
            str(server.directory),
            "-p",
            str(server.port),
            "-U",
            "postgres",
        )
        directory(servers.root / "to")
        with engine:
            rival = PgBackRest(servers, server) if shutil.which("pgbackrest") else None
            results: dict[str, Any] = {"load_average_before": os.getloadavg()}
            results["archive_segments_per_second"] = archiving(engine, rival, options.rounds, options.segments)
            shown(results["archive_segments_per_second"])
            engine.use_archive_command()
            # Before the archiver starts: it would remove a marker that PostgreSQL did not ask for.
            results["archive_command_ms"] = {"dbops": latency(engine)}
            engine.start_archiver()
            shown(results["archive_command_ms"])
            results["backup_mb_per_second"] = backups(engine, rival, options.rounds)
            shown(results["backup_mb_per_second"])
            results["restore_mb_per_second"] = restores(engine, rival, options.rounds)
            shown(results["restore_mb_per_second"])
            results["second_backup_share"] = second_backup(engine)
            results["load_average_after"] = os.getloadavg()
    print(json.dumps(results, indent=1))
    print("children's largest RSS in MB:", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)


if __name__ == "__main__":
    main()

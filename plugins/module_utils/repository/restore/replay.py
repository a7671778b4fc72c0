# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running the replay: a server of our own on a private socket, watched until it stands where it must, then promoted."""

from __future__ import annotations

# Runs programs where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.repository import cluster as clusters
from ansible_collections.dbops.fleet.plugins.module_utils.repository.cluster import Cluster
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import Repository
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore.recovery import (
    Progress,
    Standing,
    accepts_end_of_archive,
    settings,
    standing,
    wal_sizes,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.targets import Choice, Target
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal import commands, receive
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.answer import Found
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.fetch import fetch
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import Segment, along

POLL_SECONDS = 0.1
# That fetch segments while the server replays.
THREADS = 2
# Replay that makes no progress for so long is stuck.
STALL_SECONDS = 120.0
# The end of the archive must be seen this often in a row: between two requests the server looks alike for a moment.
CONFIRMATIONS = 3
PROMOTE_SECONDS = 300
LOG_TAIL_BYTES = 2000

_PROGRESS = """
select pg_is_in_recovery() as in_recovery,
       pg_last_wal_replay_lsn()::text as replayed,
       case when pg_is_in_recovery() then pg_get_wal_replay_pause_state() = 'paused' else false end as paused,
       (select wait_event from pg_stat_activity where backend_type = 'startup') as waiting_for,
       extract(epoch from pg_last_xact_replay_timestamp())::float8 as last_commit
"""

log = logging.getLogger("dbops")


@dataclass(frozen=True)
class Replayed:
    """How it ended.

    Attributes:
        standing: REACHED, or EXHAUSTED for a time that lies behind the last commit.
        lsn: position after the last replayed record.
        last_commit: its last transaction, seconds since the epoch; None when none was replayed.
        timeline: of the server after promotion.
    """

    standing: Standing
    lsn: Lsn
    last_commit: float | None
    timeline: int


class Prefetcher:
    """Fetches the segments that replay will ask for, a few at a time, into a directory that `restore_command` looks
    in.

    Attributes:
        trouble: what kept it from delivering a segment, the newest such message; empty when nothing did.
    """

    def __init__(
        self, repository: Repository, cluster: Cluster, segments: Iterator[Segment], directory: Path, *, ahead: int
    ) -> None:
        self._repository = repository
        self._cluster = cluster
        self._segments = segments
        self._directory = directory
        self._ahead = ahead
        self.trouble = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)

    def __enter__(self) -> Prefetcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        with ThreadPoolExecutor(THREADS, thread_name_prefix="fetch") as workers:
            running: deque[Future[None]] = deque()
            for segment in self._segments:
                while len(running) >= THREADS:
                    running.popleft().result()
                while len(os.listdir(self._directory)) >= self._ahead and not self._stopping.is_set():
                    self._stopping.wait(0.01)
                if self._stopping.is_set():
                    return
                running.append(workers.submit(self._fetch, segment.name))

    def _fetch(self, name: str) -> None:
        fetched = fetch([self._repository], self._cluster, name, self._directory / name)
        if fetched.found is not Found.DELIVERED:
            # restore_command asks again by itself, and answers PostgreSQL as it must.
            self.trouble = "; ".join(fetched.messages) or f"{name} is {fetched.found.value}"
            log.warning("prefetch: %s", self.trouble)


def replay(
    config: Config,
    config_file: str,
    installed: str,
    repository: Repository,
    target_directory: Path,
    choice: Choice,
    target: Target,
    limits: Mapping[str, int],
) -> Replayed:
    """Replay a restored data directory to its target, promote it and stop it cleanly.

    Args:
        config: of the engine.
        config_file: of the same, for restore_command.
        installed: where the engine lies, likewise.
        repository: to fetch WAL from.
        target_directory: restored, with its control file.
        choice, target: what was decided.
        limits: settings that must not be lower.

    Raises:
        OperationFailed: the target was not reached. The data directory is left as a standby that was not promoted.
    """
    backup = choice.backup
    cluster = Cluster(int(backup.system), backup.major, backup.segment_size)
    segments = along(choice.history, backup.start_lsn, choice.end, backup.segment_size)
    with tempfile.TemporaryDirectory(prefix="dbops-replay-") as private:
        ahead = target_directory / "dbops-prefetch"
        shutil.rmtree(ahead, ignore_errors=True)
        ahead.mkdir(mode=0o700)
        if choice.received is not None and target.kind != "immediate":
            receive.place(repository, cluster, choice.history.timeline, choice.end, ahead)
        values = settings(
            choice,
            target,
            restore_command=commands.restore_command(
                config_file=config_file, repository=repository.name, prefetched=str(ahead), installed=installed
            ),
            limits=limits,
        )
        (target_directory / "standby.signal").touch()
        server = PrivateServer(config, target_directory, Path(private), values)
        prefetcher = Prefetcher(repository, cluster, segments, ahead, ahead=config.wal.prefetch)
        try:
            with prefetcher, server:
                ended, progress = server.await_target(choice, target, prefetcher)
                timeline = server.promote()
                server.stop()
        finally:
            shutil.rmtree(ahead, ignore_errors=True)
    return Replayed(ended, progress.replayed or backup.stop_lsn, progress.last_commit, timeline)


class PrivateServer:
    """A postmaster that only we can reach."""

    def __init__(self, config: Config, data: Path, private: Path, values: Mapping[str, str]) -> None:
        self._config = config
        self._private = private
        self._log = private / "log"
        (private / "postgresql.conf").write_text("", encoding="ascii")
        # Nobody else can reach the socket: its directory belongs to this account alone.
        (private / "pg_hba.conf").write_text("local all all trust\n", encoding="ascii")
        (private / "pg_ident.conf").write_text("", encoding="ascii")
        own = {
            "config_file": f"{private}/postgresql.conf",
            "hba_file": f"{private}/pg_hba.conf",
            "ident_file": f"{private}/pg_ident.conf",
            "unix_socket_directories": str(private),
            "port": str(config.port),
            **wal_sizes(clusters.read_control(replace(config, data_directory=str(data))).wal_segment_size),
            **values,
        }
        options = [word for name, value in own.items() for word in ("-c", f"{name}={value}")]
        self._command = [f"{config.bin_directory}/postgres", "-D", str(data), *options]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PrivateServer:
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Fast shutdown; with a checkpoint when it was promoted."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()

    def await_sessions(self) -> None:
        """Wait until it takes sessions. Raises OperationFailed when it stops instead."""
        while self._progress() is None:
            time.sleep(POLL_SECONDS)

    def await_target(self, choice: Choice, target: Target, prefetcher: Prefetcher) -> tuple[Standing, Progress]:
        """Wait until it stands where it must.

        Raises:
            OperationFailed: it stopped, or makes no progress; the message has what kept the prefetcher from delivering.
        """
        seen, moved, position = 0, time.monotonic(), None
        while True:
            progress = self._progress()
            where = standing(progress, choice, target) if progress else Standing.GOING_ON
            if progress is not None and progress.replayed != position:
                moved, position, seen = time.monotonic(), progress.replayed, 0
            if progress is not None and where is Standing.REACHED and progress.paused:
                self._expect_target(progress, choice)
                return where, progress
            if progress is not None and where in (Standing.REACHED, Standing.EXHAUSTED):
                seen += 1
                if seen >= CONFIRMATIONS:
                    if where is Standing.EXHAUSTED and not accepts_end_of_archive(target):
                        raise self._failure(
                            f"The archive ends at {progress.replayed}, and the target {target.kind} "
                            f"{target.value} did not come"
                        )
                    return where, progress
            elif where is Standing.ENDED:
                raise self._failure("The server ended recovery by itself")
            if time.monotonic() - moved > STALL_SECONDS:
                why = f"; {prefetcher.trouble}" if prefetcher.trouble else ""
                raise self._failure(f"Replay stands at {position} since {STALL_SECONDS:g} s ({where.value}){why}")
            time.sleep(POLL_SECONDS)

    def promote(self) -> int:
        """End recovery; the new timeline."""
        try:
            with self.connected() as connection:
                row = connection.execute("select pg_promote(true, %s) as done", (PROMOTE_SECONDS,)).fetchone()
                if not row["done"]:
                    raise self._failure(f"The promotion did not end within {PROMOTE_SECONDS} s")
                connection.execute("checkpoint")
                row = connection.execute(
                    "select ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int as timeline"
                ).fetchone()
                return int(row["timeline"])
        except _Unreachable:
            raise self._failure("The server stopped while it was promoted") from None

    def _expect_target(self, progress: Progress, choice: Choice) -> None:
        """A server also pauses when a setting is lower than the primary's was; that is not the target."""
        if progress.replayed is None or progress.replayed < choice.backup.stop_lsn:
            raise self._failure(f"Replay paused at {progress.replayed}, before the backup is consistent")
        if b"insufficient parameter settings" in self._log.read_bytes():
            raise self._failure("Replay paused because a setting is lower than it was on the primary")

    def _progress(self) -> Progress | None:
        """None while the server takes no sessions yet."""
        if self._process is not None and self._process.poll() is not None:
            raise self._failure("The server stopped while it replayed")
        with contextlib.suppress(_Unreachable), self.connected() as connection:
            row = connection.execute(_PROGRESS).fetchone()
            replayed = Lsn.parse(row["replayed"]) if row["replayed"] else None
            return Progress(replayed, row["paused"], row["waiting_for"], row["last_commit"], row["in_recovery"])
        return None

    @contextlib.contextmanager
    def connected(self) -> Iterator[Any]:
        import psycopg
        from psycopg.rows import dict_row

        try:
            with psycopg.connect(
                host=str(self._private),
                port=self._config.port,
                user=self._config.user,
                dbname="postgres",
                autocommit=True,
                row_factory=dict_row,
            ) as connection:
                yield connection
        except psycopg.OperationalError as error:
            raise _Unreachable(str(error)) from None

    def _failure(self, message: str) -> OperationFailed:
        tail = self._log.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace")
        return OperationFailed(
            message,
            remedy="Its data directory was not promoted; see the end of its log.",
            log=tail.splitlines(),
        )


class _Unreachable(OperationFailed):
    """The server takes no sessions."""

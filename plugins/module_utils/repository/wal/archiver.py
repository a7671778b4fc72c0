# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The archiver: a process beside PostgreSQL that archives segments before `archive_command` asks for them.

It reads `pg_wal/archive_status/*.ready`, pushes several at a time, and leaves a marker for each that every
repository keeps.
Markers are per segment: PostgreSQL still asks in order, so one segment that fails holds up all behind it, visibly.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.repository import cluster as clusters
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import Repository, open_all
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal import client, commands
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.push import push
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import Kind, kind_of

# How long to look away from pg_wal when nothing was ready. A client's question ends the pause at once.
PAUSE_SECONDS = 0.2
# How long a segment that failed is left alone, unless PostgreSQL asks for it.
RETRY_SECONDS = 5.0
STATE = "archiver.json"

log = logging.getLogger("dbops")


class Archiver:
    """One per instance. `run` returns when `stop` was called."""

    def __init__(self, config: Config) -> None:
        """Raises FleetError when a repository or the data directory cannot be opened."""
        self._config = config
        self._cluster = clusters.read(config)
        self._repositories: tuple[Repository, ...] = ()
        self._spool = Path(config.spool_directory)
        self._markers = Path(commands.marker_directory(config.spool_directory, self._cluster.system))
        self._wal = Path(config.data_directory) / "pg_wal"
        self._pool = ThreadPoolExecutor(config.wal.threads, thread_name_prefix="push")
        self._pushing: dict[str, Future[None]] = {}
        self._failed: dict[str, tuple[float, str]] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()

    def run(self) -> None:
        """Archive until stopped."""
        self._forget_markers()
        self._connect()
        listener = self._listen()
        threading.Thread(target=self._serve, args=(listener,), name="serve", daemon=True).start()
        log.info("archiving %s", self._wal)
        while not self._stopping.is_set():
            self._wake.clear()
            if not self._look_ahead():
                self._wake.wait(PAUSE_SECONDS)
        listener.close()
        with contextlib.suppress(OSError):
            (self._spool / client.SOCKET).unlink()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def stop(self, *_: Any) -> None:
        """For a signal handler: what is being pushed is finished, nothing new begun."""
        self._stopping.set()
        self._wake.set()

    def _connect(self) -> None:
        """Open the repositories; while that fails, `archive_command` fails too and says why."""
        while not self._stopping.is_set():
            try:
                repositories = open_all(self._config)
                for repository in repositories:
                    repository.check_system(self._cluster.system, self._cluster.major)
                self._repositories = repositories
                return
            except FleetError as error:
                log.error("%s", error)
                self._write_state(str(error))
                self._stopping.wait(RETRY_SECONDS)

    def _look_ahead(self) -> bool:
        """Begin to push what is ready; whether anything was."""
        ready = self._ready()
        names = set(ready)
        for marker in self._markers.iterdir():
            if marker.name not in names:
                marker.unlink(missing_ok=True)
        begun = [future for name in ready[: self._config.wal.ahead] if (future := self._begin(name)) is not None]
        if begun:
            with contextlib.suppress(Exception):  # reported by _push
                begun[0].result()
        return bool(begun)

    def _ready(self) -> list[str]:
        """Names that PostgreSQL wants archived: histories first, as PostgreSQL does, then in order."""
        names = []
        for entry in os.scandir(self._wal / "archive_status"):
            name = entry.name.removesuffix(".ready")
            if name != entry.name:
                with contextlib.suppress(ValueError):
                    names.append((kind_of(name) is not Kind.HISTORY, name))
        return [name for _order, name in sorted(names)]

    def _begin(self, name: str, *, asked: bool = False) -> Future[None] | None:
        """The push of this file, or None when it is archived already or failed just now."""
        with self._lock:
            if name in self._pushing:
                return self._pushing[name]
            if not asked:
                failed = self._failed.get(name)
                if self._is_archived(name) or (failed and time.monotonic() - failed[0] < RETRY_SECONDS):
                    return None
            future = self._pool.submit(self._push, name)
            self._pushing[name] = future
            return future

    def _is_archived(self, name: str) -> bool:
        try:
            return (self._markers / name).stat().st_mtime_ns > (self._wal / name).stat().st_mtime_ns
        except FileNotFoundError:
            return False

    def _push(self, name: str) -> None:
        try:
            pushed = push(self._repositories, self._cluster, self._wal / name, level=self._config.wal.level)
            (self._markers / name).touch()
            self._failed.pop(name, None)
            if pushed.already:
                log.warning("%s was already in %s with the same content", name, ", ".join(pushed.already))
            self._write_state(None, name)
        except BaseException as error:
            text = str(error) if isinstance(error, FleetError) else f"{type(error).__name__}: {error}"
            log.error("%s: %s", name, text)
            self._failed[name] = (time.monotonic(), text)
            self._write_state(text)
            raise OperationFailed(text) from error
        finally:
            with self._lock:
                self._pushing.pop(name, None)

    def _forget_markers(self) -> None:
        """Markers of an earlier run prove nothing: the repository may be another one now."""
        self._markers.mkdir(mode=0o700, parents=True, exist_ok=True)
        for marker in self._markers.iterdir():
            marker.unlink()

    def _listen(self) -> socket.socket:
        path = self._spool / client.SOCKET
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen()
        return listener

    def _serve(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                connection, _address = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(PAUSE_SECONDS * 50)
                asked = connection.makefile("r", encoding="utf-8").readline().strip()
                connection.sendall(f"{self._answer(Path(asked))}\n".encode())
            self._wake.set()

    def _answer(self, path: Path) -> str:
        """One line for the client; see wal/client.py."""
        if path.parent.resolve() != self._wal.resolve():
            return f"{path} is not in {self._wal}: the archiver serves another data directory"
        try:
            if not self._is_archived(path.name):
                future = self._begin(path.name, asked=True)
                if future is not None:
                    future.result(timeout=self._config.wal.timeout_seconds)
            return f"archived {path.name}"
        except TimeoutError:
            return f"{path.name} is not archived after {self._config.wal.timeout_seconds:g} s; it will be tried again"
        except Exception as error:
            return " ".join(str(error).split())

    def _write_state(self, error: str | None, archived: str | None = None) -> None:
        """For `wal status` and monitoring: the last success and the last failure."""
        with self._lock:
            path = self._spool / STATE
            try:
                state = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                state = {}
            if archived:
                state.update(last_archived=archived, last_archived_time=time.time())
            if error:
                state.update(last_error=error, last_error_time=time.time())
            temporary = path.with_suffix(".new")
            temporary.write_text(json.dumps(state), encoding="utf-8")
            temporary.replace(path)


def serve(config: Config) -> None:
    """Run an archiver until SIGTERM or SIGINT."""
    archiver = Archiver(config)
    signal.signal(signal.SIGTERM, archiver.stop)
    signal.signal(signal.SIGINT, archiver.stop)
    archiver.run()

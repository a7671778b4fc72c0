# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The archiver: a process beside PostgreSQL that archives segments before `archive_command` asks for them.

It reads `pg_wal/archive_status/*.ready`, pushes several at a time, and leaves a marker for each that every
repository keeps. Markers are per segment: PostgreSQL still asks in order, so one segment that fails holds up all behind
it, visibly. While one repository is down, the others get everything that is ready.
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
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.repository import cluster as clusters
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import load
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import together
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal import client, commands
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.places import Place, archive
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import Kind, kind_of

# How long to look away from pg_wal when nothing was ready. A client's question ends the pause at once.
PAUSE_SECONDS = 0.2
# How long a segment that failed is left alone, unless PostgreSQL asks for it.
RETRY_SECONDS = 5.0
STATE = "archiver.json"

log = logging.getLogger("dbops")


class _Waiting(OperationFailed):
    """Only repositories that failed just now lack the file; that was told."""


class Archiver:
    """One per instance. `run` returns when `stop` was called, or its configuration was written anew."""

    def __init__(self, config_file: str) -> None:
        """Raises FleetError when the configuration or the data directory cannot be read."""
        self._config_file = config_file
        self._loaded = _written(config_file)
        config = self._config = load(config_file)
        self._cluster = clusters.read(config)
        self._places = tuple(Place(settings, config, self._cluster) for settings in config.repositories)
        self._spool = Path(config.spool_directory)
        self._markers = Path(commands.marker_directory(config.spool_directory, self._cluster.system))
        self._wal = Path(config.data_directory) / "pg_wal"
        self._pool = ThreadPoolExecutor(config.wal.threads, thread_name_prefix="push")
        self._pushing: dict[str, Future[None]] = {}
        self._failed: dict[str, float] = {}
        # Name -> when the file was written, and which repositories have taken it, while others have not.
        self._taken: dict[str, tuple[int, tuple[str, ...]]] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()

    def run(self) -> None:
        """Archive until stopped."""
        self._forget_markers()
        for place in self._places:
            self._pool.submit(self._open, place)
        listener = self._listen()
        threading.Thread(target=self._serve, args=(listener,), name="serve", daemon=True).start()
        log.info("archiving %s", self._wal)
        while not self._stopping.is_set():
            if _written(self._config_file) not in (self._loaded, None):
                # A repository may have come: what it has not got must not count as archived from here on.
                log.info("%s was written anew, so this archiver ends for one that reads it", self._config_file)
                self.stop()
                self._forget_markers()
                break
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

    def _open(self, place: Place) -> None:
        """Say now what is wrong with a repository, not when the first segment is due."""
        try:
            place.open().prepare_writing()
        except FleetError as error:
            log.error("%s", error)
            self._write_state(str(error))

    def _look_ahead(self) -> bool:
        """Begin to push what is ready; whether anything was."""
        ready, ahead = self._ready(), self._config.wal.ahead
        names = set(ready)
        for marker in self._markers.iterdir():
            if marker.name not in names:
                marker.unlink(missing_ok=True)
        for known in (self._failed, self._taken):
            for name in set(known) - names:
                known.pop(name, None)
        free = {place.name for place in self._places if not place.resting}
        # PostgreSQL waits for a repository that is down; the others shall not.
        down = any(place.error for place in self._places)
        begun: list[Future[None]] = []
        for name in ready if down else ready[:ahead]:
            if len(begun) < ahead and not free.issubset(self._taken_by(name)) and (future := self._begin(name)):
                begun.append(future)
        if begun:
            wait(begun, timeout=PAUSE_SECONDS, return_when=FIRST_COMPLETED)
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
                if self._is_archived(name) or (failed and time.monotonic() - failed < RETRY_SECONDS):
                    return None
            future = self._pool.submit(self._push, name, asked)
            self._pushing[name] = future
            return future

    def _is_archived(self, name: str) -> bool:
        try:
            return (self._markers / name).stat().st_mtime_ns > (self._wal / name).stat().st_mtime_ns
        except FileNotFoundError:
            return False

    def _taken_by(self, name: str) -> tuple[str, ...]:
        """The repositories that have this file already, while others have not."""
        return self._taken.get(name, (0, ()))[1]

    def _push(self, name: str, asked: bool) -> None:
        try:
            self._archive(name, asked)
        except BaseException as error:
            text = str(error) if isinstance(error, FleetError) else f"{type(error).__name__}: {error}"
            self._failed[name] = time.monotonic()
            if not isinstance(error, _Waiting):
                log.error("%s: %s", name, text)
                self._write_state(text)
            raise OperationFailed(text) from error
        finally:
            with self._lock:
                self._pushing.pop(name, None)

    def _archive(self, name: str, asked: bool) -> None:
        """Put the file wherever it is not yet. Raises when a repository lacks it still."""
        path, level = self._wal / name, self._config.wal.level
        written = path.stat().st_mtime_ns
        if self._taken.get(name, (written, ()))[0] != written:
            del self._taken[name]
        taken = self._taken_by(name)
        archived = archive(self._places, self._cluster, path, level=level, taken=taken, urgent=asked)
        if archived.already:
            log.warning("%s was already in %s with the same content", name, ", ".join(archived.already))
        if not archived.complete:
            self._taken[name] = (written, archived.taken)
            if archived.errors:
                raise together(archived.errors)
            raise _Waiting(together(archived.waiting).message)
        if not self._stopping.is_set():
            (self._markers / name).touch()
        self._failed.pop(name, None)
        self._taken.pop(name, None)
        self._write_state(None, name)

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


def _written(config_file: str) -> int | None:
    """When the file was written, in ns; None while it cannot be looked at, which is no reason to stop archiving."""
    try:
        return os.stat(config_file).st_mtime_ns
    except OSError:
        return None


def serve(config_file: str) -> None:
    """Run an archiver until SIGTERM or SIGINT, or until its configuration is written anew."""
    archiver = Archiver(config_file)
    signal.signal(signal.SIGTERM, archiver.stop)
    signal.signal(signal.SIGINT, archiver.stop)
    archiver.run()

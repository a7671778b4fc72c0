# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sending WAL to the repositories within seconds of its commit, before the segment is full.

What the primary has flushed to pg_wal never changes, so it is read there: no slot that could fill the disk, no second
copy of the WAL on this host. A standby sends nothing; after a switchover the other member's receiver goes on.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.repository import cluster as clusters
from ansible_collections.dbops.fleet.plugins.module_utils.repository import compression, server
from ansible_collections.dbops.fleet.plugins.module_utils.repository.cluster import Cluster
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config, RepositorySettings
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import ObjectExists, ObjectMissing
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import Repository, open_repository
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal import header, tail
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import Segment

# Pieces of a timeline that the server has left are kept so long: they may hold what a failover lost.
LEFT_SECONDS = 7 * 86400.0
SWEEP_SECONDS = 30.0
RETRY_SECONDS = 5.0

_POSITION = """
select pg_is_in_recovery() as standby,
       case when not pg_is_in_recovery() then pg_current_wal_flush_lsn()::text end as flushed,
       case when not pg_is_in_recovery()
            then ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int end as timeline,
       last_archived_wal as archived
  from pg_stat_archiver
"""

log = logging.getLogger("dbops")


def serve(config: Config) -> None:
    """Send to every repository until told to stop. Each goes its own way: one that is down holds up no other."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    threads = [
        threading.Thread(target=_serve_one, args=(config, settings, stopping), name=settings.name)
        for settings in config.repositories
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _serve_one(config: Config, settings: RepositorySettings, stopping: threading.Event) -> None:
    while not stopping.is_set():
        try:
            repository = open_repository(settings, config)
            cluster = clusters.read(config)
            repository.check_system(cluster.system, cluster.major)
            repository.prepare_writing()
            sender = Sender(config, repository, cluster)
            with server.connected(config) as session:
                while not stopping.is_set():
                    sender.step(session)
                    stopping.wait(config.wal.receive_seconds)
        except (FleetError, OSError) as error:
            log.error("%s: %s", settings.name, error)
            stopping.wait(RETRY_SECONDS)


class Sender:
    """Sends the tail to one repository."""

    def __init__(self, config: Config, repository: Repository, cluster: Cluster) -> None:
        self._wal = Path(config.data_directory) / "pg_wal"
        self._level = config.wal.level
        self._repository = repository
        self._cluster = cluster
        self._sent: tuple[int, Lsn] | None = None
        self._swept = 0.0

    def step(self, session: Any) -> int:
        """Send what is new. Returns the bytes of WAL that were sent."""
        row = session.execute(_POSITION).fetchone()
        if row["standby"]:
            self._sent = None
            return 0
        size = self._cluster.segment_size
        timeline, flushed = row["timeline"], Lsn.parse(row["flushed"])
        position = tail.begin(timeline, flushed, self._sent, size)
        total = 0
        while position < flushed:
            segment = Segment.holding(timeline, position, size)
            end = min(flushed, segment.end)
            content = self._read(segment, position - segment.start, end - position)
            if content is not None:
                self._store(segment, position - segment.start, content)
                total += len(content)
            position = end
        self._sent = (timeline, position)
        if time.monotonic() - self._swept > SWEEP_SECONDS:
            self._sweep(timeline, row["archived"])
            self._swept = time.monotonic()
        return total

    def _read(self, segment: Segment, offset: int, length: int) -> bytes | None:
        """None when the segment is gone: then it was archived."""
        try:
            descriptor = os.open(self._wal / segment.name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            content = os.pread(descriptor, length, offset)
            # After reading: a segment that was archived may be renamed and written anew at any time.
            first = os.pread(descriptor, header.LONG_HEADER_BYTES, 0)
            file_size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        header.check(
            first, segment, file_size=file_size, system_identifier=self._cluster.system, major=self._cluster.major
        )
        return content if len(content) == length else None

    def _store(self, segment: Segment, start: int, content: bytes) -> None:
        compressed, sha256 = compression.compress([content], self._level)
        repository = self._repository
        name = tail.key(self._cluster.system, segment, start, start + len(content), sha256, sealed=repository.sealed)
        try:
            repository.store.create(name, repository.wrap(compressed))
        except ObjectExists:
            return  # of a run before this one

    def _sweep(self, timeline: int, archived: str | None) -> None:
        """Delete pieces of segments that are archived in full."""
        store = self._repository.store
        for piece in pieces(self._repository, self._cluster):
            mine = piece.segment.timeline == timeline
            full = archived is not None and len(archived) == 24 and piece.segment.name <= archived
            old = time.time() - piece.arrived > LEFT_SECONDS
            if (mine and full) or (not mine and old):
                store.delete(piece.key)


def pieces(repository: Repository, cluster: Cluster) -> Iterator[tail.Piece]:
    """Every piece that the repository holds."""
    for item in repository.store.list(tail.prefix(cluster.system)):
        piece = tail.parse(item.key, item.modified, cluster.segment_size)
        if piece is not None:
            yield piece


def place(repository: Repository, cluster: Cluster, timeline: int, start: Lsn, directory: Path) -> list[str]:
    """Put what the tail has behind the archive's end into a directory, as whole segments that end with zeros.

    PostgreSQL replays such a segment to its last record, as it does after a crash.

    Args:
        repository: to read from.
        cluster: it belongs to.
        timeline: that is followed to.
        start: where the archive ends.
        directory: for the files.

    Returns:
        The names of the segments.

    Raises:
        ObjectCorrupt, ContentConflict: the tail is not as it was sent; the message names the object.
    """
    every = list(pieces(repository, cluster))
    names = []
    size = cluster.segment_size
    number = int(start) // size
    while parts := tail.chain(every, Segment(timeline, number, size)):
        segment = parts[0].segment
        try:
            content = b"".join(
                repository.decode(repository.store.read(part.key), part.key, part.sha256) for part in parts
            )
        except ObjectMissing:
            break  # taken away in the meantime: the archive has the whole segment now
        whole = content.ljust(size, b"\0")
        header.check(
            whole[: header.LONG_HEADER_BYTES],
            segment,
            file_size=len(whole),
            system_identifier=cluster.system,
            major=cluster.major,
        )
        (directory / segment.name).write_bytes(whole)
        names.append(segment.name)
        if len(content) < size:
            break
        number += 1
    return names

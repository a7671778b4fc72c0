# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking a base backup: check, stream, and list it only when everything it needs is in the repository."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import stat
import time
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import TimelineHistory
from ansible_collections.dbops.fleet.plugins.module_utils.repository import cluster as clusters
from ansible_collections.dbops.fleet.plugins.module_utils.repository import layout, server
from ansible_collections.dbops.fleet.plugins.module_utils.repository.backup.index import CONFIGURATION, DATA, Member
from ansible_collections.dbops.fleet.plugins.module_utils.repository.backup.packs import Files, KnownFrames, Writer
from ansible_collections.dbops.fleet.plugins.module_utils.repository.backup.stream import (
    Archive,
    BaseBackupStream,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.backup.tarstream import Header, TarStream
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Backup, Listed, new_id
from ansible_collections.dbops.fleet.plugins.module_utils.repository.cluster import Cluster
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config
from ansible_collections.dbops.fleet.plugins.module_utils.repository.lock import only_one
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import (
    AnotherBegan,
    KeyMissing,
    WrongIdentity,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import Repository
from ansible_collections.dbops.fleet.plugins.module_utils.repository.shelf import Shelf
from ansible_collections.dbops.fleet.plugins.module_utils.repository.targets import REPLAY_LIMITS
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.gaps import missing
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.inventory import read as read_archive
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.push import hashes

TOOL = "dbops.fleet 1"
PROGRESS_SECONDS = 10.0
POLL_SECONDS = 0.2
# Another backup that wrote something so recently is running.
BEGUN_SECONDS = 120.0

log = logging.getLogger("dbops")


def take(
    config: Config,
    repository: Repository,
    *,
    full: bool,
    fast: bool,
    wal_timeout_seconds: float,
    yielding: bool = False,
) -> Backup:
    """Take a base backup of the instance on this host.

    Args:
        config: of the host.
        repository: that keeps it.
        full: use no frames of earlier backups.
        fast: checkpoint at once.
        wal_timeout_seconds: how long the WAL that the backup needs may take to arrive in the repository.
        yielding: leave it to another member that begins one at the same moment, as two timers may.

    Raises:
        AnotherBegan: that was so.
        Refused: another backup runs here, or this server does not archive.
        OperationFailed: it broke off; nothing is listed, and what was written is swept up by `dbops expire` later.
    """
    cluster = clusters.read(config)
    repository.check_system(cluster.system, cluster.major)
    repository.prepare_writing()
    shelf = Shelf(repository, cluster.system)
    with only_one(config, "backup"), server.connected(config) as session:
        facts = refuse_unfit(session, config, shelf)
        base, known = _lent(shelf, None if full else base_of(shelf.listed()))
        name = functools.partial(new_id, incremental=base is not None)
        if yielding:
            started = time.time()
            backup = name(started)
            _begin_alone(shelf, backup, base)
        else:
            backup, started = shelf.begin_now(name, base.id if base else None)
        with contextlib.closing(known), _writer(config, shelf, backup, known) as writer:
            with contextlib.closing(BaseBackupStream(config, label=backup, fast=fast)) as stream:
                if stream.system != cluster.system:
                    raise WrongIdentity(
                        f"The server at port {config.port} has system identifier {stream.system}, "
                        f"{config.data_directory} has {cluster.system}"
                    )
                _store_stream(stream, writer)
            if config.configuration_directory:
                _store_configuration(Path(config.configuration_directory), writer)
            writer.finish()
        entry = Backup(
            id=backup,
            system=str(cluster.system),
            major=cluster.major,
            timeline=stream.timeline,
            start_lsn=stream.start_lsn,
            stop_lsn=stream.stop_lsn,
            start_time=started,
            stop_time=time.time(),
            incremental=base is not None,
            source="standby" if facts["in_recovery"] else "primary",
            host=socket.gethostname(),
            segment_size=cluster.segment_size,
            size=writer.size,
            sent=writer.sent,
            files=writer.files,
            index=tuple(writer.index),
            packs={owner: tuple(sorted(numbers)) for owner, numbers in sorted(writer.packs.items())},
            tablespaces=stream.tablespaces,
            settings=facts["settings"],
            configuration=config.configuration_directory is not None,
            tool=TOOL,
        )
        _await_wal(shelf, cluster, entry, wal_timeout_seconds)
        shelf.refuse_missing_packs(entry)
        shelf.add(entry)
    return entry


def _writer(config: Config, shelf: Shelf, backup: str, known: KnownFrames) -> Writer:
    options = config.backup
    return Writer(shelf.repository, shelf.system, backup, known, level=options.level, threads=options.threads)


def refuse_unfit(session: Any, config: Config, shelf: Shelf) -> dict[str, Any]:
    """A backup without its WAL is worth nothing, so it is not begun where that cannot arrive.

    With several repositories, what fails may be another one: this one then has the segment.
    """
    view = server.view(session)
    if not view.in_recovery and view.archive_mode == "off":
        raise Refused("This server does not archive its WAL (archive_mode is off)", remedy="Apply the role `backup`.")
    failed = view.last_failed_wal if not view.in_recovery and view.failing else None
    if failed is not None and (len(config.repositories) == 1 or not hashes(shelf.repository, shelf.system, failed)):
        raise Refused(
            f"Archiving is failing ({failed}), so the backup could not be completed",
            remedy="See `dbops wal status` and PostgreSQL's log.",
        )
    names = [*REPLAY_LIMITS, "shared_preload_libraries", "wal_level", "data_checksums", "block_size", "server_version"]
    rows = session.execute("select name, setting from pg_settings where name = any(%s)", (names,)).fetchall()
    return {"in_recovery": view.in_recovery, "settings": {row["name"]: row["setting"] for row in rows}}


def _lent(shelf: Shelf, base: Backup | None) -> tuple[Backup | None, KnownFrames]:
    """The frames that an earlier backup lends: none without a key for it, so that a full one is taken."""
    known = KnownFrames()
    if base is not None:
        try:
            known.add(shelf.members(base))
        except KeyMissing as error:
            log.warning("%s cannot be read here, so a full backup is taken: %s", base.id, error)
            known.close()
            return None, KnownFrames()
    return base, known


def _begin_alone(shelf: Shelf, backup: str, base: Backup | None) -> None:
    """Of members that begin at the same moment the one with the lowest id goes on."""
    try:
        shelf.begin(backup, base.id if base else None)
    except Refused as error:
        raise AnotherBegan(error.message, remedy=error.remedy) from None
    now = time.time()
    others = [one.backup for one in shelf.unfinished() if one.backup < backup and now - one.newest < BEGUN_SECONDS]
    if others:
        shelf.repository.store.delete(layout.begun_object(shelf.system, backup))
        raise AnotherBegan(f"{others[0]} began at the same moment on another member")


def base_of(listed: tuple[Listed, ...]) -> Backup | None:
    """The newest backup whose frames can be used: never one that is known to be damaged."""
    sound = [item.backup for item in listed if not item.bad]
    return sound[-1] if sound else None


def _store_stream(stream: BaseBackupStream, writer: Writer) -> None:
    files = Files(writer)
    tar = TarStream()
    prefix = DATA
    manifest = False
    said = time.monotonic()
    for event in stream.events():
        if isinstance(event, Archive):
            files.end()
            tar = TarStream()
            prefix = DATA if event.oid is None else f"{DATA}pg_tblspc/{event.oid}/"
            continue
        if event.manifest:
            if not manifest:
                files.begin(Member(f"{DATA}backup_manifest", "file", 0o600, 0, int(time.time())))
                manifest = True
            files.add(event.content)
            continue
        for part in tar.feed(event.content):
            if isinstance(part, Header):
                files.begin(Member(prefix + part.path, part.type, part.mode, 0, part.mtime, part.target))
            else:
                files.add(part)
        if time.monotonic() - said > PROGRESS_SECONDS:
            said = time.monotonic()
            log.info("%d of about %d MB, %d MB sent", writer.size >> 20, stream.total >> 20, writer.sent >> 20)
    files.end()
    if not manifest:
        raise OperationFailed("The server sent no backup manifest")


def _store_configuration(directory: Path, writer: Writer) -> None:
    """Debian keeps the configuration outside the data directory, where BASE_BACKUP does not look."""
    files = Files(writer)
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        name = CONFIGURATION + str(path.relative_to(directory))
        mode, mtime = stat.S_IMODE(status.st_mode), int(status.st_mtime)
        if stat.S_ISDIR(status.st_mode):
            files.begin(Member(name, "directory", mode, 0, mtime))
        elif stat.S_ISLNK(status.st_mode):
            files.begin(Member(name, "link", mode, 0, mtime, os.readlink(path)))
        elif stat.S_ISREG(status.st_mode):
            files.begin(Member(name, "file", mode, 0, mtime))
            try:
                files.add(memoryview(path.read_bytes()))
            except PermissionError:
                raise OperationFailed(f"Cannot read {path}", remedy="Let PostgreSQL's account read it.") from None
    files.end()


def _await_wal(shelf: Shelf, cluster: Cluster, entry: Backup, timeout_seconds: float) -> None:
    """Wait until the repository has every segment between the start and the end of the backup."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        archive = read_archive(shelf.repository, cluster.system, cluster.segment_size)
        history = archive.history(entry.timeline) or TimelineHistory(entry.timeline)
        lost = missing(archive.held, history, entry.start_lsn, entry.stop_lsn, cluster.segment_size)
        if not lost:
            return
        if time.monotonic() > deadline:
            raise OperationFailed(
                f"The backup is complete, but WAL that it needs did not arrive within {timeout_seconds:g} s: "
                f"{', '.join(segment.name for segment in lost[:3])}; the backup is not listed",
                remedy="See `dbops wal status`; on a standby set archive_timeout on the primary.",
            )
        time.sleep(POLL_SECONDS)

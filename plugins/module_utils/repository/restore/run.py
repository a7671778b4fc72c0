# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore from beginning to end: decide, check the place, write the files, replay, promote, tell what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import history_file_name
from ansible_collections.dbops.fleet.plugins.module_utils.repository import layout
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import shown
from ansible_collections.dbops.fleet.plugins.module_utils.repository.cluster import Cluster
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import open_repository
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore import files, leftover, place
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore.recovery import auto_conf
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore.replay import Replayed, replay
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore.whole import refuse_incomplete
from ansible_collections.dbops.fleet.plugins.module_utils.repository.shelf import Shelf
from ansible_collections.dbops.fleet.plugins.module_utils.repository.targets import (
    Choice,
    Offer,
    Target,
    choose,
    offers,
    refuse_promotion,
    replay_limits,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal import inventory
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.push import push

ACTIONS = ("promote", "scratch", "standby")


@dataclass(frozen=True)
class Request:
    """What is to be restored.

    Attributes:
        target: where recovery is to end.
        directory: the new data directory.
        action: `promote` makes a new primary and writes its timeline into the repository; `scratch` makes a copy
            that never touches the repository; `standby` only places the files with a `standby.signal`.
        tablespaces: former place or oid -> new directory.
        configuration: where to put what came from `/etc/postgresql`; None to leave it out.
        delta: use and overwrite the data directory that lies there.
        confirm: the cluster's name, where `promote` is meant although WAL came minutes ago.
    """

    target: Target
    directory: Path
    action: str = "scratch"
    tablespaces: Mapping[str, str] | None = None
    configuration: Path | None = None
    delta: bool = False
    confirm: str | None = None


@dataclass(frozen=True)
class Plan:
    """What a restore will do. A dry run ends here."""

    choice: Choice
    places: files.Places
    limits: Mapping[str, int]

    def to_dict(self, request: Request) -> dict[str, Any]:
        """JSON-able."""
        backup = self.choice.backup
        return {
            "backup": backup.id,
            "backup_time": shown(backup.stop_time),
            "timeline": self.choice.history.timeline,
            "wal_from": str(backup.start_lsn),
            "wal_to": str(self.choice.reach),
            "newest_wal_time": shown(self.choice.last_time),
            "segments_behind_a_gap": self.choice.behind_gap,
            "target": f"{request.target.kind} {request.target.value}".rstrip(),
            "action": request.action,
            "directory": str(request.directory),
            "tablespaces": {str(oid): str(path) for oid, path in self.places.tablespaces.items()},
            "size": backup.size,
        }


def offered(shelf: Shelf) -> tuple[Offer, ...]:
    """What the repository can restore, newest backup first."""
    facts = shelf.repository.get_json(f"{shelf.system}/system.json")
    return offers(shelf.listed(), inventory.read(shelf.repository, shelf.system, facts["segment_size"]))


def plan(shelf: Shelf, request: Request) -> Plan:
    """Decide and check; nothing is changed.

    Raises:
        Refused: the target cannot be reached, or the place is not fit. The message says what can be reached. Or the
            cluster may still be running and is to be promoted beside.
    """
    facts = shelf.repository.get_json(f"{shelf.system}/system.json")
    archive = inventory.read(shelf.repository, shelf.system, facts["segment_size"])
    listed = shelf.listed()
    choice = choose(listed, archive, request.target)
    if request.action == "promote":
        cluster = shelf.repository.get_json(layout.REPOSITORY)["cluster"]
        refuse_promotion(archive, time.time(), cluster, request.confirm)
    later = [item.backup for item in listed if item.backup.stop_time >= choice.backup.stop_time]
    tablespaces = place.mapped(choice.backup, request.tablespaces or {})
    place.check(request.directory, choice.backup, tablespaces, delta=request.delta)
    refuse_incomplete(shelf, choice.backup, listed)
    places = files.Places(request.directory, tablespaces, request.configuration)
    return Plan(choice, places, replay_limits([backup.settings for backup in later]))


def restore(
    config: Config,
    config_file: str,
    installed: str,
    shelf: Shelf,
    request: Request,
    before_replay: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
    """Plan and carry out.

    Args:
        config: of the engine.
        config_file, installed: for the restore_command of the replaying server.
        shelf: to restore from.
        request: what and where.
        before_replay: called with the data directory while it is still exactly as it was backed up.

    Raises:
        Refused: before anything was changed.
        OperationFailed: on the way; the directory cannot be mistaken for a finished one and `--delta` carries on.
    """
    if (request.directory / place.MARKER).exists():
        with place.alone(request.directory):
            leftover.stop(request.directory)
    decided = plan(shelf, request)
    with place.alone(request.directory):
        return _carry_out(config, config_file, installed, shelf, request, decided, before_replay)


def _carry_out(
    config: Config,
    config_file: str,
    installed: str,
    shelf: Shelf,
    request: Request,
    decided: Plan,
    before_replay: Callable[[Path], None] | None,
) -> dict[str, Any]:
    started = time.monotonic()
    backup = decided.choice.backup
    written = files.restore(shelf, backup, decided.places, threads=config.backup.threads, delta=request.delta)
    copied = time.monotonic()
    if before_replay is not None:
        before_replay(request.directory)
    _write_auto_conf(request)
    report = decided.to_dict(request) | {
        "files": written.files,
        "fetched": written.fetched,
        "reused": written.reused,
        "removed": written.removed,
        "copy_seconds": round(copied - started, 3),
    }
    if request.action == "standby":
        (request.directory / "standby.signal").touch()
    else:
        replayed = replay(
            config,
            config_file,
            installed,
            shelf.repository,
            request.directory,
            decided.choice,
            request.target,
            decided.limits,
        )
        report |= _told(replayed, time.monotonic() - copied)
        if request.action == "promote":
            report["warnings"] = _archive_history(config, shelf, request.directory, decided.choice, replayed.timeline)
    files.finish(request.directory)
    return report | {"seconds": round(time.monotonic() - started, 3)}


def _told(replayed: Replayed, seconds: float) -> dict[str, Any]:
    last = replayed.last_commit
    return {
        "ended": replayed.standing.value,
        "replayed_to": str(replayed.lsn),
        "new_timeline": replayed.timeline,
        "last_commit": shown(last) if last is not None else None,
        "last_commit_age_seconds": round(time.time() - last, 1) if last is not None else None,
        "replay_seconds": round(seconds, 3),
    }


def _archive_history(config: Config, shelf: Shelf, directory: Path, choice: Choice, timeline: int) -> list[str]:
    """The server was promoted with archiving off, so nobody else will archive the history of its new timeline.

    It also claims the timeline's number: a second restore that took the same one is refused here.

    Returns:
        Why repositories other than the one that was restored from do not have it; `wal_archive` tries again.
    """
    backup = choice.backup
    cluster = Cluster(int(backup.system), backup.major, backup.segment_size)
    history = directory / "pg_wal" / history_file_name(timeline)
    push([shelf.repository], cluster, history, level=config.wal.level)
    failed = []
    for settings in config.repositories:
        if settings.name == shelf.repository.name:
            continue
        try:
            other = open_repository(settings, config)
            other.check_system(cluster.system, cluster.major)
            push([other], cluster, history, level=config.wal.level)
        except FleetError as error:
            failed.append(f"Repository {settings.name} was not told of timeline {timeline}: {error}")
    return failed


def _write_auto_conf(request: Request) -> None:
    path = request.directory / "postgresql.auto.conf"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(auto_conf(before, scratch=request.action == "scratch"), encoding="utf-8")

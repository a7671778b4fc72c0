# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules `wal_archive` and `wal_archive_info` do: bring the archive into being, prove it, tell its state."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import TimelineHistory, history_file_name
from ansible_collections.dbops.fleet.plugins.module_utils.repository import account, layout, server, systems
from ansible_collections.dbops.fleet.plugins.module_utils.repository import cluster as clusters
from ansible_collections.dbops.fleet.plugins.module_utils.repository import repository as repositories
from ansible_collections.dbops.fleet.plugins.module_utils.repository.cluster import Cluster
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config, RepositorySettings, load
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import (
    ObjectMissing,
    StoreUnavailable,
    WrongIdentity,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal import commands, status
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.health import Limits, ServerView
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.push import push


@dataclass(frozen=True)
class Need:
    """What is not yet as wanted.

    Attributes:
        repositories: names of those that do not know this cluster.
        histories: files of `pg_wal` that a repository lacks: its name, and theirs.
        settings: of the server, to be set.
        restart: whether the server archives only after a restart.
    """

    repositories: tuple[str, ...]
    histories: dict[str, tuple[str, ...]]
    settings: dict[str, str]
    restart: bool

    @property
    def anything(self) -> bool:
        return bool(self.repositories or self.histories or self.settings)


def needed(
    view: ServerView,
    unknown_to: tuple[str, ...],
    histories: dict[str, tuple[str, ...]],
    *,
    archive_command: str,
    timeout_setting: str,
    archive_timeout: str,
) -> Need:
    """Compare. Decides only.

    Args:
        view: the server's.
        unknown_to: repositories that do not know this cluster.
        histories: what repositories lack of the server's own.
        archive_command: ours.
        timeout_setting: the server's archive_timeout, in seconds.
        archive_timeout: the wanted one, in seconds.
    """
    wanted = {"archive_command": archive_command, "archive_timeout": archive_timeout}
    found = {"archive_command": view.archive_command, "archive_timeout": timeout_setting}
    settings = {name: value for name, value in wanted.items() if found[name] != value}
    off = view.archive_mode == "off"
    if off:
        settings["archive_mode"] = "on"
    return Need(unknown_to, histories, settings, off)


def ensure(params: dict[str, Any], check_mode: bool) -> Outcome:
    """For `dbops.fleet.wal_archive`."""
    config = load(params["config_file"])
    with account.owner_of(config.data_directory):
        cluster = clusters.read(config)
        ours = _archive_command(params, config, cluster)
        with server.connected(config) as session:
            view = server.view(session)
            row = session.execute("select setting from pg_settings where name = 'archive_timeout'").fetchone()
            need = needed(
                view,
                tuple(settings.name for settings in config.repositories if not _knows(settings, config, cluster)),
                {} if view.in_recovery else _lacking(view.timeline, config, cluster),
                archive_command=ours,
                timeout_setting=row["setting"],
                archive_timeout=str(params["archive_timeout"]),
            )
            before = _described(config, need, view, row["setting"])
            warnings = _warnings(config, cluster, need)
            wanted = {"repositories": [settings.name for settings in config.repositories], "histories_lacking": {}}
            after = {**before, **need.settings, **wanted}
            if need.anything and not check_mode:
                _apply(session, config, cluster, need)
        if need.restart:
            warnings.append("archive_mode takes effect when the server is restarted; nothing is archived until then")
        proof = None
        if params["prove"] and not check_mode and not need.restart and not view.in_recovery:
            proof = status.prove(config, timeout_seconds=params["prove_timeout"])
        state = status.read(config, ours)
    return Outcome(
        changed=need.anything,
        result={"state": state.to_dict(), "proof": proof, "restart_required": need.restart},
        before=before,
        after=after,
        warnings=tuple(warnings),
    )


def read(params: dict[str, Any], check_mode: bool) -> Outcome:
    """For `dbops.fleet.wal_archive_info`: changes nothing, in either mode."""
    config = load(params["config_file"])
    limits = Limits(params["rpo_warning"], params["rpo_critical"])
    with account.owner_of(config.data_directory):
        cluster = clusters.read(config)
        state = status.read(config, _archive_command(params, config, cluster), limits)
    return Outcome(changed=False, result={"state": state.to_dict()})


def _warnings(config: Config, cluster: Cluster, need: Need) -> list[str]:
    found = []
    for settings in config.repositories:
        if settings.name in need.repositories:
            with contextlib.suppress(StoreUnavailable):  # there is none yet
                found += systems.warnings(repositories.open_repository(settings, config), cluster.system)
    return found


def _archive_command(params: dict[str, Any], config: Config, cluster: Cluster) -> str:
    return commands.archive_command(
        config.spool_directory, cluster.system, config_file=params["config_file"], installed=params["engine_directory"]
    )


def _knows(settings: RepositorySettings, config: Config, cluster: Cluster) -> bool:
    try:
        repositories.open_repository(settings, config).check_system(cluster.system, cluster.major)
    except WrongIdentity as error:
        # Another cluster's repository is for `init` to refuse; one of an older system becomes ours by `init`.
        if "belongs to cluster" in str(error):
            raise
        return False
    except StoreUnavailable as error:
        if isinstance(error.__context__, ObjectMissing):
            return False
        raise
    return True


def _described(config: Config, need: Need, view: ServerView, archive_timeout: str) -> dict[str, Any]:
    return {
        "archive_mode": view.archive_mode,
        "archive_command": view.archive_command,
        "archive_timeout": archive_timeout,
        "repositories": [one.name for one in config.repositories if one.name not in need.repositories],
        "histories_lacking": {name: list(files) for name, files in need.histories.items()},
    }


def _lacking(timeline: int, config: Config, cluster: Cluster) -> dict[str, tuple[str, ...]]:
    """Histories of the line of a primary's timeline that are in `pg_wal` but not in a repository.

    The server archives the history of a timeline once, when it begins. A repository that came later or was away then
    has none, nor has one that a restore did not tell when it promoted.
    """
    directory = Path(config.data_directory, "pg_wal")
    try:
        text = (directory / history_file_name(timeline)).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    line = [history_file_name(one) for one in TimelineHistory.parse(timeline, text).timelines]
    mine = [name for name in line if (directory / name).exists()]
    found = {}
    for settings in config.repositories:
        known: set[str] = set()
        with contextlib.suppress(StoreUnavailable):  # there is none yet
            store = repositories.open_repository(settings, config).store
            keys = (item.key for item in store.list(layout.wal_directory(cluster.system, mine[0]))) if mine else ()
            known = {parsed[0] for key in keys if (parsed := layout.parse_wal_object(key)) is not None}
        if missing := tuple(name for name in mine if name not in known):
            found[settings.name] = missing
    return found


def _apply(session: Any, config: Config, cluster: Cluster, need: Need) -> None:
    """Repositories first: the server must not be told to archive into what is not there."""
    for settings in config.repositories:
        if settings.name in need.repositories:
            repositories.init(
                settings, config, system=cluster.system, major=cluster.major, segment_size=cluster.segment_size
            )
        for name in need.histories.get(settings.name, ()):
            opened = repositories.open_repository(settings, config)
            push([opened], cluster, Path(config.data_directory, "pg_wal", name), level=config.wal.level)
    for name, value in need.settings.items():
        session.execute(f"alter system set {name} = {_literal(session, value)}")
    if need.settings:
        row = session.execute("select pg_reload_conf() as done").fetchone()
        if not row["done"]:
            raise OperationFailed("The server did not take the signal to read its configuration again")


def _literal(session: Any, value: str) -> str:
    row = session.execute("select quote_literal(%s::text) as quoted", (value,)).fetchone()
    return str(row["quoted"])

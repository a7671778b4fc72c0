# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules `base_backup` and `base_backup_info` do."""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome
from ansible_collections.dbops.fleet.plugins.module_utils.repository import account, server
from ansible_collections.dbops.fleet.plugins.module_utils.repository import cluster as clusters
from ansible_collections.dbops.fleet.plugins.module_utils.repository.backup.take import base_of, refuse_unfit, take
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Listed, shown
from ansible_collections.dbops.fleet.plugins.module_utils.repository.cluster import Cluster
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config, load
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import together
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import open_first
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore.run import offered
from ansible_collections.dbops.fleet.plugins.module_utils.repository.shelf import Shelf
from ansible_collections.dbops.fleet.plugins.module_utils.repository.systems import system_of, with_backups

HOUR_SECONDS = 3600.0


def ensure(params: dict[str, Any], check_mode: bool) -> Outcome:
    """For `dbops.fleet.base_backup`: a backup in every repository that has no recent one."""
    config = load(params["config_file"])
    names = [params["repository"]] if params["repository"] else [one.name for one in config.repositories]
    results: list[dict[str, Any]] = []
    errors: list[FleetError] = []
    with account.owner_of(config.data_directory):
        cluster = clusters.read(config)
        for name in names:
            try:
                results.append(_ensure_in(name, config, cluster, params, check_mode))
            except FleetError as error:
                errors.append(error)
    if errors:
        # One repository that is down keeps the backup out of no other.
        failure = together(errors)
        failure.details["results"] = results
        raise failure
    taken = [one["repository"] for one in results if one["taken"]]
    return Outcome(bool(taken), {"results": results}, after=[f"{name}: a new backup" for name in taken] or None)


def _ensure_in(name: str, config: Config, cluster: Cluster, params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """What was done, or would be, in one repository."""
    repository = open_first(config, name)
    repository.check_system(cluster.system, cluster.major)
    shelf = Shelf(repository, cluster.system)
    listed = shelf.listed()
    recent = _recent(listed, params["max_age_hours"])
    if recent is not None:
        return {"repository": name, "taken": False, "plan": "", "backup": recent.backup.to_dict()}
    base = None if params["full"] else base_of(listed)
    plan = f"incremental to {base.id}" if base else "full"
    if check_mode:
        with server.connected(config) as session:
            refuse_unfit(session, config, shelf)
        return {"repository": name, "taken": True, "plan": plan, "backup": None}
    entry = take(
        config,
        repository,
        full=params["full"],
        fast=params["checkpoint"] == "fast",
        wal_timeout_seconds=params["wal_timeout"],
    )
    return {"repository": name, "taken": True, "plan": plan, "backup": entry.to_dict()}


def read(params: dict[str, Any], check_mode: bool) -> Outcome:
    """For `dbops.fleet.base_backup_info`. Needs no data directory: after a disaster there is none."""
    config = load(params["config_file"])
    with account.user(params["owner"]):
        repository = open_first(config, params["repository"])
        shelf = Shelf(repository, system_of(repository, params["system_identifier"]))
        facts = repository.get_json(f"{shelf.system}/system.json")
        listed = shelf.listed()
        reachable = offered(shelf)
        unfinished = [one.backup for one in shelf.unfinished()]
        others = with_backups(repository, besides=shelf.system)
    return Outcome(
        changed=False,
        result={
            "repository": {"name": repository.name, "address": repository.store.address},
            "system_identifier": str(shelf.system),
            "version": facts["major"],
            "other_systems": others,
            "backups": [_shown(item) for item in listed],
            "unfinished": unfinished,
            "reachable": [offer.to_dict() for offer in reachable],
        },
    )


def _recent(listed: tuple[Listed, ...], max_age_hours: float) -> Listed | None:
    """The newest sound backup, when it is young enough to need no other. An age of 0 always wants another."""
    sound = [item for item in listed if not item.bad]
    if not sound or max_age_hours <= 0:
        return None
    young = time.time() - sound[-1].backup.stop_time < max_age_hours * HOUR_SECONDS
    return sound[-1] if young else None


def _shown(item: Listed) -> dict[str, Any]:
    return {
        **item.backup.to_dict(),
        "stop_time_shown": shown(item.backup.stop_time),
        "pinned": item.pinned,
        "verified": item.verified.to_dict() if item.verified else None,
    }

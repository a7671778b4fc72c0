# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules `database_dump`, its siblings and `base_backup_extract` do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome
from ansible_collections.dbops.fleet.plugins.module_utils.repository import account, server
from ansible_collections.dbops.fleet.plugins.module_utils.repository import cluster as clusters
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import shown
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config, load
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump import extract as extracting
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump import load as loading
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.entry import (
    Dump,
    ListedDump,
    series_of,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.plan import Wanted, choose, find
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.take import existing, take
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import open_first
from ansible_collections.dbops.fleet.plugins.module_utils.repository.shelf import Shelf
from ansible_collections.dbops.fleet.plugins.module_utils.repository.systems import system_of
from ansible_collections.dbops.fleet.plugins.module_utils.repository.targets import parse_target

HOUR_SECONDS = 3600.0
# What makes two calls the same request.
_ASKED = ("database", "schema", "tables", "into_schema", "target", "value", "timeline", "backup", "system_identifier")


def ensure(params: dict[str, Any], check_mode: bool) -> Outcome:
    """For `dbops.fleet.database_dump`: a recent dump in every repository, or a certain one gone from them."""
    config = load(params["config_file"])
    names = [params["repository"]] if params["repository"] else [one.name for one in config.repositories]
    with account.owner_of(config.data_directory):
        if params["state"] == "absent":
            return _remove(config, names, params["dump"], check_mode)
        return _take(config, names, params, check_mode)


def read(params: dict[str, Any], check_mode: bool) -> Outcome:
    """For `dbops.fleet.database_dump_info`."""
    config = load(params["config_file"])
    with account.user(params["owner"]):
        shelf = _shelf(config, params)
        listed = shelf.dumps()
        unfinished = [one.backup for one in shelf.unfinished_dumps()]
    return Outcome(
        changed=False,
        result={
            "repository": {"name": shelf.repository.name, "address": shelf.repository.store.address},
            "system_identifier": str(shelf.system),
            "dumps": [told(item) for item in listed],
            "unfinished": unfinished,
        },
    )


def restore(params: dict[str, Any], check_mode: bool) -> Outcome:
    """For `dbops.fleet.database_dump_restore`."""
    config = load(params["config_file"])
    with account.owner_of(config.data_directory):
        shelf = _shelf(config, params)
        dump = find(shelf.dumps(), params["dump"], params["database"])
        decided = loading.plan(
            config,
            dump,
            database=params["database"],
            into=params["into"],
            replace=params["replace"],
            owners=params["owners"],
        )
        if check_mode:
            report = decided.to_dict(dump)
        else:
            report = loading.restore(config, shelf, dump, decided, owners=params["owners"])
    return Outcome(not decided.loaded, {"report": report}, after=None if decided.loaded else report)


def extract(params: dict[str, Any], check_mode: bool) -> Outcome:
    """For `dbops.fleet.base_backup_extract`. Asked again after it was done, it tells what came of it."""
    config = load(params["config_file"])
    target = parse_target(params["target"], params["value"] or "", params["timeline"], params["backup"])
    request = extracting.Request(
        target,
        params["database"],
        params["schema"] or "",
        tuple(params["tables"]),
        params["into_schema"],
    )
    scratch = Path(params["scratch"])
    asked = {name: params[name] for name in _ASKED}
    with account.user(params["owner"]):
        shelf = _shelf(config, params)
        before = extracting.remembered(config, asked)
        known = [item.dump for item in shelf.dumps() if item.id == before]
        if known:
            return Outcome(False, {"plan": None, "dump": known[0].to_dict()})
        plan = extracting.plan(shelf, request, scratch)
        if check_mode:
            return Outcome(True, {"plan": plan, "dump": None}, after=plan)
        dump = extracting.extract(config, params["config_file"], params["engine_directory"], shelf, request, scratch)
        extracting.remember(config, asked, dump)
    return Outcome(True, {"plan": plan, "dump": dump.to_dict()}, after=plan)


def told(item: ListedDump) -> dict[str, Any]:
    """A dump as return value."""
    return {
        **item.dump.to_dict(),
        "series": item.dump.series,
        "stop_time_shown": shown(item.stop_time),
        "pinned": item.pinned,
        "verified": item.verified.to_dict() if item.verified else None,
    }


def _take(config: Config, names: list[str], params: dict[str, Any], check_mode: bool) -> Outcome:
    wanted = Wanted(tuple(params["databases"]), params["globals"], params["role_passwords"], params["globals_only"])
    cluster = clusters.read(config)
    results = []
    for name in names:
        repository = open_first(config, name)
        repository.check_system(cluster.system, cluster.major)
        recent = _recent(Shelf(repository, cluster.system).dumps(), wanted, params["max_age_hours"])
        if recent is not None:
            results.append({"repository": name, "taken": False, "dump": recent.to_dict()})
        elif check_mode:
            with server.connected(config) as session:
                choose(wanted, existing(session))
            results.append({"repository": name, "taken": True, "dump": None})
        else:
            results.append({"repository": name, "taken": True, "dump": take(config, repository, wanted).to_dict()})
    taken = [one["repository"] for one in results if one["taken"]]
    return Outcome(bool(taken), {"results": results}, after=[f"{name}: a new dump" for name in taken] or None)


def _recent(listed: tuple[ListedDump, ...], wanted: Wanted, max_age_hours: float) -> Dump | None:
    """The newest sound dump of the same series, when it is young enough to need no other."""
    series = series_of(wanted.databases, all_databases=wanted.all_databases)
    sound = [item.dump for item in listed if item.dump.series == series and not item.bad]
    if not sound or time.time() - sound[-1].stop_time >= max_age_hours * HOUR_SECONDS:
        return None
    return sound[-1]


def _remove(config: Config, names: list[str], identifier: str, check_mode: bool) -> Outcome:
    system = clusters.read(config).system
    results = []
    for name in names:
        shelf = Shelf(open_first(config, name), system)
        found = [item for item in shelf.dumps() if item.id == identifier]
        if found and not check_mode:
            shelf.remove_dump(identifier)
        results.append({"repository": name, "taken": False, "removed": bool(found)})
    removed = [one["repository"] for one in results if one["removed"]]
    return Outcome(
        bool(removed),
        {"results": results},
        before=[f"{name}: {identifier}" for name in removed] or None,
        after=[] if removed else None,
    )


def _shelf(config: Config, params: dict[str, Any]) -> Shelf:
    repository = open_first(config, params["repository"])
    return Shelf(repository, system_of(repository, params["system_identifier"]))

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the module `base_backup_restore` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome
from ansible_collections.dbops.fleet.plugins.module_utils.repository import account
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import load
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import open_first
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore import run
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore.place import MARKER
from ansible_collections.dbops.fleet.plugins.module_utils.repository.shelf import Shelf
from ansible_collections.dbops.fleet.plugins.module_utils.repository.targets import parse_target


def restore(params: dict[str, Any], check_mode: bool) -> Outcome:
    """For `dbops.fleet.base_backup_restore`. What a killed run left unfinished is carried on with."""
    config = load(params["config_file"])
    directory = Path(params["directory"])
    target = parse_target(params["target"], params["value"] or "", params["timeline"], params["backup"])
    with account.user(params["owner"]):
        request = run.Request(
            target=target,
            directory=directory,
            action=params["action"],
            tablespaces=params["tablespaces"],
            configuration=Path(params["configuration"]) if params["configuration"] else None,
            delta=params["delta"] or (directory / MARKER).exists(),
        )
        repository = open_first(config, params["repository"])
        shelf = Shelf(repository, run.system_of(repository, params["system_identifier"]))
        facts = {"repository": repository.name, "system_identifier": str(shelf.system), "resumed": request.delta}
        if check_mode:
            plan = run.plan(shelf, request).to_dict(request)
            return Outcome(True, {**facts, "plan": plan, "report": None}, after=plan)
        report = run.restore(config, params["config_file"], params["engine_directory"], shelf, request)
    return Outcome(True, {**facts, "plan": None, "report": report}, after=report)

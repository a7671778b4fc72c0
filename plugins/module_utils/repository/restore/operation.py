# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the module `base_backup_restore` does."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome
from ansible_collections.dbops.fleet.plugins.module_utils.repository import account
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config, load
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import open_first
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore import run
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore.files import CONTROL_FILE
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore.place import MARKER
from ansible_collections.dbops.fleet.plugins.module_utils.repository.shelf import Shelf
from ansible_collections.dbops.fleet.plugins.module_utils.repository.systems import system_of
from ansible_collections.dbops.fleet.plugins.module_utils.repository.targets import parse_target

# What makes two calls the same restore.
_ASKED = ("directory", "target", "value", "timeline", "backup", "action", "tablespaces", "system_identifier")


def restore(params: dict[str, Any], check_mode: bool) -> Outcome:
    """For `dbops.fleet.base_backup_restore`.

    A call whose caller was killed goes on. The next one waits for it and returns its report; what a restore that was
    killed itself has left is carried on with.
    """
    config = load(params["config_file"])
    directory = Path(params["directory"])
    target = parse_target(params["target"], params["value"] or "", params["timeline"], params["backup"])
    asked = {name: params[name] for name in _ASKED}
    with account.user(params["owner"]), _alone(config, directory, check_mode) as record:
        request = run.Request(
            target=target,
            directory=directory,
            action=params["action"],
            tablespaces=params["tablespaces"],
            configuration=Path(params["configuration"]) if params["configuration"] else None,
            delta=params["delta"] or (directory / MARKER).exists(),
            confirm=params["confirm"],
        )
        repository = open_first(config, params["repository"])
        shelf = Shelf(repository, system_of(repository, params["system_identifier"]))
        facts = {"repository": repository.name, "system_identifier": str(shelf.system), "resumed": request.delta}
        finished = _finished(record, directory, asked)
        if finished is not None:
            return Outcome(False, {**facts, "resumed": True, "plan": None, "report": finished})
        if check_mode:
            plan = run.plan(shelf, request).to_dict(request)
            return Outcome(True, {**facts, "plan": plan, "report": None}, after=plan)
        report = run.restore(config, params["config_file"], params["engine_directory"], shelf, request)
        record.write_text(json.dumps({"asked": asked, "report": report}), encoding="utf-8")
    told = tuple(report.get("warnings", ()))
    return Outcome(True, {**facts, "plan": None, "report": report}, after=report, warnings=told)


@contextlib.contextmanager
def _alone(config: Config, directory: Path, check_mode: bool) -> Iterator[Path]:
    """One restore into a directory at a time; the next one waits, but for check mode. Gives the file for the result.

    Raises:
        Refused: in check mode, one is running.
    """
    place = Path(config.state_directory) / "restores"
    name = hashlib.sha256(str(directory).encode()).hexdigest()[:16]
    lock = place / f"{name}.lock"
    if check_mode and not lock.exists():
        yield place / f"{name}.json"
        return
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock.open("r" if check_mode else "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if check_mode else 0))
        except BlockingIOError:
            raise Refused(f"A restore into {directory} is running", remedy="Wait for it to end.") from None
        yield place / f"{name}.json"


def _finished(record: Path, directory: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """The report of the same restore, where nothing has happened to its result since then."""
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
        untouched = (directory / CONTROL_FILE).stat().st_mtime_ns <= record.stat().st_mtime_ns
    except (OSError, ValueError):
        return None
    same = known["asked"] == asked and not (directory / MARKER).exists()
    return dict(known["report"]) if same and untouched else None

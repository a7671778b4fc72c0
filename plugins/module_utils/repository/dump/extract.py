# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One database, one schema or some tables out of a base backup: restored into a scratch place, dumped from there into
the repository, and the scratch copy removed. Loading the dump into the live server is a step of its own (load.py).
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.repository import layout, server
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import shown
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.entry import Dump, DumpedDatabase, Origin
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.isolate import isolate
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.plan import Wanted, choose, new_schema
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.programs import Place
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.take import Source, existing, store
from ansible_collections.dbops.fleet.plugins.module_utils.repository.lock import only_one
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore import leftover, run
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore.place import MARKER
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore.replay import PrivateServer
from ansible_collections.dbops.fleet.plugins.module_utils.repository.shelf import Shelf
from ansible_collections.dbops.fleet.plugins.module_utils.repository.targets import Target
from ansible_collections.dbops.fleet.plugins.module_utils.repository.targets import choose as choose_backup
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal import inventory

# Inside the scratch place; nothing else is touched there.
DIRECTORY = "dbops-extract"


@dataclass(frozen=True)
class Request:
    """What is taken out.

    Attributes:
        target: the moment.
        database: name.
        schema: only this one; empty for the whole database.
        tables: only these of the schema; empty for all of it.
        into_schema: the new schema that it will be loaded into; None for the old one's with `_restored` behind it.
    """

    target: Target
    database: str
    schema: str = ""
    tables: tuple[str, ...] = ()
    into_schema: str | None = None

    @property
    def what(self) -> str:
        """For people."""
        if self.tables:
            return f"{', '.join(f'{self.schema}.{table}' for table in self.tables)} of {self.database}"
        return f"schema {self.schema} of {self.database}" if self.schema else f"database {self.database}"

    @property
    def new_schema(self) -> str:
        """Empty for a whole database. Raises Refused."""
        if not self.schema:
            if self.tables or self.into_schema:
                raise Refused("Tables and a new schema need the schema that they are taken from")
            return ""
        return new_schema(self.schema, self.into_schema)


def plan(shelf: Shelf, request: Request, scratch: Path) -> dict[str, Any]:
    """Decide and check; nothing is changed.

    Raises:
        Refused: the target cannot be reached, or there is no room.
    """
    restoring = _restore_request(shelf, request, scratch / DIRECTORY)
    told = run.plan(shelf, restoring).to_dict(restoring)
    return {**told, "what": request.what, "new_schema": request.new_schema or None}


def extract(config: Config, config_file: str, installed: str, shelf: Shelf, request: Request, scratch: Path) -> Dump:
    """Restore, dump into the repository, remove the copy.

    Killed at any point it leaves nothing listed; the next run stops what still runs of it, and uses its files.

    Args:
        config, config_file, installed: of the engine.
        shelf: to restore from and to dump into.
        request: what and when.
        scratch: place with room for the cluster; a directory inside it is made and removed.

    Raises:
        Refused: before anything was changed.
        OperationFailed: on the way, the scratch copy is removed.
    """
    into = request.new_schema
    directory = scratch / DIRECTORY
    with only_one(config, "extract"):
        leftover.stop(directory / "data")
        restoring = _restore_request(shelf, request, directory)
        if not restoring.delta:
            shutil.rmtree(directory, ignore_errors=True)
        decided = run.plan(shelf, restoring)
        directory.mkdir(mode=0o700, exist_ok=True)
        try:
            report = run.restore(config, config_file, installed, shelf, restoring)
            return _dump_copy(config, shelf, request, directory / "data", into, report, decided.choice.backup.major)
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def _restore_request(shelf: Shelf, request: Request, directory: Path) -> run.Request:
    """Tablespaces go into the scratch place too; what a run that was broken off left is compared, not trusted."""
    data = directory / "data"
    tablespaces = {}
    listed = shelf.listed()
    if any(item.backup.tablespaces for item in listed):
        facts = shelf.repository.get_json(layout.system_object(shelf.system))
        archive = inventory.read(shelf.repository, shelf.system, facts["segment_size"])
        chosen = choose_backup(listed, archive, request.target).backup
        tablespaces = {str(one.oid): str(directory / f"tablespace-{one.oid}") for one in chosen.tablespaces}
    return run.Request(request.target, data, "scratch", tablespaces, delta=(data / MARKER).exists())


def _dump_copy(
    config: Config,
    shelf: Shelf,
    request: Request,
    data: Path,
    into: str,
    report: Mapping[str, Any],
    major: int,
) -> Dump:
    with tempfile.TemporaryDirectory(prefix="dbops-extract-") as private:
        copy = replace(config, socket_directory=private)
        with PrivateServer(config, data, Path(private), _settings()) as scratch:
            scratch.await_sessions()
            with server.connected(copy) as session:
                (database,) = choose(Wanted((request.database,)), existing(session))
            notes: tuple[str, ...] = ()
            mark = f"Taken by dbops out of {report['backup']} on {shown(time.time())}"
            if request.schema:
                with server.connected(copy, database=request.database) as session:
                    notes = isolate(session, schema=request.schema, tables=request.tables, into=into, mark=mark)
            origin = Origin(report["backup"], report["replayed_to"], report["last_commit"], request.what, notes, mark)
            source = Source(Place.of(copy), "backup", origin)
            wanted = Wanted((request.database,), globals=False)
            dumped: tuple[DumpedDatabase, ...] = (replace(database, schema=into),)
            return store(config, shelf, major, source, dumped, wanted)


def _settings() -> dict[str, str]:
    """Nothing of the copy can reach the repository or the network."""
    return {
        "listen_addresses": "",
        "archive_mode": "off",
        "ssl": "off",
        "logging_collector": "off",
        "autovacuum": "off",
        "primary_conninfo": "",
        "synchronous_standby_names": "",
    }


def remember(config: Config, asked: Mapping[str, Any], dump: Dump) -> None:
    """Keep what came of a request, for a caller that lost its connection and asks again."""
    path = Path(config.state_directory) / "extract.json"
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"asked": asked, "dump": dump.id}), encoding="utf-8")
    temporary.replace(path)


def remembered(config: Config, asked: Mapping[str, Any]) -> str | None:
    """The dump that the same request led to; None when the last one was another."""
    try:
        known = json.loads((Path(config.state_directory) / "extract.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(known["dump"]) if known["asked"] == asked else None

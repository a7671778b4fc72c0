# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules `wal_archive` and `wal_archive_info`, run as Ansible runs them: as root, on the host's own Python."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.dbops.fleet.tests.integration.repository.engine import Engine, directory
from ansible_collections.dbops.fleet.tests.integration.servers import Servers

pytest.importorskip("ansible")


def call(engine: Engine, module: str, *, check: bool = False, failed: bool = False, **params: Any) -> dict[str, Any]:
    """Run a module on this machine through the command `ansible`. Its warnings are under `said`."""
    arguments = {"config_file": str(engine.config_file), "engine_directory": str(engine.installed), **params}
    arguments = {name: value for name, value in arguments.items() if value is not None}
    command = ["ansible", "localhost", "-i", "localhost,", "-c", "local", "-m", f"dbops.fleet.{module}"]
    command += ["-a", json.dumps(arguments), "-e", "ansible_python_interpreter=/usr/bin/python3"]
    environment = {
        **os.environ,
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal",
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
    }
    done = subprocess.run(
        [*command, *(["--check"] if check else [])],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=Path(os.environ["ANSIBLE_CONFIG"]).parent,
    )
    assert (done.returncode != 0) == failed, done.stdout + done.stderr
    begin = done.stdout.index("=> {") + 3
    result: dict[str, Any] = json.loads(done.stdout[begin : done.stdout.rindex("}") + 1])
    return result | {"said": " ".join(done.stderr.split())}


@pytest.fixture
def fresh(servers: Servers) -> Engine:
    """A primary that has archiving switched on but no command, and an empty directory."""
    server = servers.primary("db1", archive_mode="on")
    server.settings.pop("archive_command", None)
    path = directory(servers.root / "repository")
    return Engine(servers, server, [{"name": "local", "type": "directory", "path": str(path)}])


def test_check_mode_tells_the_change_and_a_second_run_changes_nothing(fresh: Engine) -> None:
    told = call(fresh, "wal_archive", check=True)
    assert told["changed"]
    assert fresh.objects() == []
    assert fresh.server.value("SHOW archive_command") == ""
    done = call(fresh, "wal_archive")
    assert done["changed"]
    assert done["proof"]["archived_seconds"] > 0
    assert done["state"]["archiving"]
    assert {path.owner() for path in fresh.objects()} == {fresh.server.data.owner()}
    again = call(fresh, "wal_archive")
    assert not again["changed"]
    state = call(fresh, "wal_archive_info")["state"]
    assert state["problems"] == []


def test_an_archive_that_begins_after_a_promotion_has_its_history_and_restores(fresh: Engine) -> None:
    server = fresh.server
    fresh.rows(3)
    server.stop()
    (server.data / "standby.signal").touch()
    server.start()
    server.value("SELECT pg_promote()")
    call(fresh, "wal_archive")
    assert fresh.objects("*/wal/history/00000002.history-*")
    assert not call(fresh, "wal_archive")["changed"]
    # As in a repository that was away when the timeline began.
    for path in fresh.objects("*/wal/history/*"):
        path.unlink()
    assert call(fresh, "wal_archive", check=True)["changed"]
    assert not fresh.objects("*/wal/history/*")
    assert call(fresh, "wal_archive")["changed"]
    assert fresh.objects("*/wal/history/00000002.history-*")
    fresh.dbops("backup")
    report = fresh.json("restore", "--to", str(directory(fresh.servers.root / "to") / "data"))
    assert report["new_timeline"] == 3


def test_a_restore_that_promotes_names_the_cluster_while_it_may_live(fresh: Engine) -> None:
    call(fresh, "wal_archive")
    fresh.rows(2)
    call(fresh, "base_backup", engine_directory=None)
    asked: dict[str, Any] = {"directory": str(directory(fresh.servers.root / "to") / "data"), "action": "promote"}
    for check in (True, False):
        told = call(fresh, "base_backup_restore", check=check, failed=True, **asked)
        assert "confirm: orders" in told["msg"]
    named: dict[str, Any] = {**asked, "confirm": "orders"}
    assert call(fresh, "base_backup_restore", check=True, **named)["plan"]["action"] == "promote"
    assert not Path(asked["directory"]).exists()
    assert call(fresh, "base_backup_restore", **named)["report"]["new_timeline"] == 2
    assert not call(fresh, "base_backup_restore", **named)["changed"]


def test_archiving_that_needs_a_restart_is_said_and_not_proven(servers: Servers) -> None:
    server = servers.primary("db1")
    path = directory(servers.root / "repository")
    engine = Engine(servers, server, [{"name": "local", "type": "directory", "path": str(path)}])
    done = call(engine, "wal_archive")
    assert done["restart_required"]
    assert done["proof"] is None
    server.restart()
    assert call(engine, "wal_archive")["proof"]["segment"]


def test_a_repository_of_another_cluster_fails_the_module(fresh: Engine) -> None:
    call(fresh, "wal_archive")
    fresh.configure(cluster="invoices")
    told = call(fresh, "wal_archive", failed=True)
    assert "belongs to cluster orders" in told["msg"]


def test_a_system_that_comes_beside_another_ones_backups_is_told_and_both_can_be_read(
    fresh: Engine, servers: Servers
) -> None:
    assert "backups" not in call(fresh, "wal_archive")["said"]
    fresh.start_archiver()
    (old,) = call(fresh, "base_backup", engine_directory=None)["results"]
    anew = Engine(servers, servers.primary("db2", archive_mode="on"), fresh.settings["repositories"])

    for check in (True, False):
        said = call(anew, "wal_archive", check=check, prove=False)["said"]
        assert f"has 1 backups (the newest: {old['backup']['id']})" in said

    newest = call(anew, "base_backup_info", engine_directory=None)
    assert newest["backups"] == []
    (other,) = newest["other_systems"]
    assert (other["backups"], other["newest"]) == (1, old["backup"]["id"])
    chosen = call(anew, "base_backup_info", engine_directory=None, system_identifier=other["system_identifier"])
    assert [backup["id"] for backup in chosen["backups"]] == [old["backup"]["id"]]
    assert chosen["other_systems"] == []  # the new one has no backup


def test_a_dump_is_taken_loaded_and_forgotten_through_the_modules(fresh: Engine) -> None:
    call(fresh, "wal_archive")
    fresh.server.sql("create database orders")
    fresh.server.sql("create table t as select 7 as i", dbname="orders")
    asked: dict[str, Any] = {"databases": ["orders"], "max_age_hours": 1}
    assert dump_call(fresh, "database_dump", check=True, **asked)["results"][0]["taken"]
    assert dump_call(fresh, "database_dump_info")["dumps"] == []
    done = dump_call(fresh, "database_dump", **asked)
    entry = done["results"][0]["dump"]
    assert done["changed"]
    assert {path.owner() for path in fresh.objects()} == {fresh.server.data.owner()}
    assert not dump_call(fresh, "database_dump", **asked)["changed"]
    plan = dump_call(fresh, "database_dump_restore", check=True)["report"]
    report = dump_call(fresh, "database_dump_restore")["report"]
    assert {name: report[name] for name in plan} == plan
    assert fresh.server.value("select i from t", dbname="orders_restored") == 7
    assert not dump_call(fresh, "database_dump_restore")["changed"]
    refused = dump_call(fresh, "database_dump_restore", failed=True, into="orders")
    assert "exists already" in refused["msg"]
    absent = {"state": "absent", "dump": entry["id"]}
    assert [dump_call(fresh, "database_dump", **absent)["changed"] for _try in range(2)] == [True, False]


def test_a_table_is_taken_out_of_a_backup_once_through_the_module(fresh: Engine) -> None:
    call(fresh, "wal_archive")
    fresh.server.sql("create database orders")
    fresh.server.sql("create table t as select 7 as i", dbname="orders")
    dump_call(fresh, "base_backup")
    scratch = directory(fresh.servers.root / "scratch")
    asked: dict[str, Any] = {"database": "orders", "schema": "public", "tables": ["t"], "scratch": str(scratch)}
    plan = call(fresh, "base_backup_extract", check=True, **asked)
    assert plan["dump"] is None
    assert list(scratch.iterdir()) == []
    done = call(fresh, "base_backup_extract", **asked)
    assert done["plan"]["backup"] == plan["plan"]["backup"]
    again = call(fresh, "base_backup_extract", **asked)
    assert (again["changed"], again["dump"]["id"]) == (False, done["dump"]["id"])
    dump_call(fresh, "database_dump_restore", dump=done["dump"]["id"])
    assert fresh.server.value("select i from public_restored.t", dbname="orders") == 7


def dump_call(engine: Engine, module: str, **options: Any) -> dict[str, Any]:
    """For modules that need no installed engine."""
    return call(engine, module, engine_directory=None, **options)

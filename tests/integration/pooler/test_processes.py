# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes that run otherwise than they shall: at another port, too many of them, too few, with too few open files."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.pooler import commands
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.processes import running_with
from ansible_collections.dbops.fleet.tests.integration.pooler.test_module import params, settings
from ansible_collections.dbops.fleet.tests.integration.poolers import Pooler, Poolers
from ansible_collections.dbops.fleet.tests.integration.servers import Server, free_port


def at(pooler: Pooler, name: str, port: int | None = None) -> dict[str, Any]:
    """The console of a process as option `endpoints` has it."""
    options = dict.fromkeys(("password", "passfile", "sslrootcert"))
    place = {"name": name, "host": str(pooler.directory), "port": port or pooler.port}
    return {**options, **place, "user": "pgbouncer", "sslmode": "verify-full"}


def beside(poolers: Poolers, common: Pooler, name: str) -> Pooler:
    """A further process with a file of its own that includes the common one, as the role's units have it."""
    own = poolers.make(name, {}, listen_port=common.port)
    lines = [f"unix_socket_dir = {own.directory}", f"pidfile = {own.directory}/pid"]
    own.write_file("pgbouncer.ini", "\n".join([f"%include {common.config_file}", *lines, ""]))
    return own


@pytest.fixture
def shared(poolers: Poolers, database: Server) -> Pooler:
    """The files that several processes have in common."""
    return poolers.make("common", {"orders": f"host={database.address} port={database.port}"}, so_reuseport=1)


@contextlib.contextmanager
def client_of(pooler: Pooler) -> Iterator[None]:
    with pooler.connect("orders", host=str(pooler.directory)) as client:
        client.execute("SELECT 1")
        yield


def test_clients_of_a_process_at_the_old_port_are_counted_and_it_is_reloaded(pool1: Pooler) -> None:
    new = free_port()
    wanted = params(pool1, settings={"listen_port": new, "max_client_conn": 55}, endpoints=[at(pool1, "pool1", new)])
    old = f"{pool1.directory}/.s.PGSQL.{pool1.port}"
    with client_of(pool1):
        # Also in the run after one that was killed, or was not allowed to restart it.
        for changed in (True, False):
            outcome = commands.manage(wanted, False)
            assert outcome.changed is changed
            assert outcome.result["running"]
            assert outcome.result["clients_connected"] == 1
            assert outcome.result["restart_required"] == ["listen_port"]
            assert outcome.result["stopped_endpoints"] == ["pool1"]
            assert outcome.result["surplus_processes"] == [old]
            assert old in str(outcome.warnings)
            assert settings(pool1)["max_client_conn"] == "55"
    pool1.kill()
    pool1.port = new
    pool1.start()
    outcome = commands.manage(wanted, False)
    assert not outcome.warnings
    assert outcome.result["restart_required"] == outcome.result["surplus_processes"] == []
    assert outcome.result["stopped_endpoints"] == []


def test_more_processes_than_run_are_missing_and_take_no_restart(poolers: Poolers, shared: Pooler) -> None:
    one, two, three = (beside(poolers, shared, name) for name in ("one", "two", "three"))
    one.start()
    two.start()
    endpoints = [at(pooler, pooler.name) for pooler in (one, two, three)]
    outcome = commands.manage(params(shared, endpoints=endpoints), False)
    assert outcome.result["stopped_endpoints"] == ["three"]
    assert outcome.result["restart_required"] == outcome.result["surplus_processes"] == []
    three.start()
    assert commands.manage(params(shared, endpoints=endpoints), False).result["stopped_endpoints"] == []


def test_fewer_processes_leave_some_whose_clients_count(poolers: Poolers, shared: Pooler) -> None:
    one, two = (beside(poolers, shared, name).start() for name in ("one", "two"))
    wanted = params(shared, settings={"max_client_conn": 55}, endpoints=[at(one, "one")])
    with client_of(two):
        outcome = commands.manage(wanted, False)
        assert outcome.result["clients_connected"] == 1
        assert outcome.result["surplus_processes"] == [f"{two.directory}/.s.PGSQL.{two.port}"]
    for process in (one, two):
        with process.connect("pgbouncer", user="operator", host=str(process.directory)) as console:
            rows = console.execute("SHOW CONFIG").fetchall()
        assert "55" in next(row for row in rows if row[0] == "max_client_conn")


def test_one_process_that_shall_become_several_is_surplus(poolers: Poolers, shared: Pooler) -> None:
    shared.settings["so_reuseport"] = 0
    shared.write().start()
    several = [at(beside(poolers, shared, name), name) for name in ("one", "two")]
    with client_of(shared):
        outcome = commands.manage(params(shared, settings={"so_reuseport": 1}, endpoints=several), False)
    assert outcome.result["clients_connected"] == 1
    assert outcome.result["restart_required"] == ["so_reuseport"]
    assert outcome.result["stopped_endpoints"] == ["one", "two"]
    assert outcome.result["surplus_processes"] == [f"{shared.directory}/.s.PGSQL.{shared.port}"]


def test_a_pooler_of_other_files_is_none_of_this_one(pool1: Pooler, pool2: Pooler) -> None:
    found = running_with(str(pool1.config_file))
    assert [process.endpoint.name for process in found] == [f"{pool1.directory}/.s.PGSQL.{pool1.port}"]
    pool1.kill()
    assert running_with(str(pool1.config_file)) == []
    outcome = commands.manage(params(pool1), False)
    assert outcome.result["running"] is False
    assert outcome.result["clients_connected"] == 0


def test_a_surplus_process_that_does_not_answer_is_said_before_anything_is_changed(
    poolers: Poolers, shared: Pooler
) -> None:
    one, two = (beside(poolers, shared, name).start() for name in ("one", "two"))
    before = shared.config_file.read_text()
    two.freeze()
    wanted = params(shared, settings={"max_client_conn": 55}, endpoints=[at(one, "one")], timeout_seconds=0.5)
    with pytest.raises(OperationFailed, match=f"{two.directory}.*cannot be reached"):
        commands.manage(wanted, False)
    assert shared.config_file.read_text() == before


def test_too_few_open_files_take_a_restart(poolers: Poolers) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    pooler = poolers.make("pool1", {})
    # It inherits the limit of the test.
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, hard))
    try:
        pooler.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for open_files, required in ((1001, ["LimitNOFILE"]), (1000, []), (None, [])):
        outcome = commands.manage(params(pooler, open_files=open_files), False)
        assert outcome.result["restart_required"] == required


def test_a_setting_that_was_taken_out_waits_for_its_restart_in_later_runs_too(
    poolers: Poolers, database: Server
) -> None:
    pooler = poolers.start("pool1", {}, listen_backlog=999)
    kept = {name: value for name, value in pooler.settings.items() if name != "listen_backlog"}
    for check_mode in (True, False, False):
        outcome = commands.manage(params(pooler, settings=kept, purge_settings=True), check_mode)
        assert outcome.result["restart_required"] == ["listen_backlog"]
    pooler.kill()
    pooler.start()
    outcome = commands.manage(params(pooler, settings=kept, purge_settings=True), False)
    assert (outcome.changed, outcome.result["restart_required"]) == (False, [])

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules do to files and to running poolers, called as the modules call it."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, OperationFailed, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_fence import fence
from ansible_collections.dbops.fleet.plugins.module_utils.pooler import commands, deadman
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.operations import PauseFailed
from ansible_collections.dbops.fleet.tests.integration.poolers import Pooler, Poolers
from ansible_collections.dbops.fleet.tests.integration.servers import Server, Servers

DEFAULTS: dict[str, Any] = {
    "state": "present",
    "databases": None,
    "purge_databases": False,
    "users": [],
    "purge_users": False,
    "settings": {},
    "purge_settings": False,
    "databases_file": None,
    "userlist_file": None,
    "further_files": [],
    "open_files": None,
    "endpoints": [],
    "budget_seconds": 1.0,
    "max_pause_seconds": 0.0,
    "operation": "manual",
    "accept_session_mode": False,
    "timeout_seconds": 2.0,
}


def params(pooler: Pooler, **more: Any) -> dict[str, Any]:
    return {**DEFAULTS, "config_file": str(pooler.config_file), **more}


def entry(name: str, server: Server | None = None, **more: Any) -> dict[str, Any]:
    place = {"host": [server.address], "port": server.port} if server else {"host": []}
    return {"name": name, "state": "present", **place, **more}


def test_adds_a_database_and_it_works_at_once(pool1: Pooler, database: Server) -> None:
    wanted = params(
        pool1,
        databases_file=str(pool1.directory / "fleet.ini"),
        databases=[entry("sales", database, dbname="orders", connect_query="SET statement_timeout = '9 s'")],
        settings={"max_client_conn": 77, "log_connections": False},
    )
    before = pool1.config_file.read_text()
    predicted = commands.manage(wanted, True)
    assert predicted.changed
    assert pool1.config_file.read_text() == before
    outcome = commands.manage(wanted, False)
    assert outcome.changed
    assert outcome.diff == predicted.diff
    assert outcome.result["changed_files"] == predicted.result["changed_files"]
    assert pool1.query("sales", "SELECT current_database()") == "orders"
    assert pool1.query("sales", "SHOW statement_timeout") == "9s"
    assert {"max_client_conn": "77", "log_connections": "0"}.items() <= settings(pool1).items()
    again = commands.manage(wanted, False)
    assert not again.changed
    assert not again.diff
    assert stat.S_IMODE((pool1.directory / "fleet.ini").stat().st_mode) == 0o640
    assert pool1.config_file.owner() == (pool1.directory / "fleet.ini").owner()


def settings(pooler: Pooler) -> dict[str, str]:
    return {row["key"]: row["value"] for row in pooler.console("SHOW CONFIG")}


def test_moves_a_database_and_takes_it_out(pool1: Pooler, database: Server, servers: Servers) -> None:
    other = servers.primary("db2")
    assert commands.manage(params(pool1, databases=[entry("moving", database, dbname="postgres")]), False).changed
    assert pool1.query("moving", "SELECT inet_server_port()") == database.port
    assert commands.manage(params(pool1, databases=[entry("moving", other, dbname="postgres")]), False).changed
    # Its idle server connections go with RELOAD.
    assert pool1.query("moving", "SELECT inet_server_port()") == other.port
    assert commands.manage(params(pool1, state="absent", databases=[entry("moving")]), False).changed
    assert "moving" not in pool1.config_file.read_text()
    assert not commands.manage(params(pool1, state="absent", databases=[entry("moving")]), False).changed


def test_a_bad_setting_is_refused_and_nothing_is_touched(pool1: Pooler, database: Server) -> None:
    before = {path: path.read_text() for path in pool1.directory.glob("*.ini")}
    for bad, words in (
        ({"max_client_conn": "many"}, "max_client_conn"),
        ({"no_such_setting": 1}, "no_such_setting"),
        ({"client_tls_sslmode": "require"}, "client_tls"),
    ):
        with pytest.raises(Refused, match=words):
            commands.manage(params(pool1, settings=bad, databases=[entry("x", database)]), False)
    with pytest.raises(FleetError, match="cannot be written"):
        commands.manage(params(pool1, databases=[entry('we"ird db', database)]), False)
    assert {path: path.read_text() for path in pool1.directory.glob("*.ini")} == before
    assert pool1.query("orders", "SELECT 1") == 1


def test_users_get_their_passwords_and_no_diff_shows_them(poolers: Poolers, database: Server) -> None:
    pooler = poolers.make("strict", {"orders": f"host={database.address} port={database.port} user=postgres"})
    pooler.settings["auth_type"] = "scram-sha-256"
    pooler.write().start()
    userlist = str(pooler.directory / "userlist.txt")
    app = {"name": "app", "state": "present", "password": 'pa"ss word', "max_user_connections": 5}
    outcome = commands.manage(params(pooler, userlist_file=userlist, users=[app]), False)
    assert outcome.changed
    assert "ss word" not in str(outcome)
    assert pooler.query("orders", "SELECT 1", user="app", password='pa"ss word') == 1
    app["password"] = "another"
    assert "(changed)" in str(commands.manage(params(pooler, userlist_file=userlist, users=[app]), False).diff)
    assert pooler.query("orders", "SELECT 1", user="app", password="another") == 1
    gone = commands.manage(params(pooler, userlist_file=userlist, users=[{**app, "state": "absent"}]), False)
    assert gone.changed
    with pytest.raises(Exception, match=r"password|authentication|no such user"):
        pooler.query("orders", "SELECT 1", user="app", password="another")


def test_what_takes_a_restart_is_said_not_done(pool1: Pooler) -> None:
    for check_mode in (True, False, False):
        outcome = commands.manage(params(pool1, settings={"listen_backlog": 999}), check_mode)
        assert outcome.result["restart_required"] == ["listen_backlog"]
        assert outcome.warnings
    assert not outcome.changed
    pool1.kill()
    pool1.start()
    assert commands.manage(params(pool1, settings={"listen_backlog": 999}), False).result["restart_required"] == []


def test_a_process_that_does_not_go_by_its_files_is_reloaded(pool1: Pooler, database: Server) -> None:
    """As after a run that was killed between writing and RELOAD, or a SET by hand."""
    wanted = params(pool1, settings={"max_client_conn": 55})
    commands.manage(wanted, False)
    pool1.console("SET max_client_conn = '66'")
    outcome = commands.manage(wanted, True)
    assert outcome.changed
    assert "66" in str(outcome.diff)
    assert commands.manage(wanted, False).changed
    assert settings(pool1)["max_client_conn"] == "55"


def test_what_a_killed_worker_set_for_its_pause_is_undone_in_the_end(poolers: Poolers, database: Server) -> None:
    pooler = poolers.start("killed", {"orders": f"host={database.address} port={database.port}"}, min_pool_size=5)
    commands.manage(params(pooler), False)
    pooler.console("SET min_pool_size = 0")
    assert settings(pooler)["min_pool_size"] == "0"
    outcome = commands.manage(params(pooler, state="settled"), False)
    assert not outcome.changed
    assert settings(pooler)["min_pool_size"] == "5"


def test_a_pooler_that_does_not_run_gets_its_files(poolers: Poolers, database: Server) -> None:
    pooler = poolers.make("later", {})
    outcome = commands.manage(params(pooler, databases=[entry("orders", database)]), False)
    assert outcome.changed
    assert outcome.result["running"] is False
    pooler.start()
    assert pooler.query("orders", "SELECT current_database()") == "orders"


def test_pauses_resumes_and_says_so_in_check_mode(pool1: Pooler) -> None:
    pause = params(pool1, state="paused", databases=[entry("orders")])
    outcome = commands.manage(pause, True)
    assert outcome.changed
    assert outcome.after.endswith("orders paused\n")
    assert not pool1.paused("orders")
    assert commands.manage(pause, False).changed
    assert pool1.paused("orders")
    assert not commands.manage(pause, False).changed
    resume = params(pool1, state="resumed", databases=[entry("orders")])
    assert commands.manage(resume, True).changed
    assert commands.manage(resume, False).changed
    assert not commands.manage(resume, False).changed
    assert pool1.query("orders", "SELECT 1") == 1


def test_a_pause_by_hand_has_a_dead_man(pool1: Pooler) -> None:
    pause = params(pool1, state="paused", databases=[entry("orders")], max_pause_seconds=60.0, operation="by-hand")
    commands.manage(pause, False)
    assert deadman.armed() == ("by-hand",)
    info = commands.gather(params(pool1), False).result
    assert info["deadmen"] == ["by-hand"]
    commands.manage(params(pool1, state="resumed", databases=[entry("orders")], operation="by-hand"), False)
    assert deadman.armed() == ()


def test_a_pause_that_fails_leaves_no_dead_man_and_nothing_paused(pool1: Pooler) -> None:
    with pool1.connect("orders") as client, client.transaction():
        client.execute("SELECT 1")
        pause = params(pool1, state="paused", databases=[entry("orders")], budget_seconds=0.3, max_pause_seconds=60.0)
        with pytest.raises(PauseFailed):
            commands.manage(pause, False)
    assert not pool1.paused("orders")
    assert deadman.armed() == ()


def test_a_pause_that_fails_leaves_the_dead_man_that_was_armed_before(pool1: Pooler) -> None:
    """The one of `staged` knows the new primary: a failover goes on to hold clients by `killed`."""
    commands.manage(params(pool1, state="armed", databases=[entry("orders")], max_pause_seconds=60.0), False)
    with pool1.connect("orders") as client, client.transaction():
        client.execute("SELECT 1")
        with pytest.raises(PauseFailed):
            commands.manage(params(pool1, state="paused", databases=[entry("orders")], budget_seconds=0.3), False)
    assert deadman.armed() == ("manual",)
    commands.manage(params(pool1, state="killed", databases=[entry("orders")]), False)
    assert deadman.armed() == ("manual",)
    commands.manage(params(pool1, state="resumed", databases=[entry("orders")]), False)
    assert deadman.armed() == ()


@pytest.fixture
def two_clusters(poolers: Poolers, database: Server, servers: Servers) -> Iterator[tuple[Pooler, Server]]:
    """A pooler of the clusters orders and billing, and the standby-to-be of both."""
    place = f"host={database.address} port={database.port} dbname=postgres"
    pooler = poolers.start("shared", {"*": place}, auth_user="postgres")
    wanted = [entry("orders", database, dbname="postgres"), entry("billing", database, dbname="postgres")]
    commands.manage(params(pooler, databases=wanted), False)
    yield pooler, servers.primary("db3")
    for operation in deadman.armed():
        deadman.disarm(operation)


def test_no_reload_for_one_cluster_uses_what_is_only_staged_for_another(
    two_clusters: tuple[Pooler, Server], database: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pooler, new = two_clusters
    monkeypatch.setattr(commands, "_PATIENCE_SECONDS", 0.5)

    def ask(state: str, name: str, server: Server | None = None, operation: str = "manual") -> Any:
        databases = [entry(name, server, dbname="postgres")]
        more = {"databases": databases, "operation": operation, "max_pause_seconds": 60.0}
        return commands.manage(params(pooler, state=state, **more), False)

    def used() -> dict[str, int]:
        return {name: pooler.query(name, "SELECT inet_server_port()") for name in ("orders", "billing")}

    both_old = {"orders": database.port, "billing": database.port}
    ask("staged", "billing", new, "of-billing")
    for state, operation in (("staged", "of-orders"), ("present", "manual"), ("settled", "of-orders")):
        with pytest.raises(Refused, match="not to be used yet: of-billing for billing"):
            ask(state, "orders", new, operation)
    with pytest.raises(Refused, match="of-billing for billing"):
        commands.manage(params(pooler, state="reloaded"), False)
    assert used() == both_old
    # What is staged for a cluster may be replaced for that cluster: by a rerun, by a failover.
    ask("staged", "billing", new, "of-billing-again")
    ask("present", "billing", database)
    assert used() == both_old
    for operation in ("of-billing", "of-billing-again"):
        ask("settled", "billing", database, operation)
    assert deadman.armed() == ()
    ask("staged", "orders", new, "of-orders")
    ask("settled", "orders", new, "of-orders")
    assert used() == {**both_old, "orders": new.port}


def test_a_reload_waits_for_the_end_of_what_is_staged(two_clusters: tuple[Pooler, Server], database: Server) -> None:
    pooler, new = two_clusters
    staged = [entry("billing", new, dbname="postgres")]
    more = {"operation": "of-billing", "max_pause_seconds": 60.0}
    commands.manage(params(pooler, state="staged", databases=staged, **more), False)
    orders = [entry("orders", new, dbname="postgres")]
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(commands.manage, params(pooler, databases=orders), False)
        # As long as it has been staged: the other one looks several times meanwhile.
        with pytest.raises(TimeoutError):
            waiting.result(timeout=1.0)
        before = [entry("billing", database, dbname="postgres")]
        commands.manage(params(pooler, state="settled", databases=before, **more), False)
        assert waiting.result(timeout=10.0).changed
    assert pooler.query("orders", "SELECT inet_server_port()") == new.port
    assert pooler.query("billing", "SELECT inet_server_port()") == database.port


def test_an_unknown_database_or_a_dead_pooler_is_refused(pool1: Pooler) -> None:
    with pytest.raises(Refused, match="no database nosuch"):
        commands.manage(params(pool1, state="paused", databases=[entry("nosuch")]), False)
    pool1.kill()
    with pytest.raises(OperationFailed, match="cannot be reached"):
        commands.manage(params(pool1, state="paused"), False)


@pytest.mark.parametrize("state", ["paused", "killed", "resumed", "staged"])
def test_an_empty_list_of_databases_is_not_all_of_them(pool1: Pooler, state: str) -> None:
    with pytest.raises(Refused, match="No database is named"):
        commands.manage(params(pool1, state=state, databases=[], max_pause_seconds=60.0), False)
    assert not pool1.paused("orders")
    commands.manage(params(pool1, state="paused"), False)
    assert pool1.paused("orders")
    commands.manage(params(pool1, state="resumed"), False)
    assert not pool1.paused("orders")


def test_a_pooler_lets_nobody_through_to_a_lost_primary_once_its_clients_are_held(
    pool1: Pooler, database: Server
) -> None:
    """What `fleet_fence` sees of it, and so what counts as a fence."""

    def cut(address: str) -> dict[str, Any]:
        asked = {**params(pool1), "driver": "pooler_cut", "pooler": "pool1", "addresses": [address]}
        return dict(fence(asked, False).result["cut"])

    with contextlib.closing(pool1.connect("orders")) as client:
        client.autocommit = False
        client.execute("SELECT 1")
        assert cut(database.address) == {"pooler": "pool1", "paused": False, "servers": 1, "error": None}
        assert cut("192.0.2.9")["paused"]
        commands.manage(params(pool1, state="killed", databases=[entry("orders")]), False)
        assert cut(database.address) == {"pooler": "pool1", "paused": True, "servers": 0, "error": None}
    pool1.kill()
    assert cut(database.address)["error"]


def test_reloads_reconnects_and_kills(pool1: Pooler) -> None:
    with pool1.connect("orders") as client:
        first = client.execute("SELECT pg_backend_pid()").fetchone()
        assert commands.manage(params(pool1, state="reconnected", databases=[entry("orders")]), False).changed
        assert client.execute("SELECT pg_backend_pid()").fetchone() != first
    pool1.settings["max_client_conn"] = 44
    pool1.write()
    commands.manage(params(pool1, state="reloaded"), False)
    assert settings(pool1)["max_client_conn"] == "44"
    with pool1.connect("orders") as client, pool1.connect('we"ird db') as other:
        client.execute("SELECT 1")
        assert commands.manage(params(pool1, state="killed", databases=[entry("orders")]), False).changed
        assert pool1.paused("orders")
        assert {row["database"] for row in pool1.console("SHOW SERVERS")}.isdisjoint({"orders"})
        # PgBouncer's words for it.
        with pytest.raises(psycopg.OperationalError, match="database removed"):
            client.execute("SELECT 1")
        # Only that database's.
        assert other.execute("SELECT 1").fetchone() == (1,)
    commands.manage(params(pool1, state="resumed", databases=[entry("orders")]), False)
    assert pool1.query("orders", "SELECT 1") == 1


def test_facts_have_what_operators_ask_for(pool1: Pooler) -> None:
    with pool1.connect("orders") as client:
        client.execute("SELECT 1")
        facts = commands.gather(params(pool1), False).result
    assert facts["unreachable_endpoints"] == []
    one = next(iter(facts["endpoints"].values()))
    assert one["reachable"]
    assert one["databases"]["orders"]["paused"] is False
    assert one["clients"]["orders"] == {"active": 1}
    assert one["stats"]["orders"]["total_query_count"] >= 1
    assert one["settings"]["listen_port"] == {"value": str(pool1.port), "default": "6432", "changeable": False}
    pool1.kill()
    silent = commands.gather(params(pool1), False).result
    assert len(silent["unreachable_endpoints"]) == 1

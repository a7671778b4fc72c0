# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pausing real poolers: all or none, within the budget, and always undone."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.console import (
    Console,
    Endpoint,
    open_together,
    run_together,
)
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.judge import pause_obstacles
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.operations import PauseFailed, Poolers
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.read import read_facts
from ansible_collections.dbops.fleet.tests.integration import poolers as made
from ansible_collections.dbops.fleet.tests.integration.servers import Server, Servers, free_port, wait_until

WEIRD = 'we"ird db'


def endpoint(pooler: made.Pooler) -> Endpoint:
    return Endpoint(pooler.name, str(pooler.directory), pooler.port)


@contextmanager
def in_background(work: Callable[[], Any]) -> Iterator[list[Any]]:
    """Runs `work` beside the block; the list gets its result, or the error, and the seconds that it took."""
    outcome: list[Any] = []

    def run() -> None:
        started = time.monotonic()
        try:
            outcome.append(work())
        except Exception as error:
            outcome.append(error)
        outcome.append(time.monotonic() - started)

    thread = threading.Thread(target=run)
    thread.start()
    yield outcome
    thread.join(30)


def test_holds_clients_at_every_pooler_and_lets_them_go(
    pool1: made.Pooler, pool2: made.Pooler, endpoints: list[Endpoint]
) -> None:
    with Poolers.open(endpoints, ["orders"]) as poolers:
        pause = poolers.pause(2.0)
        assert pause.seconds < 1.0
        assert sorted(pause.paused) == [("pool1", "orders"), ("pool2", "orders")]
        with in_background(lambda: pool1.query("orders", "SELECT 7")) as answer:
            time.sleep(0.3)  # nothing to wait for: the point is that no answer comes
            assert not answer
            assert poolers.resume() == {"pool1": None, "pool2": None}
        assert answer[0] == 7
    assert not pool1.paused("orders")
    assert not pool2.paused("orders")


def test_an_open_transaction_makes_it_time_out_and_everything_is_resumed(
    pool1: made.Pooler, pool2: made.Pooler, endpoints: list[Endpoint]
) -> None:
    with pool1.connect("orders", application_name="nightly report") as client, client.transaction():
        client.execute("SELECT 1")
        started = time.monotonic()
        with Poolers.open(endpoints, ["orders"]) as poolers, pytest.raises(PauseFailed) as caught:
            poolers.pause(0.5)
        assert time.monotonic() - started < 1.5
        assert "nightly report" in str(caught.value)
        assert caught.value.still_paused == ()
        assert pool2.query("orders", "SELECT 1") == 1
        client.execute("SELECT 1")
    assert not pool1.paused("orders")
    assert not pool2.paused("orders")


def test_a_frozen_pooler_is_found_before_any_other_is_paused(
    pool1: made.Pooler, pool2: made.Pooler, endpoints: list[Endpoint]
) -> None:
    with Poolers.open(endpoints, ["orders"]) as poolers:
        pool2.freeze()
        with pytest.raises(PauseFailed, match="no answer from pool2") as caught:
            poolers.pause(0.5)
    assert "Nothing has been paused" in str(caught.value)
    assert not pool1.paused("orders")


def test_a_pooler_that_freezes_at_the_pause_is_resumed_when_it_is_thawed(
    pool1: made.Pooler, pool2: made.Pooler, endpoints: list[Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    def freeze_first(*_: Any) -> int:
        pool2.freeze()
        return 0

    monkeypatch.setattr(Poolers, "_wait_for_logins", freeze_first)
    with Poolers.open(endpoints, ["orders"]) as poolers, pytest.raises(PauseFailed) as caught:
        poolers.pause(0.5)
    assert caught.value.still_paused == (("pool2", "orders"),)
    assert pool1.query("orders", "SELECT 1") == 1
    pool2.thaw()
    assert pool2.query("orders", "SELECT 1") == 1
    assert not pool2.paused("orders")


def test_a_session_pool_is_an_obstacle_and_blocks_the_pause(poolers: made.Poolers, database: Server) -> None:
    place = f"host={database.address} port={database.port} dbname=orders"
    pooler = poolers.start("session", {"orders": f"{place} pool_mode=session"})
    with pooler.connect("orders") as client:
        client.execute("SELECT 1")
        facts = read_facts([endpoint(pooler)])[0]
        assert [obstacle.code for obstacle in pause_obstacles(facts, ["orders"], 5.0)] == ["session_mode"]
        assert not pause_obstacles(facts, ["orders"], 5.0, accept_session_mode=True)
        with Poolers.open([endpoint(pooler)], ["orders"]) as consoles, pytest.raises(PauseFailed):
            consoles.pause(0.3)
    assert not pooler.paused("orders")


def test_no_server_is_logged_in_to_in_a_pause_to_fill_the_pool(poolers: made.Poolers, database: Server) -> None:
    place = f"host={database.address} port={database.port} dbname=orders"
    pooler = poolers.start("filling", {"orders": place}, min_pool_size=5)

    def servers() -> int:
        return sum(row["database"] == "orders" for row in pooler.console("SHOW SERVERS"))

    def minimum() -> str:
        return next(row["value"] for row in pooler.console("SHOW CONFIG") if row["key"] == "min_pool_size")

    with pooler.connect("orders") as client:
        client.execute("SELECT 1")
        wait_until(lambda: servers() >= 5, "the pool to be filled")
        with Poolers.open([endpoint(pooler)], ["orders"]) as consoles:
            consoles.pause(2.0)
            before = pooler.log()
            time.sleep(0.8)  # PgBouncer fills pools three times a second
            # Each login that it begins to fill the pool is broken off at once, and noted in the log.
            assert "closing because: pause mode" not in pooler.log().removeprefix(before)
            consoles.resume()
        assert minimum() == "5"
        wait_until(lambda: servers() >= 5, "the pool to be filled again")


def test_database_names_are_quoted(pool1: made.Pooler) -> None:
    assert pool1.query(WEIRD, "SELECT 1") == 1
    with Poolers.open([endpoint(pool1)], [WEIRD]) as poolers:
        poolers.pause(2.0)
        assert pool1.paused(WEIRD)
        assert poolers.resume() == {"pool1": None}
        assert poolers.reconnect() == {"pool1": None}
        assert poolers.kill() == {"pool1": None}
        assert pool1.paused(WEIRD)
        assert poolers.resume() == {"pool1": None}
    assert pool1.query(WEIRD, "SELECT 1") == 1


def test_processes_that_share_a_port_are_paused_each_through_its_own_socket(
    poolers: made.Poolers, database: Server
) -> None:
    port = free_port()
    target = {"orders": f"host={database.address} port={database.port} dbname=orders"}
    both = [poolers.start(f"process{n}", target, listen_port=port, so_reuseport=1) for n in (1, 2)]
    with Poolers.open([endpoint(one) for one in both], ["orders"]) as consoles:
        consoles.pause(2.0)
        # Over TCP one reaches either process, so no client may get through however often it tries.
        with in_background(lambda: [both[0].query("orders", "SELECT 1") for _ in range(10)]) as answers:
            time.sleep(0.3)
            assert not answers
            consoles.resume()
        assert answers[0] == [1] * 10


def shown_paused(process: made.Pooler) -> bool:
    """As its own socket shows it: over TCP another process of the port may answer."""
    database = read_facts([endpoint(process)])[0].database("orders")
    return database is not None and database.paused


def sharing(poolers: made.Poolers, database: Server, number: int, entries: int = 1) -> list[made.Pooler]:
    """So many processes behind one port."""
    names = ["orders", *(f"orders{n}" for n in range(1, entries))]
    targets = dict.fromkeys(names, f"host={database.address} port={database.port} dbname=orders")
    port = free_port()
    return [poolers.start(f"process{n}", targets, listen_port=port, so_reuseport=1) for n in range(number)]


def over_the_network(process: made.Pooler) -> Endpoint:
    directory = str(process.directory)
    return Endpoint(process.name, process.address, process.port, user="operator", sslmode="disable", process=directory)


def test_processes_that_share_a_port_are_each_reached_over_the_network(poolers: made.Poolers, database: Server) -> None:
    """As many logins as a worker makes for five databases, in the time that it allows itself."""
    started = sharing(poolers, database, 4, entries=5)
    names = list(started[0].databases)
    with Poolers.open([over_the_network(one) for one in started], names, timeout_seconds=8.0) as consoles:
        consoles.pause(2.0)
        for process in started:
            assert shown_paused(process), f"{process.name} lets clients through"
        assert consoles.resume() == {one.name: None for one in started}
    assert not any(shown_paused(process) for process in started)


def test_poolers_of_one_and_of_several_processes_are_logged_in_to_together(
    poolers: made.Poolers, pool1: made.Pooler, database: Server
) -> None:
    first, second = (over_the_network(one) for one in sharing(poolers, database, 2))
    consoles = open_together([second, endpoint(pool1), first], timeout_seconds=6.0)
    assert [one.endpoint.name for one in consoles if isinstance(one, Console)] == [second.name, "pool1", first.name]
    for console in consoles:
        if isinstance(console, Console):
            console.close()


def test_a_frozen_process_does_not_keep_logins_from_the_others_of_its_port(
    poolers: made.Poolers, database: Server
) -> None:
    frozen, *well = sharing(poolers, database, 3)
    frozen.freeze()
    try:
        outcomes = open_together([over_the_network(one) for one in (frozen, *well)], timeout_seconds=6.0)
        assert isinstance(outcomes[0], OperationFailed)
        consoles = [one for one in outcomes[1:] if isinstance(one, Console)]
        assert [one.endpoint.name for one in consoles] == [one.name for one in well]
        for console in consoles:
            console.close()
    finally:
        frozen.thaw()


def test_a_process_that_is_gone_is_told_when_the_others_of_its_port_answer(
    poolers: made.Poolers, database: Server
) -> None:
    (there,) = sharing(poolers, database, 1)
    gone = replace(over_the_network(there), name="pool1/2", process="/run/pgbouncer-2")
    (outcome,) = open_together([gone], timeout_seconds=0.5)
    assert isinstance(outcome, OperationFailed)
    assert "the process of /run/pgbouncer-2" in str(outcome)
    assert f"at last the process of {there.directory} answers" in str(outcome)
    # No login is left behind at the one that answered instead.
    assert len([row for row in there.console("SHOW CLIENTS") if row["user"] == "operator"]) == 1


def test_a_pause_whose_console_was_killed_is_ended_by_resume(pool1: made.Pooler) -> None:
    with pool1.connect("orders") as client, client.transaction():
        client.execute("SELECT 1")
        (console,) = open_together([endpoint(pool1)])
        assert isinstance(console, Console)
        assert run_together([(console, "PAUSE orders")], 0.2)[0].timed_out
        console.close()
    assert pool1.paused("orders")
    with Poolers.open([endpoint(pool1)], ["orders"]) as poolers:
        assert poolers.resume() == {"pool1": None}
    assert pool1.query("orders", "SELECT 1") == 1


def test_clients_that_waited_reach_the_new_target(
    pool1: made.Pooler, pool2: made.Pooler, endpoints: list[Endpoint], servers: Servers
) -> None:
    other = servers.primary("db2")
    other.sql("CREATE DATABASE orders")
    assert pool1.query("orders", "SELECT 1") == 1
    with Poolers.open(endpoints, ["orders"]) as poolers:
        poolers.pause(2.0)
        with in_background(lambda: pool1.query("orders", "SELECT inet_server_port()")) as answer:
            for pooler in (pool1, pool2):
                pooler.databases["orders"] = f"host={other.address} port={other.port} dbname=orders"
                pooler.write()
            assert not any(poolers.reload().values())
            assert not any(poolers.wait_target("orders", other.address, other.port).values())
            assert pool1.paused("orders"), "RELOAD must not end the pause"
            wrong = poolers.wait_target("orders", other.address, 1, timeout_seconds=0.05)
            assert all("not to" in (error or "") for error in wrong.values())
            assert not any(poolers.resume().values())
        assert answer[0] == other.port
    assert [one.query("orders", "SELECT inet_server_port()") for one in (pool1, pool2)] == [other.port] * 2


class SlowServer:
    """A way to a server that lets nothing through until told: logins through it stay under way."""

    def __init__(self, target: Server) -> None:
        self.target = target
        self.opened = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self.opened.wait()
        server = socket.create_connection((self.target.address, self.target.port))
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def logins(pooler: made.Pooler) -> int:
    return sum(int(row["sv_login"]) for row in pooler.console("SHOW POOLS"))


def test_a_server_login_under_way_is_waited_for(poolers: made.Poolers, database: Server) -> None:
    slow = SlowServer(database)
    pooler = poolers.start("slow", {"orders": f"host=127.0.0.1 port={slow.port} dbname=orders"}, server_login_retry=15)
    with in_background(lambda: pooler.query("orders", "SELECT 1")) as answer:
        wait_until(lambda: logins(pooler), "a login to be under way")
        threading.Timer(0.4, slow.opened.set).start()
        with Poolers.open([endpoint(pooler)], ["orders"]) as consoles:
            pause = consoles.pause(4.0)
            consoles.resume()
        assert pause.logins_in_flight == 0
        assert 0.2 < pause.login_wait_seconds < 2.0
    # With the login broken off it would have been server_login_retry, 15 s.
    assert answer[0] == 1
    assert answer[1] < 5.0
    slow.listener.close()


def test_a_login_that_never_ends_delays_clients_by_the_retry_time_only(poolers: made.Poolers, database: Server) -> None:
    slow = SlowServer(database)
    pooler = poolers.start("slow", {"orders": f"host=127.0.0.1 port={slow.port} dbname=orders"})
    with in_background(lambda: pooler.query("orders", "SELECT 1")) as answer:
        wait_until(lambda: logins(pooler), "a login to be under way")
        with Poolers.open([endpoint(pooler)], ["orders"]) as consoles:
            pause = consoles.pause(1.0)
            slow.opened.set()
            consoles.resume()
        assert pause.logins_in_flight == 1
    assert answer[0] == 1
    assert answer[1] < 4.0
    slow.listener.close()


def test_a_wrong_password_is_said_and_leaves_nothing_open(poolers: made.Poolers, database: Server) -> None:
    pooler = poolers.make("strict", {"orders": f"host={database.address} port={database.port}"})
    pooler.settings["auth_type"] = "scram-sha-256"
    pooler.write().write_file("userlist.txt", '"operator" "right"\n')
    pooler.start()
    right = Endpoint("strict", pooler.address, pooler.port, user="operator", password="right", sslmode="disable")
    with Poolers.open([right], ["orders"]) as consoles:
        assert consoles.pause(1.0).paused
        consoles.resume()
    wrong = Endpoint("strict", pooler.address, pooler.port, user="operator", password="wr0ng", sslmode="disable")
    with pytest.raises(OperationFailed, match="strict: The admin console") as caught:
        Poolers.open([endpoint(pooler), wrong], ["orders"])
    assert "wr0ng" not in str(caught.value)
    # Without a password on the unix socket, whatever auth_type says.
    assert read_facts([endpoint(pooler)])[0].error is None


def test_an_unreachable_console_is_a_fact_and_refuses_a_pause(pool1: made.Pooler) -> None:
    nowhere = Endpoint("nowhere", "127.0.0.1", free_port(), user="operator", password="x", sslmode="disable")
    facts = read_facts([endpoint(pool1), nowhere])
    assert facts[0].error is None
    assert facts[1].endpoint == "nowhere"
    assert "refused" in (facts[1].error or "")
    with pytest.raises(OperationFailed, match="nowhere"):
        Poolers.open([endpoint(pool1), nowhere], ["orders"])
    assert not pool1.paused("orders")


def test_a_pause_of_the_whole_pooler_is_seen(pool1: made.Pooler) -> None:
    assert not read_facts([endpoint(pool1)])[0].globally_paused
    pool1.console("PAUSE")
    assert read_facts([endpoint(pool1)])[0].globally_paused
    pool1.console("RESUME")
    assert not read_facts([endpoint(pool1)])[0].globally_paused

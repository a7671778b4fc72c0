# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judgements about pausing, over facts made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.pooler.facts import (
    Database,
    Peer,
    Pool,
    PoolerFacts,
    Setting,
    is_globally_paused,
)
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.judge import (
    holding_up,
    pause_obstacles,
    target_matches,
)

ORDERS = Database.from_row({"name": "orders", "host": "10.0.0.1", "port": "5432", "database": "orders", "paused": "0"})
POOL = Pool.from_row({"database": "orders", "user": "app", "pool_mode": "transaction"})


def setting(name: str, value: str) -> Setting:
    return Setting(name, value, None, True)


GOOD = PoolerFacts(
    endpoint="pool1",
    version=(1, 18, 0),
    databases=(ORDERS,),
    pools=(POOL,),
    settings={
        name: setting(name, value)
        for name, value in {
            "pool_mode": "transaction",
            "query_wait_timeout": "120",
            "query_timeout": "0",
            "client_login_timeout": "60",
            "server_login_retry": "0.2",
        }.items()
    },
)


def with_setting(name: str, value: str) -> PoolerFacts:
    return replace(GOOD, settings={**GOOD.settings, name: setting(name, value)})


def test_a_healthy_pooler_can_be_paused() -> None:
    assert pause_obstacles(GOOD, ["orders"], 5.0) == ()


@pytest.mark.parametrize(
    ("code", "facts"),
    [
        ("unreachable", PoolerFacts("pool1", error="refused")),
        ("globally_paused", replace(GOOD, globally_paused=True)),
        ("unknown_database", replace(GOOD, databases=())),
        ("already_paused", replace(GOOD, databases=(replace(ORDERS, paused=True),))),
        ("disabled", replace(GOOD, databases=(replace(ORDERS, disabled=True),))),
        ("session_mode", replace(GOOD, databases=(replace(ORDERS, pool_mode="session"),))),
        ("session_mode", replace(GOOD, pools=(POOL, replace(POOL, user="batch", pool_mode="session")))),
        ("session_mode", replace(with_setting("pool_mode", "session"), pools=())),
        ("wait_limit", with_setting("query_wait_timeout", "14")),
        ("wait_limit", with_setting("query_timeout", "1")),
        ("wait_limit", with_setting("client_login_timeout", "5")),
        ("login_retry", with_setting("server_login_retry", "15")),
    ],
)
def test_names_each_obstacle(code: str, facts: PoolerFacts) -> None:
    obstacles = pause_obstacles(facts, ["orders"], 5.0)
    assert [obstacle.code for obstacle in obstacles] == [code]
    assert obstacles[0].endpoint == "pool1"
    assert obstacles[0].remedy


def test_session_mode_can_be_accepted() -> None:
    session = replace(GOOD, databases=(replace(ORDERS, pool_mode="session"),))
    assert pause_obstacles(session, ["orders"], 5.0, accept_session_mode=True) == ()


@pytest.mark.parametrize(
    ("database", "matches"),
    [
        (ORDERS, True),
        (replace(ORDERS, port=5433), False),
        (replace(ORDERS, host="10.0.0.1,10.0.0.2"), False),
        (None, False),
    ],
)
def test_a_target_has_to_be_exactly_this_server(database: Database | None, matches: bool) -> None:
    assert target_matches(database, "10.0.0.1", 5432) is matches


def peer(**row: Any) -> Peer:
    return Peer.from_row({"type": "C", "user": "app", "database": "orders", "state": "active", **row})


def test_says_who_holds_up_a_pause() -> None:
    server = peer(type="S", link="0x1", remote_pid="4711")
    client = peer(ptr="0x1", addr="10.0.0.9", port="41234", application_name="psql", request_time="now")
    assert holding_up([server, peer(type="S", state="idle")], [client], "orders") == (
        "app from 10.0.0.9:41234 (psql), backend 4711, since now",
    )
    assert holding_up([server], [], "orders") == ("user app, backend 4711",)
    assert holding_up([server], [client], "other") == ()


def test_reads_a_pause_of_the_whole_pooler_from_the_answer_to_a_harmless_question() -> None:
    assert is_globally_paused("already suspended/paused")
    assert not is_globally_paused("cannot pause admin db: pgbouncer")
    assert not is_globally_paused(None)


def test_columns_that_a_version_does_not_have_are_none() -> None:
    old = Database.from_row({"name": "x", "host": None, "port": "5432", "reserve_pool": "3", "paused": "1"})
    new = Database.from_row({"name": "x", "host": None, "port": "5432", "reserve_pool_size": "3", "paused": "1"})
    assert old == new
    assert old.max_connections is None
    assert old.paused

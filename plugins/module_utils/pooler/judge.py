# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judgements about pausing and about where databases point to: facts in, obstacles or sentences out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ansible_collections.dbops.fleet.plugins.module_utils.pooler.facts import Database, Peer, PoolerFacts

# Clients that wait in a pause run into these limits of PgBouncer. A pause may use a third of the lowest.
WAIT_LIMITS = ("query_wait_timeout", "query_timeout", "client_login_timeout")

# PAUSE breaks off server connections that are logging in, and after RESUME PgBouncer waits this long before it tries
# again (15 s by default): the pause of 0.1 s would last 15 s for some clients.
LONGEST_LOGIN_RETRY_SECONDS = 0.5


@dataclass(frozen=True)
class Obstacle:
    """A reason not to pause a pooler."""

    code: str
    endpoint: str
    message: str
    remedy: str


def pause_obstacles(
    facts: PoolerFacts, databases: Iterable[str], budget_seconds: float, *, accept_session_mode: bool = False
) -> tuple[Obstacle, ...]:
    """Everything that speaks against pausing these databases on this process now.

    Args:
        facts: of the process, with settings and pools.
        databases: the names of the entries in PgBouncer.
        budget_seconds: how long clients may have to wait altogether, until RESUME.
        accept_session_mode: pause databases in session mode too, although PAUSE waits until their clients leave.
    """
    if facts.error is not None:
        return (Obstacle("unreachable", facts.endpoint, facts.error, "Start PgBouncer there, or correct its console."),)
    found: list[Obstacle] = []

    def add(code: str, message: str, remedy: str) -> None:
        found.append(Obstacle(code, facts.endpoint, message, remedy))

    if facts.globally_paused:
        add("globally_paused", "The whole pooler is paused already", "Find out by whom, then RESUME at its console.")
    for name in databases:
        database = facts.database(name)
        if database is None:
            add("unknown_database", f"There is no database {name}", "Run the setup of the pooler.")
            continue
        if database.paused:
            add("already_paused", f"{name} is paused already", "Find out by whom, then run state=resumed.")
        if database.disabled:
            add("disabled", f"{name} is disabled", f"ENABLE {name} at the console.")
        if "session" in pool_modes(facts, database) and not accept_session_mode:
            add(
                "session_mode",
                f"{name} has pools in session mode, where PAUSE waits until every client has left",
                "Set pool_mode=transaction, or accept that such clients are disconnected.",
            )
    for limit in WAIT_LIMITS:
        seconds = facts.number(limit)
        if seconds and seconds < 3 * budget_seconds:
            add(
                "wait_limit",
                f"{limit} is {seconds:g} s, less than three times the budget of {budget_seconds:g} s",
                f"Raise {limit} or pause for a shorter time.",
            )
    if facts.number("server_login_retry") > LONGEST_LOGIN_RETRY_SECONDS:
        add(
            "login_retry",
            f"server_login_retry is {facts.number('server_login_retry'):g} s: after RESUME clients may wait that long",
            "Set server_login_retry = 0.2.",
        )
    return tuple(found)


def pool_modes(facts: PoolerFacts, database: Database) -> frozenset[str]:
    """The pool modes in use for a database: its own or the general one, and those that its users override it with."""
    own = database.pool_mode or facts.setting("pool_mode")
    return frozenset({own} | {p.pool_mode for p in facts.pools if p.database == database.name and p.pool_mode})


def target_matches(database: Database | None, host: str, port: int) -> bool:
    """Whether an entry points to exactly this server."""
    return database is not None and database.host == host and database.port == port


def holding_up(servers: Sequence[Peer], clients: Sequence[Peer], database: str) -> tuple[str, ...]:
    """Who keeps a PAUSE of this database waiting: the clients that server connections are bound to, as sentences."""
    by_pointer = {client.ptr: client for client in clients}
    sentences = []
    for server in servers:
        if server.database != database or server.state != "active":
            continue
        client = by_pointer.get(server.link)
        backend = f"backend {server.remote_pid}" if server.remote_pid else "its backend"
        if client is None:
            sentences.append(f"user {server.user}, {backend}")
        else:
            where = "unix socket" if client.address == "unix" else f"{client.address}:{client.port}"
            what = f" ({client.application_name})" if client.application_name else ""
            sentences.append(f"{client.user} from {where}{what}, {backend}, since {client.request_time}")
    return tuple(sentences)

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the facts of PgBouncer processes from their consoles."""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.console import (
    Console,
    Endpoint,
    Reply,
    open_together,
    run_together,
)
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.facts import (
    Database,
    Peer,
    Pool,
    PoolerFacts,
    Setting,
    is_globally_paused,
    numbers_by_database,
)
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.versions import has, parse_version


def read_facts(
    endpoints: Sequence[Endpoint], timeout_seconds: float = 5.0, *, traffic: bool = True
) -> tuple[PoolerFacts, ...]:
    """The facts of every process, in the order of `endpoints`. One that does not answer is facts with an error.

    Args:
        endpoints: the processes.
        timeout_seconds: for the logins, and again for each of the (up to eight) commands.
        traffic: also read clients, servers, statistics and lists.
    """
    outcomes = open_together(endpoints, timeout_seconds)
    consoles = [outcome for outcome in outcomes if isinstance(outcome, Console)]
    try:
        facts = iter(facts_of(consoles, timeout_seconds, traffic=traffic))
    finally:
        for console in consoles:
            console.close()
    return tuple(
        PoolerFacts(outcome.host or "", error=outcome.message) if isinstance(outcome, OperationFailed) else next(facts)
        for outcome in outcomes
    )


def facts_of(
    consoles: Sequence[Console], timeout_seconds: float = 5.0, *, traffic: bool = True
) -> tuple[PoolerFacts, ...]:
    """The same over consoles that are open. They stay open, except one that did not answer in time."""
    commands = ["SHOW VERSION", "SHOW DATABASES", "SHOW POOLS", "SHOW CONFIG"]
    if traffic:
        commands += ["SHOW CLIENTS", "SHOW SERVERS", "SHOW STATS", "SHOW LISTS"]
    answers: list[dict[str, Reply]] = [{} for _console in consoles]
    for command in commands:
        answering = [number for number, answer in enumerate(answers) if all(reply.ok for reply in answer.values())]
        replies = run_together([(consoles[number], command) for number in answering], timeout_seconds)
        for number, reply in zip(answering, replies, strict=True):
            answers[number][command] = reply
    return tuple(_assemble(console, answer, timeout_seconds) for console, answer in zip(consoles, answers, strict=True))


def _assemble(console: Console, answer: dict[str, Reply], timeout_seconds: float) -> PoolerFacts:
    name = console.endpoint.name
    for command, reply in answer.items():
        if reply.error is not None:
            return PoolerFacts(name, error=f"{command}: {reply.error}")
    rows = {command: reply.rows for command, reply in answer.items()}
    version = parse_version(rows["SHOW VERSION"][0]["version"] or "")
    return PoolerFacts(
        endpoint=name,
        version=version,
        globally_paused=_globally_paused(console, has(version, "show_state"), timeout_seconds),
        databases=tuple(Database.from_row(row) for row in rows["SHOW DATABASES"]),
        pools=tuple(Pool.from_row(row) for row in rows["SHOW POOLS"]),
        settings={row["key"] or "": Setting.from_row(row) for row in rows["SHOW CONFIG"]},
        clients=tuple(Peer.from_row(row) for row in rows.get("SHOW CLIENTS", ())),
        servers=tuple(Peer.from_row(row) for row in rows.get("SHOW SERVERS", ())),
        stats=numbers_by_database(rows.get("SHOW STATS", ())),
        lists={row["list"] or "": int(row["items"] or 0) for row in rows.get("SHOW LISTS", ())},
    )


def _globally_paused(console: Console, show_state: bool, timeout_seconds: float) -> bool:
    if show_state:
        rows = run_together([(console, "SHOW STATE")], timeout_seconds)[0].rows
        return any(row.get("key") in ("paused", "suspended") and row.get("value") == "yes" for row in rows)
    return is_globally_paused(run_together([(console, "PAUSE pgbouncer")], timeout_seconds)[0].error)

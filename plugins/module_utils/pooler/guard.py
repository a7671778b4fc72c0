# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dead-man: a program beside the pooler that ends a pause when it has lasted too long.

It runs on its own, as a copy of this one file, after the module that armed it is gone; it therefore imports nothing of
the collection. It measures from when it *sees* the pause and not from when it was armed: work before the pause can take
as long as it likes, and the time never runs out in the middle of a pause that is young.

A database whose file names another server since the work began (`staged`) is where the pause may have been cut short on
either side of a promotion. The server itself is asked: if it is a primary, PgBouncer reads its files before it resumes.

Usage: ``python3 guard.py CONFIG.json``. CONFIG: operation, uid (of the operating system user that PgBouncer runs as,
which needs no password on the unix socket; root becomes that user), endpoints (name, host = socket directory, port),
databases, staged (database to its server in the file: host, port, dbname), max_pause_seconds, lifetime_seconds.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

APPLICATION_NAME = "dbops-fleet-deadman"
POLL_SECONDS = 0.2
# Work whose databases point at the servers that were staged, and are not paused, for so long, is done, even if nobody
# came to send the dead-man home.
DONE_SECONDS = 60.0
# How long a server may take to say whether it is a primary, while clients wait.
ASK_SECONDS = 2
# PgBouncer's settings that say how it logs in to servers.
LOGIN_SETTINGS = ("auth_user", "auth_file", "server_tls_sslmode", "server_tls_ca_file")
_USERLIST_LINE = re.compile(r'"((?:[^"]|"")*)"\s+"((?:[^"]|"")*)"')


def application_name(operation: str) -> str:
    """What SHOW CLIENTS shows for the dead-man of an operation: the proof, for everyone, that it is armed."""
    return f"{APPLICATION_NAME} {operation}"


def next_step(
    since: Mapping[str, float], paused: Iterable[str], now: float, max_pause_seconds: float
) -> tuple[dict[str, float], list[str]]:
    """What to remember and what to resume.

    Args:
        since: when each paused database was first seen so.
        paused: the databases that are paused now.
        now: seconds on the clock of `since`.
        max_pause_seconds: how long a pause may last.

    Returns:
        The new `since`, and the databases whose time is up.
    """
    seen = {name: since.get(name, now) for name in paused}
    return seen, [name for name, first in seen.items() if now - first >= max_pause_seconds]


def is_done(staged: Mapping[str, Mapping[str, Any]], rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether every staged database points at its new server, and none of them is paused.

    Args:
        staged: of the configuration.
        rows: of SHOW DATABASES.
    """
    now = {row["name"]: (row["host"], str(row["port"]), str(row["paused"])) for row in rows}
    wanted = {name: (server["host"], str(server["port"]), "0") for name, server in staged.items()}
    return bool(wanted) and all(now.get(name) == place for name, place in wanted.items())


def is_primary(server: Mapping[str, Any], settings: Mapping[str, str]) -> bool:
    """Ask a server, with PgBouncer's own login for looking up users.

    Args:
        server: host, port and dbname.
        settings: LOGIN_SETTINGS of PgBouncer.

    Raises:
        psycopg.Error: it does not let PgBouncer in, or does not answer.
        OSError: the file of passwords cannot be read.
    """
    import psycopg

    parameters: dict[str, Any] = {}
    user = settings.get("auth_user") or ""
    for match in _USERLIST_LINE.finditer(Path(settings["auth_file"]).read_text() if settings.get("auth_file") else ""):
        if match[1].replace('""', '"') == user:
            parameters["password"] = match[2].replace('""', '"')
    if settings.get("server_tls_ca_file"):
        parameters["sslrootcert"] = settings["server_tls_ca_file"]
    with psycopg.connect(
        host=server["host"],
        port=server["port"],
        dbname=server["dbname"],
        user=user or None,
        sslmode=settings.get("server_tls_sslmode") or "prefer",
        application_name=APPLICATION_NAME,
        connect_timeout=ASK_SECONDS,
        options=f"-c statement_timeout={ASK_SECONDS}s",
        tcp_user_timeout=ASK_SECONDS * 1000,
        autocommit=True,
        **parameters,
    ) as connection:
        row = connection.execute("SELECT NOT pg_is_in_recovery()").fetchone()
    return row == (True,)


def watch(endpoint: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Guard the databases at one process until the work is done, or the lifetime is over and nothing is paused."""
    import psycopg

    end = time.monotonic() + config["lifetime_seconds"]
    done_at: float | None = None
    since: dict[str, float] = {}
    connection: psycopg.Connection[tuple[Any, ...]] | None = None
    while True:
        try:
            connection = connection or psycopg.connect(
                host=endpoint["host"],
                port=endpoint["port"],
                user="pgbouncer",
                dbname="pgbouncer",
                application_name=application_name(config["operation"]),
                connect_timeout=10,
                autocommit=True,
                prepare_threshold=None,  # the console knows no prepared statements
            )
            rows = _rows(connection, "SHOW DATABASES")
            since = _look_and_resume(connection, endpoint, config, since, rows)
            done_at = (done_at or time.monotonic()) if is_done(config.get("staged", {}), rows) else None
        except psycopg.Error as error:
            _say(f"{endpoint['name']}: {error}")
            if connection is not None:
                connection.close()
            connection = None
        if done_at is not None and time.monotonic() >= done_at + DONE_SECONDS:
            return
        if time.monotonic() >= end and (connection is None or not since):
            return
        time.sleep(POLL_SECONDS)


def _look_and_resume(
    connection: Any,
    endpoint: Mapping[str, Any],
    config: Mapping[str, Any],
    since: Mapping[str, float],
    rows: list[dict[str, Any]],
) -> dict[str, float]:
    paused = [row["name"] for row in rows if str(row["paused"]) == "1" and row["name"] in config["databases"]]
    seen, overdue = next_step(since, paused, time.monotonic(), config["max_pause_seconds"])
    points_at = {row["name"]: (row["host"], str(row["port"])) for row in rows}
    moved = [name for name in overdue if _has_moved(connection, config, name, points_at[name])]
    if moved:
        _say(f"{endpoint['name']}: reading the files, which name the new primary of {', '.join(moved)}")
        connection.execute("RELOAD")
    for name in overdue:
        _say(f"{endpoint['name']}: {name} was paused for more than {config['max_pause_seconds']} s; resuming it")
        connection.execute('RESUME "' + name.replace('"', '""') + '"')
        del seen[name]  # if it is seen paused again, that is another pause
    return seen


def _has_moved(connection: Any, config: Mapping[str, Any], name: str, points_at: tuple[str, str]) -> bool:
    """Whether the server that the file names for a database is another one than now, and a primary."""
    import psycopg

    server = config.get("staged", {}).get(name)
    if server is None or points_at == (server["host"], str(server["port"])):
        return False
    settings = {row["key"]: row["value"] for row in _rows(connection, "SHOW CONFIG") if row["key"] in LOGIN_SETTINGS}
    try:
        return is_primary(server, settings)
    except (psycopg.Error, OSError) as error:
        _say(f"{name}: {server['host']}:{server['port']} does not say that it is a primary: {error}")
        return False


def _rows(connection: Any, command: str) -> list[dict[str, Any]]:
    cursor = connection.execute(command)
    columns = [column.name for column in cursor.description]
    return [dict(zip(columns, row, strict=True)) for row in cursor]


def _say(message: str) -> None:
    sys.stderr.write(message.strip() + "\n")
    sys.stderr.flush()


def main() -> None:
    """Guard every process in a thread of its own: one that is frozen does not keep the others waiting."""
    import psycopg  # noqa: F401 - while this user can still read it

    config = json.loads(Path(sys.argv[1]).read_text())
    if os.geteuid() == 0:
        os.setgroups([])
        os.setuid(config["uid"])
    threads = [threading.Thread(target=watch, args=(endpoint, config)) for endpoint in config["endpoints"]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()

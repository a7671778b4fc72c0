# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The database that bench_backup.py backs up: a quarter each of pgbench, prose, noise (which nothing
compresses) and jsonb.

The same seed gives the same rows each time. Nothing sets hint bits or vacuums behind the benchmark's back: what
differs between two backups is what `change` did.
"""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import psycopg

from ansible_collections.dbops.fleet.tests.integration.servers import Server, Servers

SEED = 20261121
# Bytes on disk of one row with its index entries; of pgbench a unit of scale.
ACCOUNTS_BYTES, PROSE_BYTES, NOISE_BYTES, EVENT_BYTES = 15_000_000, 1_270, 2_070, 365
LINES = 20_000

# As a server of this size would have it. Autovacuum would change pages at moments of its own.
SETTINGS = {"autovacuum": "off", "fsync": "on", "max_wal_size": "4GB", "shared_buffers": "256MB"}


def filled(servers: Servers, gigabytes: float) -> Server:
    """A running primary with so much data, `archive_mode` on and an `archive_command` that archives nothing yet.

    It is loaded with wal_level minimal, under which a table that is filled where it is made writes no WAL.
    """
    server = servers.server("db1").initdb(wal_level="minimal", max_wal_senders="0", **SETTINGS).start()
    quarter = gigabytes * 1e9 / 4
    with ThreadPoolExecutor(4) as loaders:
        done = [
            loaders.submit(_accounts, server, max(1, round(quarter / ACCOUNTS_BYTES))),
            loaders.submit(_prose, server, round(quarter / PROSE_BYTES)),
            loaders.submit(_noise, server, round(quarter / NOISE_BYTES)),
            loaders.submit(_events, server, round(quarter / EVENT_BYTES)),
        ]
        for one in done:
            one.result()
    server.configure(wal_level="replica", max_wal_senders="10", archive_mode="on", archive_command="/bin/true")
    if server.version >= 17:
        server.configure(summarize_wal="on")  # for pg_basebackup --incremental
    return server.restart()


def size(server: Server) -> int:
    """Bytes of all databases."""
    return int(server.value("SELECT sum(pg_database_size(oid)) FROM pg_database"))


def change(server: Server, turn: int) -> None:
    """Update one range of 1 % of the rows of each table, another one each turn."""
    for table, key, column, value in (
        ("pgbench_accounts", "aid", "abalance", "abalance + 1"),
        ("prose", "id", "body", "reverse(body)"),
        ("noise", "id", "body", "substr(body, 2)"),
        ("events", "id", "document", "document || jsonb_build_object('changed', now())"),
    ):
        rows = int(server.value(f"SELECT max({key}) FROM {table}"))
        first = turn % 90 * rows // 100
        server.sql(f"UPDATE {table} SET {column} = {value} WHERE {key} > {first} AND {key} <= {first + rows // 100}")


def _accounts(server: Server, scale: int) -> None:
    # g: made in the server.
    login = ("-h", str(server.socket_directory), "-p", str(server.port), "-U", "postgres")
    server.run("pgbench", "--initialize", "--init-steps=dtGp", f"--scale={scale}", "--quiet", *login)


def _prose(server: Server, rows: int) -> None:
    """Every row is two of many lines of words, in an order in which a pair does not come again."""
    chosen = random.Random(SEED)
    words = ["".join(chosen.choices("etaoinshrdlucmfw", k=chosen.randint(2, 11))) for _ in range(6000)]
    with psycopg.connect(server.conninfo()) as connection:
        connection.execute("CREATE TEMP TABLE line (id int PRIMARY KEY, words text)")
        with connection.cursor().copy("COPY line FROM STDIN") as copy:
            for number in range(LINES):
                copy.write_row((number, " ".join(chosen.choices(words, k=78))))
        connection.execute("ANALYZE line")
        connection.execute("CREATE TABLE prose (id bigint, body text)")
        connection.execute(
            "INSERT INTO prose SELECT i, first.words || '. ' || second.words "
            "FROM generate_series(1::bigint, %(rows)s) i "
            "JOIN line first ON first.id = i * 7919 %% %(lines)s "
            "JOIN line second ON second.id = (i * 3571 + i / %(lines)s) %% %(lines)s",
            {"rows": rows, "lines": LINES},
        )
        connection.execute("ALTER TABLE prose ADD PRIMARY KEY (id)")


def _noise(server: Server, rows: int) -> None:
    chosen = random.Random(SEED)
    with psycopg.connect(server.conninfo()) as connection:
        connection.execute("CREATE TABLE noise (id bigint, body bytea)")
        with connection.cursor().copy("COPY noise FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["int8", "bytea"])
            for number in range(1, rows + 1):
                copy.write_row((number, chosen.randbytes(1960)))  # four to a page, none out of line
        connection.execute("ALTER TABLE noise ADD PRIMARY KEY (id)")


def _events(server: Server, rows: int) -> None:
    with psycopg.connect(server.conninfo()) as connection:
        connection.execute("CREATE TABLE events (id bigint, document jsonb)")
        connection.execute(
            "INSERT INTO events SELECT i, jsonb_build_object('id', i, 'kind', 'event ' || i %% 17, 'amount', "
            "i %% 9973, 'customer', md5((i %% 50021)::text), 'token', md5(i::text), "
            "'at', timestamptz '2026-01-01' + i * interval '1 second', "
            "'place', jsonb_build_object('city', 'city ' || i %% 311, 'x', i %% 180, 'y', i %% 90)) "
            "FROM generate_series(1, %s) i",
            (rows,),
        )
        connection.execute("ALTER TABLE events ADD PRIMARY KEY (id)")

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The oracle: one server is archived and backed up by this collection and by Debian's pgBackRest, under a load of many
kinds. Both restore to the same target, and what comes back has to be the same: where replay ended, and every database.

DBOPS_SEED=N repeats the order of the load.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
import random
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from ansible_collections.dbops.fleet.tests.benchmarks.backup_contenders import PgBackRest
from ansible_collections.dbops.fleet.tests.benchmarks.backup_places import Place
from ansible_collections.dbops.fleet.tests.integration.repository.engine import Engine, directory
from ansible_collections.dbops.fleet.tests.integration.servers import Server, Servers, wait_until

pytestmark = pytest.mark.skipif(shutil.which("pgbackrest") is None, reason="apt-get install pgbackrest")

SCHEMA = """
CREATE TABLE orders (id bigserial PRIMARY KEY, words text, at timestamptz DEFAULT clock_timestamp());
CREATE INDEX ON orders (words);
CREATE TABLE documents (id int PRIMARY KEY, content text);
ALTER TABLE documents ALTER content SET STORAGE EXTERNAL;
CREATE TABLE elsewhere (id int PRIMARY KEY, words text) TABLESPACE space;
CREATE TABLE parted (id int, words text) PARTITION BY HASH (id);
CREATE TABLE parted_0 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 1) TABLESPACE space;
CREATE TABLE emptied (i int);
CREATE UNLOGGED TABLE unlogged (i int);
CREATE SEQUENCE numbers;
CREATE MATERIALIZED VIEW many AS SELECT count(*) FROM orders;
CREATE ROLE clerk LOGIN PASSWORD 'of a test';
"""
# Every kind of data and of change that a backup could treat in its own way. {n} is the number of the act, {turn} that
# of the turn in which each of them is done once, {old} the last turn but one.
ACTS = (
    "INSERT INTO orders (words) SELECT md5(({n} * i)::text) FROM generate_series(1, 200) i",
    "UPDATE orders SET words = md5('{n}' || words) WHERE id % 7 = {n} % 7",
    "DELETE FROM orders WHERE id % 11 = {n} % 11",
    "BEGIN; INSERT INTO orders (words) VALUES ('never'); SAVEPOINT s; DELETE FROM documents; ROLLBACK",
    "INSERT INTO documents SELECT {n}, string_agg(md5(({n} * i)::text), '') FROM generate_series(1, 2000) i",
    "SELECT lo_from_bytea(0, convert_to(repeat(md5('{n}'), 300), 'UTF8')) FROM generate_series(1, 2)",
    "SELECT lo_unlink(oid) FROM (SELECT oid FROM pg_largeobject_metadata ORDER BY oid LIMIT 1) oldest",
    "SELECT nextval('numbers') FROM generate_series(1, 40)",
    "INSERT INTO unlogged SELECT generate_series(1, 100)",
    "INSERT INTO elsewhere SELECT {n} * 100 + i, md5(i::text) FROM generate_series(1, 99) i",
    "ALTER TABLE elsewhere SET TABLESPACE pg_default",
    "ALTER TABLE elsewhere SET TABLESPACE space",
    "INSERT INTO parted SELECT {n} * 100 + i, md5(i::text) FROM generate_series(1, 99) i",
    "INSERT INTO emptied SELECT generate_series(1, 100)",
    "TRUNCATE emptied",
    "CREATE TABLE made_{turn} AS SELECT i, md5(i::text) AS words FROM generate_series(1, 500) i",
    "DROP TABLE made_{old}",
    "BEGIN; CREATE TABLE never (i int); INSERT INTO never VALUES (1); ROLLBACK",
    "BEGIN; INSERT INTO orders (words) VALUES ('prepared {n}'); PREPARE TRANSACTION 'yes {turn}'",
    "BEGIN; INSERT INTO orders (words) VALUES ('prepared {n}'); PREPARE TRANSACTION 'no {turn}'",
    "COMMIT PREPARED 'yes {old}'",
    "ROLLBACK PREPARED 'no {old}'",
    "VACUUM (FREEZE) orders",
    "REFRESH MATERIALIZED VIEW many",
    "REINDEX TABLE documents",
    "CREATE DATABASE made_{turn}",
    "DROP DATABASE made_{old}",
    "SELECT pg_switch_wal()",
    "CHECKPOINT",
)
NUMBERS = itertools.count(1)
IN_ANOTHER_DATABASE = "INSERT INTO t SELECT {n}, md5({n}::text) FROM generate_series(1, 50)"


class Load:
    """Does one act after the other, each turn in another order.

    Attributes:
        done: so many acts.
        failure: why it ended early.
    """

    def __init__(self, server: Server, seed: int) -> None:
        self.server = server
        self.chance = random.Random(seed)
        self.done = 0
        self.failure: BaseException | None = None
        self.stopping = threading.Event()

    def __enter__(self) -> Load:
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.thread.join()

    def goes_on(self, turns: float) -> None:
        """Wait until so many more turns are done."""
        target = self.done + turns * len(ACTS)
        wait_until(lambda: self.done >= target or self.failure, f"{turns} turns of the load", 120)
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            with (
                # Several statements at once cannot be prepared.
                psycopg.connect(self.server.conninfo(), autocommit=True, prepare_threshold=None) as here,
                psycopg.connect(self.server.conninfo("another"), autocommit=True, prepare_threshold=None) as there,
            ):
                while not self.stopping.is_set():
                    turn = self.done // len(ACTS)
                    for act in self.chance.sample(ACTS, len(ACTS)):
                        self.done += 1
                        if turn > 1 or "{old}" not in act:
                            here.execute(act.format(n=self.done, turn=turn, old=turn - 2))
                        there.execute(IN_ANOTHER_DATABASE.format(n=self.done))
                        time.sleep(0.005)  # so that what is compared stays small
        except psycopg.Error as error:
            self.failure = error


@dataclass
class World:
    """Both tools' backups and archives of one server.

    Attributes:
        marks: kind of target -> its value, taken while the load went on.
        first: our full backup; the second is incremental.
        truth: what the server had in the end.
    """

    servers: Servers
    engine: Engine
    pgbackrest: PgBackRest
    space: Path
    first: str
    marks: dict[str, str] = field(default_factory=dict)
    truth: str = ""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    seed = int(os.environ.get("DBOPS_SEED", time.time_ns() % 1_000_000))
    print(f"DBOPS_SEED={seed}")
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(Servers())
        server = servers.primary(
            "db1", archive_mode="on", archive_command="/bin/false", wal_level="replica", max_prepared_transactions="20"
        )
        ours = {"name": "local", "type": "directory", "path": str(directory(servers.root / "ours"))}
        engine = stack.enter_context(Engine(servers, server, [ours]))
        engine.dbops("init")
        engine.use_archive_command()
        engine.start_archiver()
        space = directory(servers.root / "space")
        server.sql(f"CREATE TABLESPACE space LOCATION '{space}'")
        server.sql(SCHEMA)
        server.sql("CREATE DATABASE another")
        server.sql("CREATE TABLE t (i int, words text)", dbname="another")
        pgbackrest = PgBackRest(servers, server, Place(directory(servers.root / "theirs")))
        pgbackrest.prepare()
        # A segment counts when both have it.
        both = f"( {server.settings['archive_command']} ) && {pgbackrest.archive_command}"
        server.configure(archive_command=both).reload()
        wait_until(lambda: server.value("SHOW archive_command") == both, "the archive_command of both")
        with Load(server, seed) as load:
            load.goes_on(3)
            (first,) = engine.json("backup", "--full")
            pgbackrest.run(pgbackrest.full())
            load.goes_on(2)
            (second,) = engine.json("backup")
            assert second["incremental"]
            made = World(servers, engine, pgbackrest, space, first["id"])
            load.goes_on(0.5)
            # With a load beside it, each is in the middle of something.
            made.marks["name"] = "in the middle"
            server.sql("SELECT pg_create_restore_point('in the middle')")
            load.goes_on(1.3)
            made.marks["time"] = server.value("SELECT clock_timestamp() AT TIME ZONE 'UTC'").isoformat(" ") + "+00"
            load.goes_on(1.2)
            made.marks["xid"] = str(server.value("SELECT pg_current_xact_id()"))
            load.goes_on(1.4)
            made.marks["lsn"] = str(server.value("SELECT pg_current_wal_insert_lsn()"))
            load.goes_on(1)
        engine.archive()
        made.marks["latest"] = ""
        made.truth = content(server)
        yield made


def settle(server: Server) -> list[tuple[str, str]]:
    """Commit what is prepared, so that a dump shows it too; what it was."""
    prepared = server.sql("SELECT gid, transaction::text FROM pg_prepared_xacts ORDER BY gid")
    for gid, _transaction in prepared:
        server.sql(f"COMMIT PREPARED '{gid}'")
    return prepared


def content(server: Server) -> str:
    """Roles, tablespaces and everything in all databases, as text. What is prepared is committed first."""
    settle(server)
    options = ("-h", str(server.socket_directory), "-p", str(server.port), "-U", "postgres", "--no-unlogged-table-data")
    text = server.run("pg_dumpall", *options).stdout
    text = re.sub(r"(?m)^\\(un)?restrict .*\n", "", text)
    return re.sub(r"LOCATION '.*'", "LOCATION", text)


def differences(one: str, other: str) -> list[str]:
    """A few lines that only one of them has; short where whole texts would be long."""
    return list(difflib.unified_diff(one.splitlines(), other.splitlines(), "one", "other", n=0, lineterm=""))[:20]


@dataclass
class Copy:
    """What a restore has made.

    Attributes:
        ended: timeline and position at which it left the timeline of the backup.
        prepared: transactions, with their numbers.
        content: see there.
    """

    server: Server
    ended: str
    prepared: list[tuple[str, str]]
    content: str


def copy(world: World, server: Server) -> Copy:
    """Start what was restored, wait until its recovery has ended, and look at all of it."""
    own = {"unix_socket_directories": str(server.socket_directory), "port": str(server.port), "archive_mode": "off"}
    server.settings = {**world.engine.server.settings, **own}
    server.configure().start()
    wait_until(lambda: not server.value("SELECT pg_is_in_recovery()"), f"{server.name} to end its recovery", 60)
    (history,) = (server.data / "pg_wal").glob("*.history")
    assert server.value("SELECT count(*) FROM unlogged") == 0
    made = Copy(server, " ".join(history.read_text().split()[:2]), settle(server), content(server))
    options = ("--all", "-h", str(server.socket_directory), "-p", str(server.port), "-U", "postgres")
    server.run("pg_amcheck", *options, "--install-missing")
    server.stop()
    server.run("pg_checksums", "--check", "--pgdata", str(server.data))
    return made


def restored_by_us(world: World, kind: str, *more: str) -> Copy:
    server = world.servers.server(f"ours-{next(NUMBERS)}", version=world.engine.server.version)
    target = [kind, world.marks[kind]] if world.marks[kind] else [kind]
    words = ("restore", "--to", str(server.data), "--action", "scratch", "--target", *target)
    moved = ("--tablespace", f"{world.space}={directory(server.directory / 'space')}")
    world.engine.dbops(*words, *moved, *more)
    return copy(world, server)


def restored_by_pgbackrest(world: World, kind: str) -> Copy:
    server = world.servers.server(f"theirs-{next(NUMBERS)}", version=world.engine.server.version)
    words = [*world.pgbackrest.restore(server.data), f"--tablespace-map=space={directory(server.directory / 'space')}"]
    if world.marks[kind]:
        words += [f"--type={kind}", f"--target={world.marks[kind]}", "--target-action=promote"]
    world.pgbackrest.run(words)
    return copy(world, server)


@pytest.mark.parametrize(
    "kind", ["name", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("time", "xid", "lsn", "latest"))]
)
def test_what_we_restore_is_what_pgbackrest_restores(world: World, kind: str) -> None:
    ours, theirs = restored_by_us(world, kind), restored_by_pgbackrest(world, kind)
    assert ours.ended == theirs.ended
    assert ours.prepared == theirs.prepared
    assert ours.prepared
    assert differences(ours.content, theirs.content) == []
    if kind == "latest":
        # Sequences are logged ahead, so after any recovery they have skipped a few numbers.
        known, back = (re.sub(r"(?m)^SELECT pg_catalog.setval.*\n", "", text) for text in (world.truth, ours.content))
        assert differences(known, back) == []
    else:
        assert differences(world.truth, ours.content) != []


@pytest.mark.slow
def test_our_full_backup_and_the_incremental_one_behind_it_restore_the_same(world: World) -> None:
    first, second = restored_by_us(world, "lsn", "--backup", world.first), restored_by_us(world, "lsn")
    assert first.ended == second.ended
    assert differences(first.content, second.content) == []

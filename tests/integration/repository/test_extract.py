# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A database, a schema or tables out of a base backup of a real server, and into it again beside what is there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.dbops.fleet.tests.integration.repository.engine import Engine, clean, directory
from ansible_collections.dbops.fleet.tests.integration.servers import wait_until

SHOP = """
create schema shop;
create type shop.state as enum ('open', 'paid');
create table shop.customer (id int primary key, name text);
create table shop.invoice (
  id bigint generated always as identity primary key,
  customer int not null references shop.customer,
  state shop.state not null default 'open',
  note text);
create index on shop.invoice (customer);
create table shop.line (
  invoice bigint references shop.invoice, position serial, day date, primary key (invoice, position, day)
) partition by range (day);
create table shop.line_2026 partition of shop.line for values from ('2026-01-01') to ('2027-01-01');
create table shop.audit (at timestamptz default now(), what text);
create function shop.note() returns trigger language plpgsql as
  $$ begin insert into shop.audit (what) values (tg_op); return new; end $$;
create trigger noted after insert on shop.invoice for each row execute function shop.note();
create view shop.open_invoice as select * from shop.invoice where state = 'open';
insert into shop.customer select i, 'customer ' || i from generate_series(1, 20) i;
insert into shop.invoice (customer, note) select 1 + i % 20, repeat('x', 3000) || i from generate_series(1, 500) i;
insert into shop.line (invoice, day) select i, '2026-05-05' from generate_series(1, 500) i;
"""
CONTENT = "select count(*), sum(id), md5(string_agg(note, ',' order by id)) from {}.invoice"


@pytest.fixture
def lost(engine: Engine) -> tuple[Engine, Path, str, list[Any]]:
    """A shop in database orders, backed up, changed, then a table dropped: engine, scratch place, the moment before."""
    engine.server.sql("create database orders")
    engine.server.sql(SHOP, dbname="orders")
    engine.dbops("backup")
    engine.server.sql("insert into shop.invoice (customer, note) values (7, 'after the backup')", dbname="orders")
    moment = str(engine.server.value("select clock_timestamp()"))
    rows = engine.server.sql(CONTENT.format("shop"), dbname="orders")
    engine.server.sql("drop table shop.invoice cascade", dbname="orders")
    engine.rows(1)
    engine.archive()
    return engine, directory(engine.servers.root / "scratch"), moment, rows


def extract(engine: Engine, scratch: Path, *options: str, status: int = 0) -> Any:
    words = ("--json", "extract", "--scratch", str(scratch), "--database", "orders", *options)
    done = engine.dbops(*words, status=status)
    return done.stderr if status else json.loads(done.stdout)


def at(moment: str) -> tuple[str, ...]:
    return "--target", "time", moment


def test_a_dropped_table_comes_back_in_a_new_schema_with_its_rows(lost: tuple[Engine, Path, str, list[Any]]) -> None:
    engine, scratch, moment, rows = lost
    before = set(engine.objects("*/wal/**/*"))
    table = ("--schema", "shop", "--table", "invoice", *at(moment))
    plan = extract(engine, scratch, *table, "--dry-run")
    assert (plan["what"], plan["new_schema"]) == ("shop.invoice of orders", "shop_restored")
    assert list(scratch.iterdir()) == []
    dump = extract(engine, scratch, *table)
    assert list(scratch.iterdir()) == []
    notes = " ".join(dump["origin"]["notes"])
    assert "foreign key invoice_customer_fkey of shop.invoice to shop.customer was left out" in notes
    assert "trigger noted of shop.invoice was left out" in notes
    report = engine.json("dump", "restore", "--dump", dump["id"])
    assert (report["into"], report["schema"], report["tables"]) == ("orders", "shop_restored", 1)
    assert engine.server.sql(CONTENT.format("shop_restored"), dbname="orders") == rows
    # Indexes, identity and the type of the live schema came along.
    indexes = "select count(*) from pg_indexes where schemaname = 'shop_restored'"
    assert engine.server.value(indexes, dbname="orders") == 2
    insert = "insert into shop_restored.invoice (customer) values (1) returning id > 501 and state = 'open'"
    assert engine.server.value(insert, dbname="orders")
    # The trigger did not fire for it.
    assert engine.server.value("select count(*) from shop.audit", dbname="orders") == rows[0][0]
    # The copy archived nothing, and its timeline is unknown to the repository.
    assert not [path for path in set(engine.objects("*/wal/**/*")) - before if "/00000001/" not in str(path)]
    # Asked for again it is known; another one is not loaded over it.
    assert engine.json("dump", "restore", "--dump", dump["id"])["tables"] == 1
    assert engine.server.value("select count(*) from shop_restored.invoice", dbname="orders") == rows[0][0] + 1
    other = extract(engine, scratch, *table)
    told = engine.dbops("dump", "restore", "--dump", other["id"], status=1).stderr
    assert "has a schema shop_restored already" in told


def test_a_partitioned_table_comes_with_its_partitions_and_a_partition_alone_without_its_parent(
    lost: tuple[Engine, Path, str, list[Any]],
) -> None:
    engine, scratch, moment, _rows = lost
    dump = extract(engine, scratch, "--schema", "shop", "--table", "line", "--into-schema", "whole", *at(moment))
    assert engine.json("dump", "restore", "--dump", dump["id"])["tables"] == 2
    assert engine.server.value("select count(*) from whole.line", dbname="orders") == 500
    words = ("--schema", "shop", "--table", "line_2026", "--table", "customer", "--into-schema", "part", *at(moment))
    dump = extract(engine, scratch, *words)
    assert "shop.line_2026 is no part of shop.line any more" in dump["origin"]["notes"]
    assert engine.json("dump", "restore", "--dump", dump["id"])["tables"] == 2
    assert engine.server.value("select count(*) from part.line_2026", dbname="orders") == 500


def test_a_whole_schema_and_a_whole_database_come_back_beside_the_real_ones(
    lost: tuple[Engine, Path, str, list[Any]],
) -> None:
    engine, scratch, moment, rows = lost
    dump = extract(engine, scratch, "--schema", "shop", *at(moment))
    assert dump["origin"]["notes"] == []
    assert engine.json("dump", "restore", "--dump", dump["id"])["tables"] == 5
    assert engine.server.sql(CONTENT.format("shop_restored"), dbname="orders") == rows
    dump = extract(engine, scratch, *at(moment))
    assert engine.json("dump", "restore", "--dump", dump["id"])["into"] == "orders_restored"
    assert engine.server.sql(CONTENT.format("shop"), dbname="orders_restored") == rows
    assert engine.server.value("select count(*) from shop.open_invoice", dbname="orders_restored") == rows[0][0]


def test_what_is_not_there_is_named_with_what_is_and_the_copy_goes_away(
    lost: tuple[Engine, Path, str, list[Any]],
) -> None:
    engine, scratch, moment, _rows = lost
    told = extract(engine, scratch, "--schema", "shop", "--table", "invoices", *at(moment), status=1)
    assert "no table invoices in schema shop" in told
    assert "audit, customer, invoice, line" in told
    assert "cannot be reached" in extract(engine, scratch, *at("2020-01-01 00:00:00+00"), status=1)
    assert list(scratch.iterdir()) == []
    assert engine.json("dump", "list") == []


def test_a_killed_extraction_lists_nothing_and_the_next_one_stops_its_server_and_finishes(
    lost: tuple[Engine, Path, str, list[Any]],
) -> None:
    engine, scratch, moment, rows = lost
    words = ("extract", "--scratch", str(scratch), "--database", "orders", "--schema", "shop", *at(moment))
    running = subprocess.Popen(engine.command(*words), env=clean(), start_new_session=True)
    pid_file = scratch / "dbops-extract" / "data" / "postmaster.pid"
    wait_until(pid_file.exists, "the scratch server")
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert engine.json("dump", "list") == []
    dump = extract(engine, scratch, "--schema", "shop", *at(moment))
    assert list(scratch.iterdir()) == []
    assert engine.json("dump", "restore", "--dump", dump["id"])["tables"] == 5
    assert engine.server.sql(CONTENT.format("shop_restored"), dbname="orders") == rows
    assert not [path for path in Path("/proc").glob("[0-9]*/cwd") if _points_into(path, scratch)]


def _points_into(link: Path, directory: Path) -> bool:
    try:
        return str(link.readlink()).startswith(str(directory))
    except OSError:
        return False

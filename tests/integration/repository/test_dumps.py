# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Logical dumps of a real server: taken, listed, checked, kept, loaded again, and broken off."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

import pytest

from ansible_collections.dbops.fleet.tests.integration.repository.engine import Engine, clean
from ansible_collections.dbops.fleet.tests.integration.servers import Servers, wait_until

ODD = 'Ünlucky "name" = x'


@pytest.fixture
def filled(engine: Engine) -> Engine:
    """Two databases with an owner, settings and privileges of their own."""
    sql = engine.server.sql
    sql("create role seller login password 'an old secret'")
    sql("create role reader")
    sql("create database orders owner seller encoding 'LATIN1' lc_collate 'C' lc_ctype 'C' template template0")
    sql('alter database orders set search_path to "$user", public, pg_catalog')
    sql("alter database orders set work_mem to '7MB'")
    sql("revoke all on database orders from public")
    sql("grant connect on database orders to reader")
    sql("create table invoice (id int primary key, what text)", dbname="orders")
    sql("alter table invoice owner to seller", dbname="orders")
    sql("insert into invoice select i, md5(i::text) from generate_series(1, 20000) i", dbname="orders")
    sql(f'create database "{ODD.replace(chr(34), chr(34) * 2)}"')
    sql("create table t as select 7 as i", dbname=ODD)
    return engine


def take(engine: Engine, *options: str) -> dict[str, Any]:
    (entry,) = engine.json("dump", "take", *options)
    return dict(entry)


def databases(engine: Engine) -> set[str]:
    return {row[0] for row in engine.server.sql("select datname from pg_database where not datistemplate")}


def test_all_databases_and_globals_are_dumped_and_listed(filled: Engine) -> None:
    entry = take(filled)
    assert [one["name"] for one in entry["databases"]] == ["orders", "postgres", ODD]
    assert (entry["globals"], entry["passwords"], entry["source"]) == (True, False, "primary")
    (listed,) = filled.json("dump", "list")
    assert listed["id"] == entry["id"]
    assert listed["series"] == "all databases"
    assert filled.json("list") == []
    globals_ = filled.dbops("dump", "get", "--globals").stdout
    assert "CREATE ROLE seller" in globals_
    assert "SCRAM-SHA-256" not in globals_


def test_passwords_are_in_the_globals_only_when_asked_for(filled: Engine) -> None:
    take(filled, "--globals-only", "--role-passwords")
    assert "SCRAM-SHA-256" in filled.dbops("dump", "get", "--globals").stdout


def test_a_dump_comes_back_under_a_new_name_with_all_that_it_had(filled: Engine) -> None:
    entry = take(filled, "--database", "orders")
    told = filled.json("dump", "restore", "--dry-run")
    assert databases(filled) == {"orders", "postgres", ODD}
    report = filled.json("dump", "restore")
    assert {name: report[name] for name in told} == told
    assert (report["into"], report["dump"], report["tables"]) == ("orders_restored", entry["id"], 1)
    query = (
        "select pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datconnlimit, "
        "(select array_to_string(setconfig, ';') from pg_db_role_setting where setdatabase = d.oid), "
        "has_database_privilege('reader', d.oid, 'connect'), "
        "(select count(*) from aclexplode(datacl) where grantee = 0) from pg_database d where datname = %s"
    )
    assert filled.server.sql(query, "orders_restored") == filled.server.sql(query, "orders")
    rows = "select count(*), sum(id), md5(string_agg(what, ',' order by id)) from invoice"
    restored = filled.server.sql(rows, dbname="orders_restored")
    assert restored == filled.server.sql(rows, dbname="orders")
    owner = "select tableowner from pg_tables where tablename = 'invoice'"
    assert filled.server.value(owner, dbname="orders_restored") == "seller"


def test_a_database_that_exists_is_never_loaded_over_and_moved_aside_only_when_asked(filled: Engine) -> None:
    entry = take(filled)
    filled.server.sql("drop table t", dbname=ODD)
    words = ("dump", "restore", "--database", ODD, "--into", ODD)
    assert "exists already" in filled.dbops(*words, status=1).stderr
    assert databases(filled) == {"orders", "postgres", ODD}
    report = filled.json(*words, "--replace")
    assert report["moved_aside"] == f"{ODD}_before_{entry['id']}"
    assert filled.server.value("select i from t", dbname=ODD) == 7
    assert databases(filled) == {"orders", "postgres", ODD, report["moved_aside"]}


def test_a_load_that_fails_leaves_nothing_behind(filled: Engine) -> None:
    take(filled, "--database", "orders")
    filled.server.sql("reassign owned by seller to postgres", dbname="orders")
    filled.server.sql("alter database orders owner to postgres")
    filled.server.sql("drop role seller")
    before = databases(filled)
    assert "does not exist here" in filled.dbops("dump", "restore", status=1).stderr
    filled.server.sql("create role seller")
    filled.server.sql("drop owned by reader; drop role reader")
    told = filled.dbops("dump", "restore", status=1).stderr
    assert 'role "reader" does not exist' in told
    assert databases(filled) == before
    assert filled.json("dump", "restore", "--no-owners")["tables"] == 1


def test_a_table_that_stays_locked_ends_the_dump_and_nothing_is_listed(filled: Engine) -> None:
    import psycopg

    filled.configure(dump={"lock_wait_seconds": 0.5})
    with psycopg.connect(filled.server.conninfo("orders")) as locking:
        locking.execute("lock table invoice in access exclusive mode")
        told = filled.dbops("dump", "take", status=1).stderr
    assert "Somebody has locked a table" in told
    assert filled.json("dump", "list") == []


def test_an_unknown_database_is_refused_with_those_that_there_are(filled: Engine) -> None:
    assert "There are: orders, postgres" in filled.dbops("dump", "take", "--database", "order", status=1).stderr


def test_a_killed_dump_leaves_nothing_listed_and_no_session(filled: Engine) -> None:
    import psycopg

    filled.configure(dump={"lock_wait_seconds": 60})
    with psycopg.connect(filled.server.conninfo("orders")) as locking:
        locking.execute("lock table invoice in access exclusive mode")
        dump = subprocess.Popen(filled.command("dump", "take"), env=clean(), start_new_session=True)
        waiting = (
            "select count(*) from pg_stat_activity where application_name = 'dbops dump' and wait_event = 'relation'"
        )
        wait_until(lambda: filled.server.value(waiting), "pg_dump to wait")
        os.killpg(dump.pid, signal.SIGKILL)
        dump.wait()
    wait_until(
        lambda: not filled.server.value("select count(*) from pg_stat_activity where application_name like 'dbops%'"),
        "the sessions to end",
    )
    assert filled.json("dump", "list") == []
    assert filled.dbops("dump", "list").stdout.count("not complete") == 1
    assert take(filled)["id"]


def test_a_killed_load_leaves_the_name_free_and_the_next_one_cleans_up(filled: Engine) -> None:
    take(filled, "--database", "orders")
    load = subprocess.Popen(filled.command("dump", "restore"), env=clean(), start_new_session=True)
    wait_until(lambda: any(name.startswith("dbops_loading_") for name in databases(filled)), "the load")
    os.killpg(load.pid, signal.SIGKILL)
    load.wait()
    assert "orders_restored" not in databases(filled)
    assert filled.json("dump", "restore")["tables"] == 1
    assert databases(filled) == {"orders", "postgres", ODD, "orders_restored"}


def test_an_unchanged_database_is_hardly_sent_again(filled: Engine) -> None:
    filled.server.sql(
        "insert into invoice select i, md5(i::text) from generate_series(20001, 120000) i", dbname="orders"
    )
    first = take(filled, "--database", "orders")
    second = take(filled, "--database", "orders")
    assert first["size"] == second["size"] > 4 << 20
    assert second["sent"] < first["sent"] / 2
    assert filled.json("verify", second["id"])["good"]


def test_the_check_and_verify_find_a_flipped_bit_in_a_dump_and_retention_stops_there(filled: Engine) -> None:
    first = take(filled)
    second = take(filled, "--database", "orders", "--no-globals")
    assert filled.json("check", "--all")["problems"] == []
    pack = filled.objects(f"*/backup/{first['id']}/pack-*")[0]
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    report = filled.json("check", "--all", status=1)
    assert report["bad_backups"] == [first["id"]]
    assert not filled.json("verify", first["id"], status=1)["good"]
    assert filled.json("verify", second["id"])["good"]
    told = filled.json("expire")["local"]
    assert told["keep"][first["id"]] == ["the newest dump of its series is bad"]
    assert "no sound dump" in filled.dbops("dump", "restore", "--database", "postgres", status=1).stderr


def test_retention_counts_each_series_and_packs_that_are_needed_stay(filled: Engine) -> None:
    others = {"daily": 0, "weekly": 0, "monthly": 0, "verified": 0, "count": 1}
    filled.configure(dump_retention=others)
    old = take(filled, "--database", "orders")
    everything = take(filled)
    new = take(filled, "--database", "orders")
    told = filled.json("expire", "--dry-run")["local"]
    assert told["remove"] == [old["id"]]
    assert filled.json("expire")["local"] == told
    assert {one["id"] for one in filled.json("dump", "list")} == {everything["id"], new["id"]}
    assert filled.json("verify", new["id"])["good"]
    filled.dbops("pin", new["id"], "--reason", "before the audit")
    newest = take(filled, "--database", "orders")
    assert filled.json("expire")["local"]["remove"] == []
    filled.dbops("dump", "remove", newest["id"])
    assert newest["id"] not in {one["id"] for one in filled.json("dump", "list")}
    filled.dbops("expire")
    assert filled.json("check", "--all")["problems"] == []


def test_the_timed_job_dumps_on_the_primary_and_the_watch_sees_its_age(filled: Engine, servers: Servers) -> None:
    jobs = filled.config_file.with_name("backup-jobs.json")
    jobs.write_text('{"limits": {"dump_hours": 26}}')
    filled.dbops("backup")
    assert "no dump yet" in filled.dbops("job", "watch").stderr
    replica = filled.sibling(servers.replica("db2", filled.server))
    assert "this is a standby" in replica.json("job", "dump")["message"]
    assert filled.json("job", "dump")["outcome"] == "done"
    assert filled.json("job", "dump")["outcome"] == "elsewhere"  # not again within six hours
    assert "all is well" in filled.dbops("job", "watch").stdout


def test_a_standby_can_be_dumped_too_but_not_loaded_into(filled: Engine, servers: Servers) -> None:
    replica = filled.sibling(servers.replica("db2", filled.server))
    replica.server.wait_for_replay(filled.server)
    assert take(replica, "--database", "orders")["source"] == "standby"
    assert "is a standby" in replica.dbops("dump", "restore", status=1).stderr
    assert filled.json("dump", "restore")["tables"] == 1

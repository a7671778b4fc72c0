# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Retention, verification, repository check, drill and metrics against real backups."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.tests.integration.repository.engine import Engine, clean, directory
from ansible_collections.dbops.fleet.tests.integration.servers import Servers, wait_until

ONE = {"daily": 0, "weekly": 0, "monthly": 0, "window_days": 0, "verified": 0}


def backup(engine: Engine, *options: str) -> dict[str, Any]:
    (entry,) = engine.json("backup", *options)
    return dict(entry)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_dry_run_of_retention_equals_the_run_and_what_stays_can_be_restored(engine: Engine) -> None:
    engine.rows(2)
    first = backup(engine)
    engine.rows(2)
    engine.archive()
    second = backup(engine)
    engine.rows(2)
    third = backup(engine)
    engine.archive()
    engine.configure(retention=ONE)
    before = engine.objects()
    told = engine.json("expire", "--dry-run")["local"]
    assert engine.objects() == before
    assert told["remove"] == [first["id"], second["id"]]
    assert engine.json("expire")["local"] == told
    assert [one["id"] for one in engine.json("list")] == [third["id"]]
    assert len(before) - len(engine.objects()) == told["objects"] - 1  # the mark of the horizon is new
    assert engine.json("expire")["local"]["objects"] == 0
    assert engine.json("wal", "status")["problems"] == []
    target = directory(engine.servers.root / "to") / "data"
    assert engine.json("restore", "--to", str(target), "--action", "scratch")["backup"] == third["id"]
    assert engine.json("verify")["good"]


def test_a_pinned_backup_stays_with_its_wal_while_newer_ones_go(engine: Engine) -> None:
    engine.rows(1)
    first = backup(engine)
    engine.rows(1)
    engine.archive()
    second = backup(engine)
    engine.rows(1)
    third = backup(engine)
    engine.dbops("pin", first["id"], "--reason", "before the audit")
    engine.configure(retention=ONE)
    told = engine.json("expire")["local"]
    assert told["remove"] == [second["id"]]
    assert told["keep"][first["id"]] == ["pinned"]
    assert engine.json("verify", first["id"])["good"]
    target = directory(engine.servers.root / "to") / "data"
    words = ("--action", "scratch", "--target", "immediate", "--backup", first["id"])
    engine.dbops("restore", "--to", str(target), *words)
    engine.dbops("unpin", first["id"])
    assert engine.json("expire")["local"]["remove"] == [first["id"]]
    assert [one["id"] for one in engine.json("list")] == [third["id"]]


def test_a_damaged_backup_is_found_marked_and_keeps_retention_from_deleting(engine: Engine) -> None:
    engine.rows(1)
    backup(engine)
    engine.rows(1)
    second = backup(engine, "--full")
    assert engine.json("check", "--all")["problems"] == []
    flip(engine.objects(f"*/backup/{second['id']}/pack-*")[0])
    report = engine.json("check", "--all", status=1)
    assert report["bad_backups"] == [second["id"]]
    engine.configure(retention=ONE)
    assert "nothing is deleted" in engine.dbops("expire", status=1).stderr
    third = backup(engine)
    base = next(one for one in engine.json("list") if one["id"] == third["id"])
    assert second["id"] not in base["packs"]


def test_a_damaged_segment_is_found_by_the_check_and_by_verify(engine: Engine) -> None:
    engine.rows(1)
    entry = backup(engine)
    engine.rows(1)
    name = engine.archive()
    flip(engine.wal_objects(name)[0])
    assert name in engine.json("check", "--all", status=1)["problems"][0]
    assert engine.json("verify")["good"]  # the backup itself does not need that segment
    start = f"{1:08X}{0:08X}{int(entry['start_lsn'].split('/')[1], 16) // (16 << 20):08X}"
    flip(engine.wal_objects(start)[0])
    assert not engine.json("verify", status=1)["good"]


def test_seven_days_see_every_object(engine: Engine) -> None:
    engine.rows(1)
    entry = backup(engine)
    flip(engine.objects(f"*/backup/{entry['id']}/pack-*")[0])
    found = [engine.dbops("check", "--parts", "1", status=1)]
    assert "pack-000001" in found[0].stdout


def test_a_drill_restores_checks_and_records_what_it_measured(engine: Engine) -> None:
    engine.rows(5)
    entry = backup(engine)
    scratch = directory(engine.servers.root / "scratch")
    words = ("--scratch", str(scratch), "--check", "postgres", "SELECT count(*) = 5 FROM t")
    record = engine.json("drill", *words)
    assert record["good"]
    assert record["backup"] == entry["id"]
    assert record["figures"]["rto_seconds"] > 0
    assert list(scratch.iterdir()) == []
    assert not engine.objects("*/wal/history/*")
    wrong = engine.json("drill", *words[:2], "--check", "postgres", "SELECT count(*) = 6 FROM t", status=1)
    assert "is not true of the restored copy" in wrong["message"]
    assert engine.json("list")[0]["verified"]["good"] is False


def test_a_drill_waits_for_no_standby_of_the_cluster_that_it_copies(engine: Engine) -> None:
    engine.rows(1)
    # In postgresql.auto.conf, which the backup has too; the running server is not told.
    engine.server.sql("ALTER SYSTEM SET synchronous_standby_names = 'db2'")
    backup(engine)
    scratch = directory(engine.servers.root / "scratch")
    assert engine.json("drill", "--scratch", str(scratch))["good"]


def test_what_a_killed_drill_leaves_is_removed_by_the_next_and_a_running_one_is_left_alone(
    engine: Engine, servers: Servers
) -> None:
    engine.rows(1)
    backup(engine)
    scratch = directory(engine.servers.root / "scratch")
    words = ("drill", "--scratch", str(scratch))
    process = subprocess.Popen(
        engine.command(*words, "--check", "postgres", "SELECT pg_sleep(600) IS NOT NULL"),
        env=clean(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def checking() -> list[Path]:
        return [
            path for path in scratch.glob("*/data/postmaster.pid") if not (path.parent / "dbops-restore.json").exists()
        ]

    try:
        wait_until(checking, "the checks of the copy", 60)
        (pid_file,) = checking()
        outlived = Path("/proc") / pid_file.read_text().split("\n", 1)[0]
        assert "Another drill of this instance is running" in engine.dbops(*words, status=1).stderr
        # That of another instance in the same place goes on beside it, and does not touch it.
        with engine.sibling(servers.replica("db2", of=engine.server)) as other:
            assert other.json(*words)["good"]
        assert outlived.exists()
        assert pid_file.exists()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert outlived.exists()
    assert engine.json(*words)["good"]
    assert not outlived.exists()
    assert list(scratch.iterdir()) == []


def test_the_metrics_say_when_things_last_went_well(engine: Engine) -> None:
    engine.rows(1)
    backup(engine)
    engine.json("verify")
    target = engine.home / "spool" / "dbops.prom"
    engine.dbops("metrics", "--file", str(target))
    lines = dict(line.rsplit(" ", 1) for line in target.read_text().splitlines() if not line.startswith("#"))
    labels = '{cluster="orders",repository="local"}'
    assert float(lines[f"dbops_backups{labels}"]) == 1
    assert float(lines[f"dbops_backup_last_verified_time_seconds{labels}"]) > 1e9
    assert float(lines[f"dbops_wal_gaps{labels}"]) == 0
    assert oct(os.stat(target).st_mode)[-3:] == "644"


def test_what_a_broken_backup_left_is_swept_up_after_a_day(engine: Engine) -> None:
    engine.rows(1)
    entry = backup(engine)
    listing = engine.objects(f"*/catalog/{entry['id']}.json")[0]
    listing.unlink()  # as if it had been killed before its last two acts
    engine.objects(f"*/backup/{entry['id']}/entry.json")[0].unlink()
    second = backup(engine, "--full")
    engine.json("expire")
    assert engine.objects(f"*/backup/{entry['id']}/*")
    for path in engine.objects(f"*/backup/{entry['id']}/*"):
        os.utime(path, (1, 1))
    engine.json("expire")
    assert not engine.objects(f"*/backup/{entry['id']}/*")
    assert [one["id"] for one in engine.json("list")] == [second["id"]]

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Base backups and restores, with a real server and the installed command."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.tests.integration.repository.engine import Engine, clean, directory
from ansible_collections.dbops.fleet.tests.integration.servers import Server, Servers, wait_until


def fill(server: Server, rows: int = 20000) -> None:
    server.sql("CREATE TABLE filler (i int PRIMARY KEY, words text)")
    server.sql(
        f"INSERT INTO filler SELECT i, md5(i::text) || repeat(md5((i*7)::text), 5) FROM generate_series(1, {rows}) i"
    )


# Most of the tests' clusters still run.
PROMOTE = ("--action", "promote", "--confirm", "orders")


def started(engine: Engine, path: Path, name: str = "restored") -> Server:
    """A restored data directory, started as an ordinary server."""
    server = engine.servers.server(name, version=engine.server.version)
    path.rename(server.data)
    own = {"unix_socket_directories": str(server.socket_directory), "port": str(server.port), "archive_mode": "off"}
    server.settings = {**engine.server.settings, **own}
    server.configure()
    return server.start()


def place(engine: Engine) -> Path:
    return directory(engine.servers.root / "to") / "data"


def content(server: Server) -> list[tuple[int]]:
    return server.sql("SELECT i FROM t ORDER BY i")


def test_the_newest_state_comes_back_complete(engine: Engine) -> None:
    fill(engine.server)
    engine.rows(5)
    (entry,) = engine.json("backup")
    engine.rows(5)
    engine.archive()
    report = engine.json("restore", "--to", str(place(engine)), *PROMOTE)
    assert report["backup"] == entry["id"]
    assert report["ended"] == "at the target"
    assert report["new_timeline"] == 2
    server = started(engine, place(engine))
    assert content(server) == content(engine.server)
    assert server.value("SELECT count(*) FROM filler") == 20000
    assert not server.value("SELECT pg_is_in_recovery()")
    server.run(
        "pg_amcheck", "--all", "-h", str(server.socket_directory), "-p", str(server.port), "-U", "postgres", check=False
    )
    assert engine.objects("*/wal/history/00000002.history-*")


def test_a_restored_backup_passes_pg_verifybackup(engine: Engine) -> None:
    fill(engine.server)
    engine.dbops("backup")
    engine.dbops("restore", "--to", str(place(engine)), "--action", "standby")
    ignored = ["standby.signal", "postgresql.auto.conf"]
    options = [word for name in ignored for word in ("--ignore", name)]
    done = engine.server.run("pg_verifybackup", "--no-parse-wal", *options, str(place(engine)))
    assert "successfully verified" in done.stdout


def test_a_time_is_restored_to_the_commit_before_it(engine: Engine) -> None:
    engine.rows(3)
    engine.dbops("backup")
    engine.rows(4)
    time.sleep(0.05)  # between two commit times
    moment = engine.server.value("SELECT clock_timestamp()::text")
    time.sleep(0.05)
    engine.rows(5)
    engine.archive()
    zoned = moment if moment[-6] in "+-" else f"{moment}:00"
    report = engine.json("restore", "--to", str(place(engine)), "--target", "time", zoned)
    assert report["ended"] == "at the target"
    assert len(content(started(engine, place(engine)))) == 7


def test_lsn_xid_name_and_immediate_stop_where_they_say(engine: Engine) -> None:
    engine.rows(2)
    engine.dbops("backup")
    engine.rows(1)
    lsn = engine.server.value("SELECT pg_current_wal_lsn()::text")
    engine.server.sql("BEGIN; INSERT INTO t VALUES (100); COMMIT")
    xid = engine.server.value("SELECT xmin::text FROM t WHERE i = 100")
    engine.rows(1)
    engine.server.sql("SELECT pg_create_restore_point('before the deployment')")
    engine.rows(2)
    engine.archive()
    expected = {"immediate": 2, f"lsn {lsn}": 3, f"xid {xid}": 4, "name before the deployment": 5}
    for number, (target, rows) in enumerate(expected.items()):
        words = target.split(" ", 1)
        engine.dbops("restore", "--to", str(place(engine)), "--action", "scratch", "--target", *words)
        server = started(engine, place(engine), f"restored{number}")
        assert len(content(server)) == rows, target
        server.stop()


def test_a_target_that_does_not_come_up_is_a_failure_and_not_a_promotion(engine: Engine) -> None:
    engine.rows(2)
    engine.dbops("backup")
    engine.rows(1)
    engine.archive()
    done = engine.dbops("restore", "--to", str(place(engine)), "--target", "name", "nobody made this", status=1)
    assert "did not come" in done.stderr
    assert (place(engine) / "standby.signal").exists()


def test_what_cannot_be_reached_is_refused_before_the_disk_is_touched(engine: Engine) -> None:
    early = engine.server.value("SELECT clock_timestamp()::text") + ":00"
    engine.rows(1)
    engine.dbops("backup")
    for target in (["time", early], ["time", "2099-01-01 00:00:00Z"], ["lsn", "0/100"], ["lsn", "FF/0"]):
        told = engine.dbops("restore", "--to", str(place(engine)), "--target", *target, status=1).stderr
        assert "What can be reached: from" in told, target
    assert (
        "has no zone" in engine.dbops("restore", "--to", "/x", "--target", "time", "2099-01-01 00:00", status=1).stderr
    )
    assert not place(engine).exists()


def test_a_dry_run_tells_the_plan_and_writes_nothing(engine: Engine) -> None:
    engine.rows(1)
    (entry,) = engine.json("backup")
    plan = engine.json("restore", "--to", str(place(engine)), "--dry-run")
    assert plan["backup"] == entry["id"]
    assert not place(engine).exists()


def test_an_occupied_place_is_refused(engine: Engine) -> None:
    engine.rows(1)
    engine.dbops("backup")
    other = directory(engine.servers.root / "other")
    (other / "precious").write_text("do not lose this")
    assert "is not empty" in engine.dbops("restore", "--to", str(other), status=1).stderr
    assert "is no data directory" in engine.dbops("restore", "--to", str(other), "--delta", status=1).stderr
    running = str(engine.server.data)
    assert "A server runs in" in engine.dbops("restore", "--to", running, "--delta", status=1).stderr
    assert (other / "precious").read_text() == "do not lose this"


def test_the_second_backup_sends_only_what_changed(engine: Engine) -> None:
    fill(engine.server, 100000)
    engine.server.sql("VACUUM FREEZE filler")
    (first,) = engine.json("backup")
    engine.server.sql("UPDATE filler SET words = 'changed' WHERE i <= 100")
    (second,) = engine.json("backup")
    assert not first["incremental"]
    assert second["incremental"]
    assert second["sent"] < first["sent"] / 3
    for path in engine.objects(f"*/backup/{second['id']}/pack-*"):
        assert path.stat().st_size
    engine.dbops("restore", "--to", str(place(engine)))
    server = started(engine, place(engine))
    assert server.value("SELECT count(*) FROM filler WHERE words = 'changed'") == 100


def test_a_delta_restore_fetches_only_what_differs_and_removes_the_rest(engine: Engine) -> None:
    fill(engine.server, 50000)
    engine.dbops("backup")
    first = engine.json("restore", "--to", str(place(engine)), "--action", "scratch")
    relation = engine.server.value("SELECT pg_relation_filepath('filler')")
    damaged = place(engine) / relation
    with damaged.open("r+b") as file:
        file.seek(100000)
        file.write(b"\0" * 5000)
    (place(engine) / "base" / "stray").write_text("from another life")
    report = engine.json("restore", "--to", str(place(engine)), "--action", "scratch", "--delta")
    assert report["fetched"] < first["fetched"] / 2
    assert report["removed"] >= 1
    assert not (place(engine) / "base" / "stray").exists()
    assert started(engine, place(engine)).value("SELECT count(*) FROM filler") == 50000


def test_tablespaces_come_back_elsewhere(engine: Engine) -> None:
    space = directory(engine.servers.root / "space one")
    engine.server.sql(f"CREATE TABLESPACE extra LOCATION '{space}'")
    engine.server.sql("CREATE TABLE far (i int) TABLESPACE extra")
    engine.server.sql("INSERT INTO far SELECT generate_series(1, 1000)")
    engine.dbops("backup")
    assert "is not empty" in engine.dbops("restore", "--to", str(place(engine)), status=1).stderr
    elsewhere = engine.servers.root / "to" / "space two"
    engine.dbops("restore", "--to", str(place(engine)), "--tablespace", f"{space}={elsewhere}")
    server = started(engine, place(engine))
    assert server.value("SELECT count(*) FROM far") == 1000
    assert server.value("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'extra'") == str(
        elsewhere
    )


def far(engine: Engine) -> Path:
    """A table in a tablespace of its own; where that is."""
    space = directory(engine.servers.root / "space one")
    engine.server.sql(f"CREATE TABLESPACE extra LOCATION '{space}'")
    engine.server.sql("CREATE TABLE far TABLESPACE extra AS SELECT generate_series(1, 1000) AS i")
    engine.server.sql("CHECKPOINT")
    return space


def test_a_restore_that_is_tried_again_without_its_tablespaces_leaves_those_of_the_running_server_alone(
    engine: Engine,
) -> None:
    space = far(engine)
    engine.dbops("backup")
    engine.archive()
    to, elsewhere = place(engine), engine.servers.root / "to" / "space two"
    mapping = ("--tablespace", f"{space}={elsewhere}")
    engine.dbops("restore", "--to", str(to), *mapping, "--target", "name", "nobody made this", status=1)
    before = {path: path.lstat().st_mtime_ns for path in space.rglob("*")}
    told = engine.dbops("restore", "--to", str(to), "--delta", status=1).stderr
    assert f"{space} is not empty" in told
    assert "--tablespace" in told
    # Neither does a copy of the data directory whose link leads to it make it the copy's own.
    (link,) = (to / "pg_tblspc").iterdir()
    link.unlink()
    link.symlink_to(space)
    told = engine.dbops("restore", "--to", str(to), "--delta", status=1).stderr
    assert f"{space} belongs to the server that runs in {engine.server.data}" in told
    assert {path: path.lstat().st_mtime_ns for path in space.rglob("*")} == before
    engine.dbops("restore", "--to", str(to), *mapping, "--delta")
    assert started(engine, to).value("SELECT count(*) FROM far") == 1000
    assert engine.server.value("SELECT count(*) FROM far") == 1000


def test_a_damaged_cluster_is_restored_over_itself_with_its_tablespaces(engine: Engine) -> None:
    far(engine)
    engine.rows(3)
    relation = engine.server.data / engine.server.value("SELECT pg_relation_filepath('far')")
    engine.dbops("backup")
    engine.archive()
    engine.server.stop()
    relation.write_bytes(b"rust" * 2048)
    report = engine.json("restore", "--to", str(engine.server.data), "--delta")
    assert report["reused"] > report["fetched"]
    engine.server.configure(archive_mode="off").start()
    assert engine.server.value("SELECT count(*) FROM far") == 1000
    assert len(content(engine.server)) == 3


def test_the_server_of_a_killed_restore_is_stopped_by_the_next(engine: Engine) -> None:
    engine.rows(1)
    engine.dbops("backup")
    engine.archive()
    engine.rows(3)
    # Replay waits for a segment that cannot be read, so that the restore can be killed while its server runs.
    (last,) = engine.wal_objects(engine.archive())
    whole = last.read_bytes()
    last.write_bytes(whole[:-1])
    to = place(engine)
    command = engine.command("restore", "--to", str(to))
    process = subprocess.Popen(
        command, env=clean(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_until(lambda: (to / "postmaster.pid").exists(), "the private server", 60)
    outlived = int((to / "postmaster.pid").read_text().split("\n", 1)[0])
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    last.write_bytes(whole)
    assert Path(f"/proc/{outlived}").exists()
    engine.dbops("restore", "--to", str(to), "--delta", "--dry-run")
    assert Path(f"/proc/{outlived}").exists()
    engine.dbops("restore", "--to", str(to), "--delta")
    assert not Path(f"/proc/{outlived}").exists()
    assert len(content(started(engine, to))) == 4


def test_debians_configuration_is_part_of_the_backup(engine: Engine) -> None:
    etc = directory(engine.home / "etc")
    (directory(etc / "conf.d") / "50-fleet.conf").write_text("work_mem = '7MB'\n")
    engine.configure(configuration_directory=str(etc))
    engine.dbops("backup")
    target = engine.servers.root / "to" / "etc"
    place(engine)
    engine.dbops("restore", "--to", str(place(engine)), "--action", "standby", "--configuration", str(target))
    assert (target / "conf.d" / "50-fleet.conf").read_text() == "work_mem = '7MB'\n"


def test_a_backup_comes_from_a_replica_too(engine: Engine, servers: Servers) -> None:
    fill(engine.server)
    engine.rows(3)
    replica = servers.replica("db2", of=engine.server)
    engine.archive()
    replica.wait_for_replay(engine.server)
    replica.sql("CHECKPOINT")
    with engine.sibling(replica) as other:
        (entry,) = other.json("backup", "--wal-timeout", "20")
    assert entry["source"] == "standby"
    engine.rows(2)
    engine.archive()
    engine.dbops("restore", "--to", str(place(engine)))
    assert len(content(started(engine, place(engine)))) == 5


@pytest.mark.parametrize("seconds", [0.3, 0.6, 0.9, 1.3])
def test_a_killed_backup_leaves_nothing_listed_and_nothing_held(engine: Engine, seconds: float) -> None:
    fill(engine.server, 100000)
    engine.configure(backup={"max_rate_kb": 8192})
    process = subprocess.Popen(
        engine.command("backup"),
        env=clean(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(seconds)  # a moment in the middle, whichever
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert engine.json("list") == []
    query = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'"
    wait_until(lambda: engine.server.value(query) == 0, "the server to end the backup")
    engine.configure(backup={})
    engine.dbops("backup")
    assert len(engine.json("list")) == 1


def test_a_killed_restore_cannot_be_started_and_carries_on(engine: Engine) -> None:
    fill(engine.server, 100000)
    engine.rows(3)
    engine.dbops("backup")
    command = engine.command("restore", "--to", str(place(engine)))
    process = subprocess.Popen(
        command, env=clean(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_until((place(engine) / "dbops-restore.json").exists, "the restore to begin")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if not (place(engine) / "global" / "pg_control").exists():
        assert engine.server.run("postgres", "-D", str(place(engine)), check=False).returncode != 0
    report = engine.json("restore", "--to", str(place(engine)), "--delta")
    assert report["ended"] == "at the target"
    assert len(content(started(engine, place(engine)))) == 3


def test_a_backup_whose_wal_never_arrives_is_not_listed(engine: Engine) -> None:
    engine.server.configure(archive_command="/bin/true").reload()
    wait_until(lambda: engine.server.value("SHOW archive_command") == "/bin/true", "the lie")
    engine.rows(1)
    told = engine.dbops("backup", "--wal-timeout", "3", status=1).stderr
    assert "did not arrive" in told
    assert engine.json("list") == []


def test_a_flipped_bit_in_a_pack_is_named_and_the_target_cannot_be_started(engine: Engine) -> None:
    fill(engine.server)
    engine.dbops("backup")
    pack = engine.objects("*/backup/*/pack-000001")[0]
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    told = engine.dbops("restore", "--to", str(place(engine)), status=1).stderr
    assert "pack-000001" in told
    assert not (place(engine) / "global" / "pg_control").exists()


def test_a_restored_primary_archives_on_its_new_timeline_and_can_be_restored_again(engine: Engine) -> None:
    engine.rows(2)
    engine.dbops("backup")
    engine.rows(2)
    engine.archive()
    engine.dbops("restore", "--to", str(place(engine)), *PROMOTE)
    engine.server.stop()
    server = started(engine, place(engine))
    server.configure(archive_mode="on").restart()
    with engine.sibling(server) as second:
        second.use_archive_command()
        second.rows(3)
        second.archive()
        report = second.json("restore", "--to", str(place(engine)), "--action", "scratch")
        assert report["timeline"] == 2
        assert len(content(started(second, place(engine), "third"))) == 7


def test_a_copy_that_is_promoted_beside_its_cluster_is_refused_and_does_not_hide_what_comes_later(
    engine: Engine,
) -> None:
    engine.rows(2)
    engine.dbops("backup")
    engine.archive()
    told = engine.dbops("restore", "--to", str(place(engine)), "--action", "promote", status=1).stderr
    assert "so it may be running" in told
    assert "--confirm orders" in told
    assert "is that of cluster orders" in (
        engine.dbops("restore", "--to", str(place(engine)), *PROMOTE[:-1], "stock", status=1).stderr
    )
    assert not place(engine).exists()
    copy = directory(engine.servers.root / "copy") / "data"
    assert engine.json("restore", "--to", str(copy), *PROMOTE)["new_timeline"] == 2
    engine.rows(3)
    engine.archive()
    report = engine.json("restore", "--to", str(place(engine)))
    assert report["timeline"] == 1
    assert len(content(started(engine, place(engine)))) == 5


def test_after_a_rewind_the_newest_state_is_that_of_no_timeline_until_one_is_named(engine: Engine) -> None:
    engine.rows(2)
    (before,) = engine.json("backup")
    engine.server.sql("SELECT pg_create_restore_point('good')")
    engine.rows(2)
    engine.archive()
    engine.dbops("backup", "--full")
    engine.archive()
    engine.dbops("restore", "--to", str(place(engine)), *PROMOTE, "--target", "name", "good", "--backup", before["id"])
    engine.server.stop()
    server = started(engine, place(engine))
    server.configure(archive_mode="on").restart()
    with engine.sibling(server) as second:
        second.use_archive_command()
        second.rows(5)
        second.archive()
        told = second.dbops("restore", "--to", str(place(engine)), status=1).stderr
        assert "cannot be told" in told
        assert "timeline 2 or 1" in told
        second.dbops("restore", "--to", str(place(engine)), "--timeline", "2")
        assert len(content(started(second, place(engine), "third"))) == 7
        second.dbops("backup")
        assert second.json("restore", "--to", str(place(engine)), "--dry-run")["timeline"] == 2


def test_every_repository_is_told_of_the_timeline_of_a_promotion_and_one_that_is_away_is_named(engine: Engine) -> None:
    away = directory(engine.servers.root / "away")
    second = {"name": "second", "type": "directory", "path": str(away)}
    engine.configure(repositories=[*engine.settings["repositories"], second])
    engine.dbops("init")
    engine.rows(1)
    engine.dbops("backup")
    engine.archive()
    first_try = directory(engine.servers.root / "first") / "data"
    assert engine.json("restore", "--to", str(first_try), *PROMOTE)["warnings"] == []
    assert list(away.glob("*/wal/history/00000002.history-*.zst"))
    away.rename(away.with_name("gone"))
    report = engine.json("restore", "--to", str(place(engine)), *PROMOTE)
    assert report["new_timeline"] == 3
    (told,) = report["warnings"]
    assert "Repository second was not told of timeline 3" in told
    assert engine.objects("*/wal/history/00000003.history-*.zst")

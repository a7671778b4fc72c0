# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List 5.2: base backups, restores and retention. Real servers on loopback and a directory repository.

Elsewhere, in tests/integration/repository/: a backup killed at several moments (32), archiving that breaks (35), a
flipped bit in a pack (39), restores into what is occupied or runs (42), a restore that was killed once (43),
restore_command (46, test_wal_archive.py), targets out of reach (48), drills that leave no trace (52), a lost key (54),
what broken backups leave (56), pins (59). In unit tests: clocks (55) and timelines (49) in test_retention.py and
test_targets.py. By Molecule: modules run twice (51), one table out of a backup (63).

Not had: 41, because there are no chains of increments that could be broken.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.dbops.fleet.tests.integration.repository.engine import Engine, clean, directory
from ansible_collections.dbops.fleet.tests.integration.servers import Server, Servers, wait_until

# Slow enough for something to happen in the middle.
THROTTLED = {"max_rate_kb": 8192}


@pytest.fixture
def servers() -> Iterator[Servers]:
    with Servers() as made:
        yield made


@pytest.fixture
def engine(servers: Servers) -> Iterator[Engine]:
    with Engine.with_primary(servers) as made:
        yield made


def fill(server: Server, rows: int = 100000) -> None:
    server.sql("CREATE TABLE filler (i int PRIMARY KEY, words text)")
    server.sql(f"INSERT INTO filler SELECT i, repeat(md5(i::text), 6) FROM generate_series(1, {rows}) i")


def place(engine: Engine, name: str = "to") -> Path:
    return directory(engine.servers.root / name) / "data"


def started(engine: Engine, path: Path, name: str) -> Server:
    """A restored data directory, started as an ordinary server."""
    server = engine.servers.server(name, version=engine.server.version)
    path.rename(server.data)
    own = {"unix_socket_directories": str(server.socket_directory), "port": str(server.port), "archive_mode": "off"}
    server.settings = {**engine.server.settings, **own}
    server.configure()
    return server.start()


def background(engine: Engine, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        engine.command(*arguments),
        env=clean(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def sending(engine: Engine) -> bool:
    return bool(
        engine.server.value("SELECT count(*) FROM pg_stat_progress_basebackup WHERE phase = 'streaming database files'")
    )


def running_backup(engine: Engine) -> subprocess.Popen[str]:
    """A throttled backup that is in the middle of its files."""
    engine.configure(backup=THROTTLED)
    process = background(engine, "backup")
    wait_until(lambda: sending(engine) or process.poll() is not None, "the backup to send files", 60)
    assert process.poll() is None, process.communicate()
    return process


def kill(process: subprocess.Popen[Any]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def dump(server: Server) -> str:
    """Everything that is in it, as text."""
    options = ("-h", str(server.socket_directory), "-p", str(server.port), "-U", "postgres", "--no-comments")
    text = server.run("pg_dumpall", *options).stdout
    return "\n".join(line for line in text.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))


# Backups


@pytest.mark.parametrize("how", ["walsender", "server"])
def test_33_a_backup_that_loses_its_server_fails_and_the_one_before_stays(engine: Engine, how: str) -> None:
    fill(engine.server)
    (first,) = engine.json("backup")
    engine.server.sql("UPDATE filler SET words = words || 'x'")
    process = running_backup(engine)
    if how == "walsender":
        engine.server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_progress_basebackup")
    else:
        engine.server.restart("immediate")
    _out, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "The server" in told
    assert [one["id"] for one in engine.json("list")] == [first["id"]]
    engine.configure(backup={})
    engine.dbops("backup")
    assert len(engine.json("list")) == 2


def test_34_a_standby_that_is_promoted_under_its_backup_fails_it(engine: Engine, servers: Servers) -> None:
    fill(engine.server)
    replica = servers.replica("db2", of=engine.server)
    replica.wait_for_replay(engine.server)
    with engine.sibling(replica) as other:
        process = running_backup(other)
        replica.promote()
        _out, told = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "promoted" in told
    assert engine.json("list") == []


def test_37_tables_that_come_go_and_grow_under_a_backup_are_right_after_replay(engine: Engine) -> None:
    fill(engine.server)
    engine.server.sql("CREATE TABLE dropped AS SELECT generate_series(1, 50000) AS i")
    engine.server.sql("CREATE TABLE truncated AS SELECT generate_series(1, 50000) AS i")
    process = running_backup(engine)
    engine.server.sql("DROP TABLE dropped")
    engine.server.sql("TRUNCATE truncated")
    engine.server.sql("CREATE TABLE born AS SELECT generate_series(1, 50000) AS i")
    engine.server.sql("INSERT INTO filler SELECT i, repeat(md5(i::text), 6) FROM generate_series(100001, 200000) i")
    engine.server.sql("CREATE DATABASE another")
    _out, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    engine.archive()
    engine.dbops("restore", "--to", str(place(engine)), "--action", "scratch")
    server = started(engine, place(engine), "restored")
    assert dump(server) == dump(engine.server)
    options = ("--all", "-h", str(server.socket_directory), "-p", str(server.port), "-U", "postgres")
    server.run("pg_amcheck", *options, "--install-missing")


def test_38_a_damaged_page_is_named_and_the_good_backup_stays(engine: Engine) -> None:
    fill(engine.server, 20000)
    (first,) = engine.json("backup")
    relation = engine.server.value("SELECT pg_relation_filepath('filler')")
    engine.server.sql("CHECKPOINT")
    engine.server.stop()
    with (engine.server.data / relation).open("r+b") as file:
        file.seek(8192 * 10 + 4000)
        file.write(b"rust")
    engine.server.start()
    told = engine.dbops("backup", status=1).stderr
    assert relation in told
    assert "block 10" in told
    assert [one["id"] for one in engine.json("list")] == [first["id"]]
    engine.configure(retention={"daily": 0, "weekly": 0, "monthly": 0, "window_days": 0, "verified": 0, "count": 1})
    engine.dbops("expire")
    assert [one["id"] for one in engine.json("list")] == [first["id"]]


def test_36_tablespaces_with_spaces_in_their_path_and_links_come_back_elsewhere(engine: Engine) -> None:
    spaces = {f"space{number}": directory(engine.servers.root / f"table space {number}") for number in range(3)}
    real = directory(engine.servers.root / "real")
    linked = engine.servers.root / "linked"
    linked.symlink_to(real)
    spaces["through_a_link"] = linked
    for name, path in spaces.items():
        engine.server.sql(f"CREATE TABLESPACE {name} LOCATION '{path}'")
        engine.server.sql(f"CREATE TABLE in_{name} TABLESPACE {name} AS SELECT generate_series(1, 1000) AS i")
    engine.dbops("backup")
    to = directory(engine.servers.root / "elsewhere")
    mapping = [word for name, path in spaces.items() for word in ("--tablespace", f"{path}={to / name}")]
    missing_one = engine.dbops("restore", "--to", str(place(engine)), *mapping[2:], "--action", "scratch", status=1)
    assert "is not empty" in missing_one.stderr
    engine.dbops("restore", "--to", str(place(engine)), *mapping, "--action", "scratch")
    server = started(engine, place(engine), "restored")
    for name in spaces:
        assert server.value(f"SELECT count(*) FROM in_{name}") == 1000
        assert any((to / name).iterdir())


def test_45_a_second_backup_or_restore_at_the_same_time_is_refused_and_a_crash_frees_the_lock(engine: Engine) -> None:
    fill(engine.server)
    process = running_backup(engine)
    assert "Another backup of this instance is running" in engine.dbops("backup", status=1).stderr
    kill(process)
    engine.configure(backup={})
    engine.dbops("backup")
    to = str(place(engine))
    restoring = background(engine, "restore", "--to", to, "--action", "scratch")
    wait_until((place(engine) / "dbops-restore.json").exists, "the restore to begin", 60)
    second = engine.dbops("restore", "--to", to, "--delta", status=1).stderr
    assert "is running" in second
    kill(restoring)
    engine.dbops("restore", "--to", to, "--action", "scratch", "--delta")


def test_62_a_failure_that_nobody_could_be_told_of_is_told_later_and_changes_no_result(engine: Engine) -> None:
    told, away = engine.home / "state" / "told", engine.home / "state" / "away"
    tell = f"test ! -e {away} && cat >>{told} && echo >>{told}"
    jobs = {"notify_command": ["/bin/sh", "-c", tell]}
    (engine.home / "backup-jobs.json").write_text(json.dumps(jobs))
    repository = Path(engine.settings["repositories"][0]["path"])
    gone = repository.rename(repository.with_name("gone"))
    away.touch()
    said = engine.dbops("job", "backup", status=1).stderr
    # What systemd does then. Nobody answers.
    assert "the notification failed" in engine.dbops("job", "failed", "backup").stderr
    (record,) = engine.json("job", "status")
    assert record["outcome"] == "failed"
    assert record["message"] in said
    gone.rename(repository)
    engine.dbops("job", "watch", status=1)
    assert not told.exists()
    away.unlink()
    for _ in range(2):
        engine.dbops("job", "watch", status=1)  # there is no backup
    (line,) = told.read_text().splitlines()
    assert json.loads(line)["job"] == "backup"
    assert json.loads(line)["message"] == record["message"]
    engine.dbops("job", "backup")
    engine.dbops("job", "watch")


# What lies in the repository


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize(
    ("what", "how", "told"),
    [
        ("pack-000001", Path.unlink, "is missing"),
        ("pack-000001", truncate, "are needed"),
        ("index-000001", damage, "index-000001"),
        ("index-000001", Path.unlink, "index-000001"),
    ],
)
def test_39_and_40_a_backup_that_is_not_whole_is_refused_before_the_disk_is_touched(
    engine: Engine, what: str, how: Any, told: str
) -> None:
    engine.rows(1)
    (first,) = engine.json("backup")
    (second,) = engine.json("backup", "--full")
    how(engine.objects(f"*/backup/{second['id']}/{what}")[0])
    keep = place(engine)
    engine.dbops("restore", "--to", str(keep), "--action", "scratch", "--backup", first["id"])
    before = sorted((path, path.lstat().st_mtime_ns) for path in keep.rglob("*"))
    said = engine.dbops("restore", "--to", str(keep), "--action", "scratch", "--delta", status=1).stderr
    assert told in said
    if what.startswith("pack"):
        assert first["id"] in said
    assert sorted((path, path.lstat().st_mtime_ns) for path in keep.rglob("*")) == before


def test_60_a_repository_that_was_copied_elsewhere_restores_as_it_is(engine: Engine) -> None:
    engine.rows(3)
    engine.dbops("backup")
    engine.archive()
    old = Path(engine.settings["repositories"][0]["path"])
    new = engine.servers.root / "copy"
    shutil.copytree(old, new)
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", "postgres:", str(new)], check=True)
    old.rename(old.with_name("gone"))
    engine.configure(repositories=[{"name": "local", "type": "directory", "path": str(new)}])
    engine.dbops("restore", "--to", str(place(engine)), "--action", "scratch")
    assert started(engine, place(engine), "restored").value("SELECT count(*) FROM t") == 3


def test_61_a_catalogue_entry_that_was_deleted_is_found_out_and_made_again(engine: Engine) -> None:
    engine.rows(3)
    (entry,) = engine.json("backup")
    engine.dbops("backup", "--full")
    engine.objects(f"*/catalog/{entry['id']}.json")[0].unlink()
    for path in engine.objects(f"*/backup/{entry['id']}/*"):
        os.utime(path, (1, 1))
    (problem,) = engine.json("check", "--all", status=1)["problems"]
    assert f"dbops relist {entry['id']}" in problem
    assert "nothing is deleted" in engine.dbops("expire", status=1).stderr
    engine.dbops("relist", entry["id"])
    assert engine.json("list")[0]["id"] == entry["id"]
    assert engine.json("check", "--all")["problems"] == []
    assert engine.json("verify", entry["id"])["good"]
    told = engine.dbops("relist", entry["id"], status=1).stderr
    assert "lost its catalogue entry" in told


# Restores


@pytest.mark.skipif(os.geteuid() != 0, reason="file systems of their own take root")
def test_42_a_disk_without_room_is_refused_and_a_mount_point_is_filled_and_kept(engine: Engine) -> None:
    fill(engine.server)
    engine.dbops("backup")
    mount = directory(engine.servers.root / "disk")
    for size, status in (("30m", 1), ("600m", 0)):
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size},uid=postgres,mode=0700", "none", str(mount)], check=True
        )
        try:
            done = engine.dbops("restore", "--to", str(mount), "--action", "scratch", status=status)
            if status:
                assert "MB are needed" in done.stderr
                assert list(mount.iterdir()) == []
            else:
                assert (mount / "PG_VERSION").exists()
        finally:
            subprocess.run(["umount", str(mount)], check=True)


def test_47_a_segment_that_is_missing_in_the_middle_is_no_silent_end(engine: Engine) -> None:
    engine.start_archiver()
    engine.rows(1)
    engine.dbops("backup")
    names = []
    for _ in range(20):
        engine.rows(1)
        names.append(engine.archive())
    for path in engine.wal_objects(names[1]):
        path.unlink()
    told = engine.dbops("restore", "--to", str(place(engine)), status=1).stderr
    assert "with a gap" in told
    assert "What can be reached: from" in told
    assert not place(engine).exists()


@pytest.mark.slow
def test_47_a_last_segment_that_is_damaged_is_no_silent_end_either(engine: Engine) -> None:
    """The segment before it ends with a switch, so replay stands exactly where the last one begins."""
    engine.rows(1)
    engine.dbops("backup")
    engine.rows(1)
    engine.archive()
    engine.rows(1)
    (last,) = engine.wal_objects(engine.archive())
    damage(last)
    process = background(engine, "restore", "--to", str(place(engine)), "--action", "scratch")
    _out, told = process.communicate(timeout=300)
    assert process.returncode == 1, told
    assert "waiting for WAL that the archive should have" in told.splitlines()[-1]
    assert last.name in told.splitlines()[-1]
    assert (place(engine) / "standby.signal").exists()


def test_52_a_scratch_copy_that_somebody_starts_with_its_old_settings_does_not_archive(engine: Engine) -> None:
    engine.rows(1)
    engine.dbops("backup")
    engine.dbops("restore", "--to", str(place(engine)), "--action", "scratch")
    before = engine.objects("*/wal/**/*")
    server = engine.servers.server("copy", version=engine.server.version)
    place(engine).rename(server.data)
    # What test.conf of the data directory says: archive_mode=on, and our archive_command.
    own = {"unix_socket_directories": str(server.socket_directory), "port": str(server.port)}
    server.settings = {**engine.server.settings, **own}
    server.configure()
    server.start()
    assert server.value("SHOW archive_mode") == "off"
    server.sql("SELECT pg_switch_wal()")
    server.sql("CHECKPOINT")
    assert engine.objects("*/wal/**/*") == before


def test_56_retention_that_is_killed_leaves_every_listed_backup_whole_and_goes_on(engine: Engine) -> None:
    for _ in range(4):
        engine.rows(1)
        engine.dbops("backup", "--full")
        engine.archive()
    rule = {"daily": 0, "weekly": 0, "monthly": 0, "window_days": 0, "verified": 0, "count": 1}
    engine.configure(retention=rule)
    process = background(engine, "expire")
    time.sleep(0.25)  # a moment on its way, whichever
    kill(process)
    for one in engine.json("list"):
        assert engine.json("verify", one["id"])["good"]
    engine.dbops("expire")
    assert len(engine.json("list")) == 1
    assert engine.json("check", "--all")["problems"] == []
    owners = {path.parent.name for path in engine.objects("*/backup/*/pack-*")}
    assert owners == {engine.json("list")[0]["id"]}


def test_57_retention_leaves_alone_what_a_running_backup_uses(engine: Engine) -> None:
    fill(engine.server)
    (first,) = engine.json("backup")
    engine.server.sql("UPDATE filler SET words = words || 'x' WHERE i % 2 = 0")
    engine.configure(retention={"daily": 0, "weekly": 0, "monthly": 0, "window_days": 0, "verified": 0, "count": 1})
    process = running_backup(engine)
    told = engine.json("expire")["local"]
    assert first["id"] in told["keep"]
    _out, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    newest = engine.json("list")[-1]["id"]
    assert engine.json("verify", newest)["good"]


def test_after_a_return_to_an_earlier_moment_retention_keeps_what_leads_to_the_living_timeline(
    engine: Engine, servers: Servers
) -> None:
    """The abandoned timeline got further than the living one, and has the newest backup."""
    engine.rows(3)
    (before,) = engine.json("backup")
    early = servers.server("early", version=engine.server.version).clone(engine.server, primary_conninfo="")
    (early.data / "standby.signal").unlink()
    for _ in range(8):
        engine.rows(1)
        engine.archive()
    (abandoned,) = engine.json("backup")
    engine.archive()
    engine.server.stop()
    early.configure(
        restore_command=engine.restore_command(), recovery_target="immediate", recovery_target_action="promote"
    )
    (early.data / "recovery.signal").touch()
    early.start()
    wait_until(lambda: early.value("SELECT NOT pg_is_in_recovery()"), "the return to end")
    with engine.sibling(early) as living:
        living.use_archive_command()
        living.rows(4)
        name = living.archive()
        assert name.startswith("00000002")
        living.configure(retention={"daily": 0, "weekly": 0, "monthly": 0, "window_days": 0, "verified": 0, "count": 1})
        told = living.json("expire")["local"]
        assert set(told["keep"]) == {before["id"], abandoned["id"]}
        assert not [problem for problem in living.json("wal", "status")["problems"] if problem["code"] == "archive_gap"]
        to = place(living)
        words = ("--action", "scratch", "--timeline", "2")
        assert living.json("restore", "--to", str(to), *words)["backup"] == before["id"]
        assert started(living, to, "restored").value("SELECT count(*) FROM t") == 7
        # With a backup of its own the living timeline needs the earlier ones no more.
        (own,) = living.json("backup", "--full")
        assert living.json("expire")["local"]["remove"] == [before["id"], abandoned["id"]]
        assert {path.parent.parent.name for path in living.objects("*/wal/*/*/*")} == {"00000002"}
        assert living.json("verify", own["id"])["good"]
        assert living.json("wal", "status")["problems"] == []


@pytest.mark.slow
def test_43_a_restore_that_is_killed_at_random_points_ends_as_one_that_was_not(engine: Engine) -> None:
    seed = int(os.environ.get("DBOPS_SEED", time.time_ns() % 1_000_000))
    print(f"DBOPS_SEED={seed}")
    chance = random.Random(seed)
    fill(engine.server, 400000)
    engine.dbops("backup")
    engine.rows(5)
    engine.archive()
    to = place(engine)
    for _ in range(6):
        process = background(engine, "restore", "--to", str(to), "--action", "scratch", "--delta")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=chance.uniform(0.3, 6.0))
        finished = process.poll() == 0
        kill(process)
        if finished:
            break
        if not (to / "global" / "pg_control").exists() and to.exists():
            assert engine.server.run("postgres", "-D", str(to), check=False).returncode != 0
    engine.dbops("restore", "--to", str(to), "--action", "scratch", "--delta")
    assert dump(started(engine, to, "restored")) == dump(engine.server)

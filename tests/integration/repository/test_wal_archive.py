# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""WAL into the archive and back, with a real server and the installed command."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.tests.integration.repository.engine import Engine, directory
from ansible_collections.dbops.fleet.tests.integration.servers import Server, Servers, wait_until


def get(engine: Engine, name: str, target: Path, status: int) -> str:
    return engine.dbops("wal", "get", name, str(target), status=status).stderr


def copy_of(engine: Engine, name: str) -> Path:
    """A segment as it lies in pg_wal, somewhere else, so that a test may damage it."""
    target = directory(engine.home / "copies") / name
    shutil.copy(engine.server.data / "pg_wal" / name, target)
    if os.geteuid() == 0:
        shutil.chown(target, "postgres", "postgres")
    return target


def test_a_segment_comes_back_as_it_went_without_any_archiver(engine: Engine) -> None:
    engine.rows(3)
    before = engine.switch()
    wait_until(lambda: engine.wal_objects(before), "the segment to arrive")
    original = (engine.server.data / "pg_wal" / before).read_bytes()
    target = engine.home / "spool" / "back"
    get(engine, before, target, 0)
    assert target.read_bytes() == original


def test_a_segment_comes_from_a_working_directory_that_postgres_may_not_enter(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As where root, at home, runs the command as postgres."""
    before = engine.switch()
    wait_until(lambda: engine.wal_objects(before), "the segment to arrive")
    tmp_path.chmod(0o700)
    monkeypatch.chdir(tmp_path)
    get(engine, before, engine.home / "spool" / "back", 0)


def test_look_ahead_archives_before_postgresql_asks_and_leaves_markers(engine: Engine) -> None:
    engine.server.configure(archive_command="/bin/false").reload()
    wait_until(lambda: engine.server.value("SHOW archive_command") == "/bin/false", "archiving to stand still")
    names = []
    for _ in range(6):
        engine.rows(1)
        names.append(engine.switch())
    engine.start_archiver()
    wait_until(lambda: all(engine.wal_objects(name) for name in names), "look-ahead")
    wait_until(lambda: len(list((engine.home / "spool").glob("*/archived/*"))) >= 6, "markers")
    assert engine.server.value("SELECT archived_count FROM pg_stat_archiver") == 0
    engine.use_archive_command()
    wait_until(
        lambda: engine.server.value("SELECT last_archived_wal FROM pg_stat_archiver") >= names[-1], "catching up"
    )
    wait_until(lambda: not list((engine.home / "spool").glob("*/archived/*")), "markers to be tidied up")


def test_the_state_names_the_position_and_the_proof_comes_back(engine: Engine) -> None:
    engine.start_archiver()
    engine.rows(1)
    name = engine.archive()
    state = engine.json("wal", "status")
    assert state["configured"]
    assert state["archiving"]
    assert state["repositories"][0]["timelines"][0]["last"] == name
    assert state["problems"] == []
    assert state["rpo_seconds"] < 60
    proof = engine.json("wal", "prove")
    assert proof["segment"] > name


def test_identical_content_is_accepted_and_other_content_is_refused(engine: Engine) -> None:
    engine.rows(1)
    name = engine.archive()
    path = copy_of(engine, name)
    assert "was already in local" in engine.dbops("wal", "push", str(path)).stderr
    with path.open("r+b") as file:
        file.seek(9000)
        file.write(b"another server wrote this")
    told = engine.dbops("wal", "push", str(path), status=1).stderr
    assert "with other content" in told
    assert "Nothing was overwritten" in told
    assert len(engine.wal_objects(name)) == 1


@pytest.mark.parametrize("size", [0, 8192, 16 * 1024 * 1024 - 1, 16 * 1024 * 1024 + 1])
def test_a_segment_of_the_wrong_size_is_refused(engine: Engine, size: int) -> None:
    path = copy_of(engine, engine.archive())
    os.truncate(path, size)
    assert "has" in engine.dbops("wal", "push", str(path), status=1).stderr


def test_a_segment_under_another_name_is_refused(engine: Engine) -> None:
    path = copy_of(engine, engine.archive())
    wrong = path.rename(path.with_name(f"{path.name[:-2]}77"))
    assert "holds the WAL of position" in engine.dbops("wal", "push", str(wrong), status=1).stderr


def test_wal_of_another_cluster_is_refused(engine: Engine, servers: Servers) -> None:
    other = servers.primary("other")
    name = other.value("SELECT pg_walfile_name(pg_switch_wal())")
    path = directory(engine.home / "copies") / name
    shutil.copy(other.data / "pg_wal" / name, path)
    if os.geteuid() == 0:
        shutil.chown(path, "postgres", "postgres")
    assert "belongs to the cluster with system identifier" in engine.dbops("wal", "push", str(path), status=1).stderr


def test_an_empty_backup_label_does_not_block_the_queue(engine: Engine) -> None:
    path = directory(engine.home / "copies") / "000000010000000000000002.00000028.backup"
    path.touch()
    engine.dbops("wal", "push", str(path))


def test_absence_is_one_and_everything_else_is_126(engine: Engine) -> None:
    engine.rows(1)
    name = engine.archive()
    engine.rows(1)
    later = engine.archive()
    target = engine.home / "spool" / "back"
    get(engine, f"{later[:8]}{later[8:-2]}F0", target, 1)
    get(engine, "00000002.history", target, 1)
    (stored,) = engine.wal_objects(name)
    content = stored.read_bytes()
    stored.write_bytes(content[:300] + bytes([content[300] ^ 1]) + content[301:])
    get(engine, name, target, 126)
    stored.unlink()
    assert "gap" in get(engine, name, target, 126)
    root = Path(engine.settings["repositories"][0]["path"])
    root.rename(root.with_name("unmounted"))
    assert "does not exist" in get(engine, later, target, 126)
    directory(root)
    assert "there is none" in get(engine, later, target, 126)
    assert not target.exists()


def test_wrong_usage_or_a_broken_installation_is_126_too(engine: Engine) -> None:
    engine.dbops("wal", "get", status=126)
    broken = engine.installed / "ansible_collections/dbops/fleet/plugins/module_utils/errors.py"
    broken.rename(broken.with_suffix(".gone"))
    try:
        engine.dbops("wal", "get", "00000002.history", "x", status=126)
        engine.dbops("wal", "push", "x", status=1)
    finally:
        broken.with_suffix(".gone").rename(broken)


def test_nothing_is_acknowledged_while_the_repository_is_not_mounted(engine: Engine) -> None:
    root = Path(engine.settings["repositories"][0]["path"])
    away = root.rename(root.with_name("unmounted"))
    directory(root)
    engine.rows(1)
    name = engine.switch()
    wait_until(lambda: engine.server.value("SELECT failed_count FROM pg_stat_archiver") > 0, "a failure", 60)
    assert list(root.iterdir()) == []
    state = engine.json("wal", "status", status=1)
    assert {problem["code"] for problem in state["problems"]} >= {"repository_unavailable", "archive_failing"}
    root.rmdir()
    away.rename(root)
    wait_until(lambda: engine.server.value("SELECT last_archived_wal FROM pg_stat_archiver") == name, "healing", 90)


def test_an_archiver_that_is_frozen_or_dead_never_acknowledges(engine: Engine) -> None:
    archiver = engine.start_archiver()
    engine.archive()
    archiver.send_signal(signal.SIGKILL)
    archiver.wait()
    engine.rows(1)
    name = engine.archive()  # by the fallback, in the server's own process
    assert engine.wal_objects(name)


def test_an_archive_command_that_lied_is_found_out(engine: Engine) -> None:
    engine.archive()
    ours = engine.server.settings["archive_command"]
    engine.server.configure(archive_command="/bin/true").reload()
    wait_until(lambda: engine.server.value("SHOW archive_command") == "/bin/true", "the lie")
    engine.rows(1)
    engine.archive()
    codes = {problem["code"] for problem in engine.json("wal", "status", status=1)["problems"]}
    assert codes >= {"not_configured", "archive_lies"}
    engine.server.configure(archive_command=ours).reload()
    wait_until(lambda: engine.server.value("SHOW archive_command") == ours, "the truth")
    engine.rows(1)
    engine.archive()
    state = engine.json("wal", "status")
    assert [gap["status"] for gap in state["repositories"][0]["timelines"][0]["gaps"]] == ["delayed"]


def test_a_former_primary_raises_no_alarm_for_what_it_failed_to_archive(engine: Engine) -> None:
    engine.archive()
    ours = engine.server.settings["archive_command"]
    engine.server.configure(archive_command="/bin/false").reload()
    engine.rows(1)
    engine.switch()
    wait_until(lambda: engine.server.value("SELECT failed_count FROM pg_stat_archiver") > 0, "a failure", 60)
    engine.server.configure(archive_command=ours).stop()
    (engine.server.data / "standby.signal").touch()
    engine.server.start()
    assert engine.server.value("SELECT last_failed_time > last_archived_time FROM pg_stat_archiver")
    state = engine.json("wal", "status")
    assert state["server"]["in_recovery"]
    assert not [problem for problem in state["problems"] if problem["code"] in ("archive_failing", "archive_lies")]


def test_recovery_with_our_restore_command_stops_instead_of_losing_commits(engine: Engine, servers: Servers) -> None:
    """The fault that makes existing tools open the database with commits missing."""
    engine.rows(1)
    engine.archive()
    clone = clone_of(engine.server, servers)
    names = []
    for _ in range(6):
        engine.rows(5)
        names.append(engine.archive())
    clone.configure(restore_command=engine.restore_command(), archive_mode="off")
    (clone.data / "recovery.signal").touch()
    (damaged,) = engine.wal_objects(names[3])
    content = damaged.read_bytes()
    damaged.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    clone.start(wait=False)
    wait_until(lambda: not clone.running, "the server to stop")
    assert "FATAL" in clone.log()
    damaged.write_bytes(content)
    clone.start()
    wait_until(lambda: clone.value("SELECT NOT pg_is_in_recovery()"), "recovery to end")
    assert clone.value("SELECT max(i) FROM t") == 31


def clone_of(server: Server, servers: Servers) -> Server:
    """A copy of a data directory that was made before more rows came."""
    clone = servers.server("clone", version=server.version).clone(server, primary_conninfo="", primary_slot_name="")
    (clone.data / "standby.signal").unlink()
    return clone


def test_two_clusters_cannot_share_a_repository(engine: Engine, servers: Servers) -> None:
    other = servers.primary("other")
    foreign = Engine(servers, other, engine.settings["repositories"], cluster="invoices")
    assert "belongs to cluster orders" in foreign.dbops("init", status=1).stderr
    same_name = Engine(servers, other, engine.settings["repositories"])
    path = other.data / "pg_wal" / other.value("SELECT pg_walfile_name(pg_switch_wal())")
    assert "keeps system identifier" in same_name.dbops("wal", "push", str(path), status=1).stderr


def test_archive_command_is_fast_while_look_ahead_holds(engine: Engine) -> None:
    """The shell's part alone; tests/benchmarks has the figures."""
    engine.start_archiver()
    marker = next((engine.home / "spool").glob("*/archived")) / "000000010000000000000099"
    segment = directory(engine.home / "copies") / marker.name
    segment.touch()
    time.sleep(0.02)  # a marker must be newer than its segment
    marker.touch()
    command = engine.server.settings["archive_command"].replace("%f", marker.name).replace("%p", str(segment))
    assert command.startswith("[ ")
    test = command.split("||")[0]
    assert os.waitstatus_to_exitcode(os.system(test)) == 0

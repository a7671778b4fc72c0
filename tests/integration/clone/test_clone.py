# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cloning real servers: what is copied streams, what fails is redone, what is not ours stays."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.clone import observe
from ansible_collections.dbops.fleet.plugins.module_utils.clone.facts import CloneRequest, Marker, Source
from ansible_collections.dbops.fleet.plugins.module_utils.clone.run import clone, status
from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, OperationFailed, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome
from ansible_collections.dbops.fleet.tests.integration.servers import (
    Server,
    Servers,
    command_prefix,
    os_user,
    wait_until,
)

# A worker is forked off a process with threads here, which a module's process does not have.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

# Slow enough to act while it runs, quick enough to wait for its end: a new database has about 30 MB.
SLOW = "8M"


@pytest.fixture
def place(servers: Servers) -> Iterator[Path]:
    """A directory for clones. Whatever still works in it at the end is killed by its process id."""
    path = servers.root / "place"
    path.mkdir(mode=0o755)
    shutil.chown(path, os_user().pw_uid)
    yield path
    for marker_path in path.rglob("*.json"):
        with contextlib.suppress(ProcessLookupError, FileNotFoundError, AttributeError, TypeError):
            marker = observe.read_marker(str(marker_path))[0]
            if marker is not None and observe.is_alive(marker.worker):
                os.kill(marker.worker.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def template() -> Iterator[Server]:
    """A stopped server with a table, which every test's primary is a copy of: initdb takes seconds."""
    with Servers() as made:
        server = made.primary("template")
        server.sql("CREATE TABLE t AS SELECT i, repeat('x', 100) AS filler FROM generate_series(1, 20000) AS i")
        yield server.stop()


@pytest.fixture
def primary(servers: Servers, template: Server) -> Server:
    server = servers.server("db1")
    subprocess.run(["cp", "--archive", template.data, server.data], check=True)
    own = {"port": str(server.port), "unix_socket_directories": str(server.socket_directory), "cluster_name": "db1"}
    server.settings = {**template.settings, **own}
    return server.configure().start()


def request_for(server: Server, directory: Path, **more: Any) -> CloneRequest:
    source = Source(server.address, server.port, "postgres", "postgres", sslmode="disable")
    user = os_user().pw_name
    values: dict[str, Any] = {
        "data_directory": str(directory),
        "version": server.version,
        "source": source,
        "member": "db2",
        "bin_directory": str(server.binaries),
        "owner": user,
        "group": user,
    }
    return CloneRequest(**{**values, **more})


def start(servers: Servers, request: CloneRequest, of: Server, name: str = "db2") -> Server:
    """A server on the cloned directory. Its configuration came with the copy; port and sockets are its own."""
    replica = servers.server(name, version=of.version)
    replica.data = Path(request.data_directory)
    replica.settings = {
        **of.settings,
        "port": str(replica.port),
        "cluster_name": name,
        "unix_socket_directories": str(replica.socket_directory),
    }
    return replica.configure().start().wait_for_streaming()


def marker_of(request: CloneRequest) -> Marker:
    marker, problem = observe.read_marker(request.marker_path)
    assert marker is not None, problem
    return marker


def await_phase(request: CloneRequest, phase: str, seconds: float = 30.0) -> Marker:
    def reached() -> Marker | None:
        marker, _ = observe.read_marker(request.marker_path)
        if marker is None or marker.phase != phase or (phase == "copying" and not marker.bytes_done):
            return None
        return marker

    found: Marker = wait_until(reached, f"the phase {phase}", seconds)
    return found


def kill(marker: Marker) -> None:
    os.kill(marker.worker.pid, signal.SIGKILL)
    wait_until(lambda: not observe.is_alive(marker.worker), "the worker to be gone")


def contents(directory: Path) -> dict[str, str]:
    """Every file's hash, owner, mode and time."""
    found = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        text = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(directory))] = f"{status.st_mode:o} {status.st_uid} {status.st_mtime_ns} {text}"
    return found


def slots(server: Server) -> list[tuple[Any, ...]]:
    return server.sql("SELECT slot_name, active FROM pg_replication_slots ORDER BY 1")


@contextlib.contextmanager
def mounted(directory: Path, megabytes: int) -> Iterator[Path]:
    """A small filesystem of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small filesystem takes root")
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "dbops-test", directory], check=True)
    shutil.chown(directory, os_user().pw_uid)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


# What is cloned


def test_a_clone_streams_and_replays_what_is_written_after_it(servers: Servers, primary: Server, place: Path) -> None:
    request = request_for(primary, place / "data", slot="db2", recovery_min_apply_delay="0")
    outcome = clone(request)
    assert outcome.changed
    assert outcome.result["action"] == "clone"
    assert outcome.result["finished"]
    assert outcome.result["percent"] == 100
    data = place / "data"
    assert {path.name for path in place.iterdir()} == {"data", "data.dbops-clone.json"}
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert {path.lstat().st_uid for path in [data, *data.rglob("*")]} == {os_user().pw_uid}
    assert (data / "standby.signal").exists()
    replica = start(servers, request, primary)
    primary.sql("CREATE TABLE fresh AS SELECT 42 AS answer")
    replica.wait_for_replay(primary)
    assert replica.value("SELECT answer FROM fresh") == 42
    assert replica.value("SELECT count(*) FROM t") == 20000
    assert replica.value("SHOW primary_slot_name") == "db2"
    assert slots(primary) == [("db2", True)]
    assert primary.value("SELECT application_name FROM pg_stat_replication") == "db2"


def test_a_second_run_finds_the_running_replica_and_changes_nothing(
    servers: Servers, primary: Server, place: Path
) -> None:
    request = request_for(primary, place / "data", slot="db2")
    clone(request)
    start(servers, request, primary)
    again = clone(request)
    assert (again.changed, again.result["action"], again.result["finished"]) == (False, "nothing", True)


def test_a_promoted_member_is_left_alone_even_when_the_source_is_gone(
    servers: Servers, primary: Server, place: Path
) -> None:
    request = request_for(primary, place / "data")
    identifier = clone(request).result["system_identifier"]
    replica = start(servers, request, primary)
    primary.kill()
    replica.promote()
    known = dataclasses.replace(request, expected_system_identifier=identifier)
    assert clone(known).result["action"] == "nothing"
    with pytest.raises(Refused, match="cannot be reached"):
        clone(request)


def test_a_standby_is_cloned_into_a_cascade(servers: Servers, primary: Server, place: Path) -> None:
    first = request_for(primary, place / "first")
    clone(first)
    middle = start(servers, first, primary)
    second = request_for(middle, place / "second", member="db3", slot="db3", recovery_min_apply_delay="1h")
    clone(second)
    last = start(servers, second, middle, "db3")
    assert last.value("SHOW recovery_min_apply_delay") == "1h"
    assert f"port={middle.port}" in last.value("SHOW primary_conninfo")
    assert last.value("SHOW primary_conninfo").count("host=") == 1
    assert slots(middle) == [("db3", True)]


def test_a_delay_is_not_inherited_from_a_delayed_source(servers: Servers, primary: Server, place: Path) -> None:
    delayed = request_for(primary, place / "first", recovery_min_apply_delay="1h")
    clone(delayed)
    middle = start(servers, delayed, primary)
    prompt = request_for(middle, place / "second", member="db3")
    clone(prompt)
    assert "recovery_min_apply_delay" not in (place / "second/postgresql.auto.conf").read_text()


def test_tablespaces_go_where_they_are_mapped_and_their_remains_are_redone(
    servers: Servers, primary: Server, place: Path
) -> None:
    theirs = servers.root / "db1" / "fast=disk"
    theirs.mkdir()
    shutil.chown(theirs, os_user().pw_uid)
    primary.sql("SET allow_in_place_tablespaces = on")
    primary.sql(f"CREATE TABLESPACE fast LOCATION '{theirs}'")
    primary.sql("CREATE TABLE elsewhere TABLESPACE fast AS SELECT i, repeat('x', 500) FROM generate_series(1, 40000) i")
    with pytest.raises(Refused, match="is not empty"):
        clone(request_for(primary, place / "data"))
    with pytest.raises(Refused, match="inside the data directory"):
        clone(request_for(primary, place / "data", tablespaces={str(theirs): f"{place}/data/fast"}))
    with pytest.raises(Refused, match="has no tablespace in /nowhere"):
        clone(request_for(primary, place / "data", tablespaces={"/nowhere": f"{place}/fast"}))
    mapped = {str(theirs): f"{place}/deep/fast=here"}
    request = request_for(primary, place / "data", tablespaces=mapped, slot="db2")
    clone(dataclasses.replace(request, max_rate=SLOW), wait_seconds=0)
    kill(await_phase(request, "copying"))
    # As if another tool's directory were there: only what a clone puts there is removed.
    assert clone(request).result["finished"]
    replica = start(servers, request, primary)
    assert replica.value("SELECT count(*) FROM elsewhere") == 40000
    assert replica.value("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast'") == (
        f"{place}/deep/fast=here"
    )


def test_a_mount_point_is_cloned_in_place(servers: Servers, primary: Server, place: Path) -> None:
    with mounted(place / "data", 300) as data:
        request = request_for(primary, data, slot="db2")
        clone(dataclasses.replace(request, max_rate=SLOW), wait_seconds=0)
        marker = await_phase(request, "copying")
        assert marker.directory == str(data)
        kill(marker)
        assert any(data.iterdir())
        assert clone(request).result["action"] == "clone"
        replica = start(servers, request, primary)
        assert clone(request).result["action"] == "nothing"
        replica.kill()


def test_a_copy_that_was_complete_is_carried_on_and_not_copied_again(
    servers: Servers, primary: Server, place: Path
) -> None:
    request = request_for(primary, place / "data", slot="db2")
    clone(request)
    # As a worker leaves it that is killed between the copy and the rename.
    (place / "data").rename(request.copy_directory)
    (Path(request.copy_directory) / "standby.signal").unlink()
    dead = dataclasses.replace(marker_of(request).worker, start_ticks=1)
    observe.write_marker(
        dataclasses.replace(marker_of(request), phase="verifying", finished_at=None, worker=dead), durable=True
    )
    primary.sql("CREATE TABLE meanwhile AS SELECT 7 AS i")
    outcome = clone(request)
    assert outcome.result["action"] == "finish"
    assert start(servers, request, primary).wait_for_replay(primary).value("SELECT i FROM meanwhile") == 7


def test_a_replaced_data_directory_is_kept(servers: Servers, primary: Server, place: Path) -> None:
    other = servers.primary("other")
    other.stop()
    shutil.copytree(other.data, place / "data")
    subprocess.run(["chown", "-R", f"{os_user().pw_uid}", place / "data"], check=True)
    (place / "data/postmaster.pid").unlink(missing_ok=True)
    before = contents(place / "data")
    request = request_for(primary, place / "data", slot="db2", replace=True)
    outcome = clone(request)
    kept = Path(outcome.result["kept_directory"])
    assert kept.name.startswith("data.old-")
    assert contents(kept).keys() == before.keys()
    start(servers, request, primary)


# What is refused, with nothing touched


def test_a_foreign_directory_is_refused_and_keeps_every_byte(servers: Servers, primary: Server, place: Path) -> None:
    foreign = place / "data"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    before = contents(place)
    for check_mode in (True, False):
        with pytest.raises(Refused, match=r"not empty \(thesis\.txt\)"):
            clone(request_for(primary, foreign), check_mode=check_mode)
    assert contents(place) == before


def test_another_cluster_s_data_directory_is_refused_and_keeps_every_byte(
    servers: Servers, primary: Server, place: Path
) -> None:
    other = servers.primary("other")
    with pytest.raises(Refused, match="belongs to another cluster"):
        clone(request_for(primary, other.data))
    other.stop()
    before = contents(other.data)
    with pytest.raises(Refused, match="belongs to another cluster"):
        clone(request_for(primary, other.data))
    assert contents(other.data) == before


def test_a_directory_beside_that_is_not_ours_is_refused(primary: Server, place: Path) -> None:
    (place / "data.dbops-clone").mkdir()
    (place / "data.dbops-clone/mine").write_text("x")
    with pytest.raises(Refused, match="is no clone that this tool left unfinished"):
        clone(request_for(primary, place / "data"))
    assert (place / "data.dbops-clone/mine").exists()


def test_a_marker_of_another_user_is_not_believed(primary: Server, place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("another user's file takes root to make")
    request = request_for(primary, place / "data")
    clone(dataclasses.replace(request, max_rate=SLOW), wait_seconds=0)
    kill(await_phase(request, "copying"))
    shutil.chown(request.marker_path, "nobody")
    with pytest.raises(Refused, match="cannot be trusted"):
        clone(request)


def test_an_unreachable_source_is_refused(servers: Servers, place: Path) -> None:
    nobody = servers.server("nobody")
    with pytest.raises(Refused, match=f"cannot be reached on port {nobody.port}"):
        clone(request_for(nobody, place / "data"))
    assert list(place.iterdir()) == []


def test_a_wrong_password_names_role_and_password_file(servers: Servers, primary: Server, place: Path) -> None:
    primary.sql("CREATE ROLE copier LOGIN REPLICATION PASSWORD 'right'")
    primary.allow("local all,replication all", "host all postgres 127.0.0.0/8", "host replication postgres 127.0.0.0/8")
    hba = primary.data / "pg_hba.conf"
    hba.write_text(hba.read_text() + "host all,replication copier 127.0.0.0/8 scram-sha-256\n")
    primary.reload()
    passfile = place / "pgpass"
    passfile.write_text("*:*:*:copier:wrong\n")
    passfile.chmod(0o600)
    shutil.chown(passfile, os_user().pw_uid)
    request = request_for(primary, place / "data")
    request = dataclasses.replace(
        request, source=dataclasses.replace(request.source, user="copier", passfile=str(passfile))
    )
    wait_until(lambda: _refusal(request), "the server to read pg_hba.conf")
    refusal = _refusal(request)
    assert refusal is not None
    assert "does not accept the password of the role copier" in str(refusal)
    assert str(passfile) in str(refusal)
    assert "wrong" not in str(refusal).replace("wrongly", "")
    passfile.write_text("*:*:*:copier:right\n")
    assert clone(request).result["finished"]


def test_two_roles_without_superuser_s_rights_are_enough(servers: Servers, primary: Server, place: Path) -> None:
    primary.sql("CREATE ROLE fleet_replication LOGIN REPLICATION PASSWORD 'one'")
    primary.sql("CREATE ROLE fleet_operator LOGIN PASSWORD 'two' IN ROLE pg_monitor")
    hba = primary.data / "pg_hba.conf"
    hba.write_text(
        "local all postgres trust\n"
        "host all postgres 127.0.0.0/8 trust\n"
        "host replication fleet_replication 127.0.0.0/8 scram-sha-256\n"
        "host postgres fleet_operator 127.0.0.0/8 scram-sha-256\n"
        "host all all 127.0.0.0/8 reject\n"
    )
    primary.restart()
    passfile = place / "pgpass"
    passfile.write_text("*:*:*:fleet_replication:one\n*:*:*:fleet_operator:two\n")
    passfile.chmod(0o600)
    shutil.chown(passfile, os_user().pw_uid)
    source = Source(primary.address, primary.port, sslmode="disable", passfile=str(passfile))
    request = dataclasses.replace(request_for(primary, place / "data", slot="db2"), source=source)
    assert clone(request).result["finished"]
    start(servers, request, primary)
    seen = Path(request.marker_path).read_text() + (place / "data/postgresql.auto.conf").read_text()
    assert "fleet_replication" in seen
    assert not {"one", "two"} & set(seen.replace('"', " ").replace("'", " ").split())


def _refusal(request: CloneRequest) -> FleetError | None:
    try:
        clone(request, check_mode=True)
    except FleetError as error:
        return error
    return None


def test_too_little_space_is_refused_with_the_bytes(primary: Server, place: Path) -> None:
    with mounted(place / "small", 20) as small, pytest.raises(Refused, match="and the clone needs") as refusal:
        clone(request_for(primary, small / "data"))
    assert refusal.value.details["bytes_free"] < 21e6 < refusal.value.details["bytes_needed"]


def test_a_slot_in_use_by_another_replica_is_refused(servers: Servers, primary: Server, place: Path) -> None:
    servers.replica("db3", of=primary, slot="db3")
    with pytest.raises(Refused, match="in use by db3 from"):
        clone(request_for(primary, place / "data", slot="db3"))


def test_exhausted_wal_senders_are_refused(servers: Servers, place: Path) -> None:
    scarce = servers.primary("db1", max_wal_senders="1")
    with pytest.raises(Refused, match="has 1 of 1 WAL senders left, and a clone needs 2"):
        clone(request_for(scarce, place / "data"))


def test_an_unexpected_system_identifier_is_refused(primary: Server, place: Path) -> None:
    with pytest.raises(Refused, match="is no member of this cluster"):
        clone(request_for(primary, place / "data", expected_system_identifier="1"))


def test_a_missing_program_is_refused(primary: Server, place: Path) -> None:
    with pytest.raises(Refused, match="pg_basebackup is missing"):
        clone(request_for(primary, place / "data", bin_directory="/nonexistent"))


def test_check_mode_changes_nothing_and_tells_what_would_happen(primary: Server, place: Path) -> None:
    request = request_for(primary, place / "data", slot="db2")
    outcome = clone(request, check_mode=True)
    assert outcome.changed
    assert outcome.result["steps"][0] == "Create the replication slot db2 on 127.0.0.1."
    assert any(step.startswith("Copy ") for step in outcome.result["steps"])
    assert list(place.iterdir()) == []
    assert slots(primary) == []
    done = clone(request)
    assert (done.result["steps"], done.before, done.after) == (outcome.result["steps"], outcome.before, outcome.after)


# What goes wrong on the way


@pytest.mark.parametrize("phase", ["preparing", "copying", "verifying", "placing"])
def test_killed_at_any_phase_it_is_redone_by_the_next_run(
    servers: Servers, primary: Server, place: Path, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(primary, place / "data", slot="db2")
    real = observe.write_marker

    def write_marker_and_die(marker: Marker, *, durable: bool) -> None:
        real(marker, durable=durable)
        if marker.phase == phase and (phase != "copying" or marker.bytes_done) and os.getpid() != test_process:
            os.kill(os.getpid(), signal.SIGKILL)

    test_process = os.getpid()
    monkeypatch.setattr(observe, "write_marker", write_marker_and_die)
    with pytest.raises(OperationFailed):
        clone(dataclasses.replace(request, max_rate=SLOW))
    monkeypatch.undo()
    assert not (place / "data").exists()
    if phase != "preparing":
        assert status(str(place / "data"))["state"] == "killed"
    outcome = clone(request)
    assert outcome.result["finished"]
    start(servers, request, primary)
    assert slots(primary) == [("db2", True)]


def test_killed_between_the_rename_and_its_note_it_is_found_finished(primary: Server, place: Path) -> None:
    request = request_for(primary, place / "data")
    clone(request)
    dead = dataclasses.replace(marker_of(request).worker, start_ticks=1)
    observe.write_marker(dataclasses.replace(marker_of(request), phase="placing", worker=dead), durable=True)
    assert status(str(place / "data"))["state"] == "killed"
    assert clone(request).result["action"] == "nothing"
    assert status(str(place / "data"))["state"] == "finished"


def test_what_a_killed_worker_leaves_running_is_ended_by_the_next_run(primary: Server, place: Path) -> None:
    request = request_for(primary, place / "data", max_rate="1M", slot="db2")
    clone(request, wait_seconds=0)
    marker = await_phase(request, "copying")
    assert len(observe.processes_writing_to(request.copy_directory)) == 2
    kill(marker)
    # The receiver of WAL may live on.
    wait_until(lambda: len(observe.processes_writing_to(request.copy_directory)) < 2, "pg_basebackup to be gone")
    assert clone(request, check_mode=True).result["action"] == "clone"
    assert clone(dataclasses.replace(request, max_rate=None)).result["finished"]
    assert observe.processes_writing_to(request.copy_directory) == []


def test_a_backup_of_somebody_else_is_left_alone_by_a_redo(primary: Server, place: Path) -> None:
    request = request_for(primary, place / "data", slot="db2", max_rate=SLOW)
    clone(request, wait_seconds=0)
    await_phase(request, "copying")
    primary.kill()
    assert await_phase(request, "failed").directory == ""
    primary.start()
    theirs = [str(primary.binaries / "pg_basebackup"), "--pgdata", str(place / "theirs"), "--max-rate=4M"]
    with subprocess.Popen([*command_prefix(), *theirs, "--dbname", primary.conninfo(), "--checkpoint=fast"]) as backup:
        assert clone(dataclasses.replace(request, max_rate=None)).result["finished"]
        assert backup.wait() == 0


def test_whoever_waits_for_a_clone_that_is_killed_redoes_it(primary: Server, place: Path) -> None:
    request = request_for(primary, place / "data", slot="db2", max_rate=SLOW)
    started = clone(request, wait_seconds=0).result["operation_id"]
    marker = await_phase(request, "copying")
    outcomes: list[Outcome] = []
    waiting = threading.Thread(target=lambda: outcomes.append(clone(request)))
    waiting.start()
    kill(marker)
    waiting.join()
    assert outcomes[0].result["finished"]
    assert outcomes[0].result["operation_id"] != started


def test_a_killed_pg_basebackup_is_a_failure_and_its_remains_and_slot_go(primary: Server, place: Path) -> None:
    request = request_for(primary, place / "data", slot="db2", max_rate=SLOW)
    clone(request, wait_seconds=0)
    await_phase(request, "copying")
    for pid in observe.processes_writing_to(request.copy_directory):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    marker = await_phase(request, "failed")
    assert marker.failure is not None
    assert "killed by signal 9" in marker.failure.message
    assert {path.name for path in place.iterdir()} == {"data.dbops-clone.json"}
    assert slots(primary) == []
    assert clone(dataclasses.replace(request, max_rate=None)).result["finished"]


def test_a_slot_that_was_there_before_survives_a_failed_clone(primary: Server, place: Path) -> None:
    primary.sql("SELECT pg_create_physical_replication_slot('db2', true)")
    request = request_for(primary, place / "data", slot="db2", max_rate=SLOW)
    clone(request, wait_seconds=0)
    await_phase(request, "copying")
    for pid in observe.processes_writing_to(request.copy_directory):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await_phase(request, "failed")
    assert [name for name, _ in slots(primary)] == ["db2"]


def test_a_disk_that_fills_up_while_copying_is_named_and_cleared(primary: Server, place: Path) -> None:
    with mounted(place / "small", 110) as small:
        request = request_for(primary, small / "data", slot="db2", max_rate=SLOW)
        clone(request, wait_seconds=0)
        await_phase(request, "copying")
        # Somebody else takes the room that was there when the clone began.
        with contextlib.suppress(OSError), (small / "other").open("wb") as other:
            while True:
                other.write(b"\0" * 1_000_000)
                other.flush()
        marker = await_phase(request, "failed")
        assert marker.failure is not None
        assert "The disk is full" in marker.failure.message
        assert str(small) in marker.failure.message
        assert {path.name for path in small.iterdir()} == {"data.dbops-clone.json", "other"}
        assert slots(primary) == []
        (small / "other").unlink()
        assert clone(dataclasses.replace(request, max_rate=None)).result["finished"]


def test_a_source_that_dies_midway_is_named_and_the_next_run_redoes(primary: Server, place: Path) -> None:
    request = request_for(primary, place / "data", slot="db2", max_rate=SLOW)
    clone(request, wait_seconds=0)
    await_phase(request, "copying")
    primary.kill()
    marker = await_phase(request, "failed")
    assert marker.failure is not None
    assert "127.0.0.1 broke off the copy" in marker.failure.message
    assert "drop it there if no clone follows" in marker.failure.remedy
    assert not Path(request.copy_directory).exists()
    primary.start()
    assert clone(dataclasses.replace(request, max_rate=None)).result["finished"]
    assert [name for name, _ in slots(primary)] == ["db2"]


def test_a_source_that_freezes_is_given_up(primary: Server, place: Path) -> None:
    request = request_for(primary, place / "data", max_rate=SLOW, stall_timeout_seconds=2)
    clone(request, wait_seconds=0)
    await_phase(request, "copying")
    primary.freeze()
    marker = await_phase(request, "failed")
    primary.thaw()
    assert marker.failure is not None
    assert "sent nothing for 2 s" in marker.failure.message
    assert not Path(request.copy_directory).exists()


def test_a_copy_that_differs_from_its_manifest_is_not_used(
    primary: Server, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(primary, place / "data")
    real = observe.write_marker

    def damage(marker: Marker, *, durable: bool) -> None:
        if marker.phase == "verifying" and not (Path(marker.directory) / "damaged").exists():
            (Path(marker.directory) / "PG_VERSION").write_text("99\n")
        real(marker, durable=durable)

    monkeypatch.setattr(observe, "write_marker", damage)
    with pytest.raises(OperationFailed, match="differs from what 127"):
        clone(request)
    assert not (place / "data").exists()
    assert not Path(request.copy_directory).exists()


def test_a_second_run_waits_for_the_first(primary: Server, place: Path) -> None:
    request = request_for(primary, place / "data", slot="db2", max_rate=SLOW)
    outcomes: list[Outcome] = []
    threads = [threading.Thread(target=lambda: outcomes.append(clone(request))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome.result["action"] for outcome in outcomes) == ["clone", "join"]
    assert len({outcome.result["operation_id"] for outcome in outcomes}) == 1
    assert all(outcome.result["finished"] for outcome in outcomes)


def test_progress_is_told_while_it_runs(primary: Server, place: Path) -> None:
    request = request_for(primary, place / "data", max_rate=SLOW)
    started = clone(request, wait_seconds=0)
    assert started.result["finished"] is False
    await_phase(request, "copying")
    seen = status(str(place / "data"))
    assert seen["state"] == "running"
    assert 0 < seen["bytes_done"] <= seen["bytes_total"]
    assert 0 < seen["percent"] <= 100
    await_phase(request, "finished")
    assert status(str(place / "data"))["state"] == "finished"


# Through Ansible


def test_the_module_prints_progress_and_a_second_run_is_unchanged(primary: Server, place: Path) -> None:
    user = os_user().pw_name
    task = {
        "dbops.fleet.pg_basebackup_restore": {
            "data_directory": str(place / "data"),
            "version": primary.version,
            "member": "db2",
            "slot": "db2",
            "owner": user,
            "group": user,
            "max_rate": "2M",
            "source": {
                "host": primary.address,
                "port": primary.port,
                "user": "postgres",
                "query_user": "postgres",
                "sslmode": "disable",
            },
        }
    }
    play = place / "play.json"
    play.write_text(json.dumps([{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task]}]))
    playbook = str(Path(sys.executable).parent / "ansible-playbook")

    def run(*options: str) -> str:
        command = [playbook, "--diff", *options, str(play)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "changed=1" in run("--check")
    assert slots(primary) == []
    begun = time.monotonic()
    first = run()
    assert "changed=1" in first
    if time.monotonic() - begun > 12:
        assert "localhost: clones 127.0.0.1: " in first
        assert " MB/s, " in first
    assert "changed=0" in run()

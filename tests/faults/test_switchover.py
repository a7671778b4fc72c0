# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List S: what may go wrong in a switchover, on real servers and poolers, each with what has to come out.

Elsewhere: what is refused before anything is changed, S03, S04, S17 to S21 and S27 (test_switchover_refused.py); what
needs hosts with SSH, systemd, TLS, disks and power: S08 by power cuts, S09, S19, S29, S34 and S35
(test_switchover_hosts.py). S33 is S01 many times over; fifty in a row are tests/benchmarks/bench_switchover.py.

The list has no S24, S26 and S32.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError
from ansible_collections.dbops.fleet.plugins.module_utils.failover import switchover_worker as worker
from ansible_collections.dbops.fleet.plugins.module_utils.failover.journal import Progress, read
from ansible_collections.dbops.fleet.plugins.module_utils.failover.lock import LockFile
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_request import Budgets
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_steps import STEPS, Run
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.console import Endpoint
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.deadman import Deadman, arm, disarm
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.tests.faults.cluster import Bouncer, Cluster, seconds_between, wait_for_clients
from ansible_collections.dbops.fleet.tests.faults.load import Load, LoadReport
from ansible_collections.dbops.fleet.tests.faults.slow_login import SlowLogin
from ansible_collections.dbops.fleet.tests.integration.servers import wait_until

QUICK = Budgets(catch_up=20, follow=10, promote=5, start=30, pause=2, drain=1, hold=1)
CONFTEST = Path(__file__).resolve().parent.parent / "conftest.py"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as made:
        Load.make_table(made.primary().conninfo())
        yield made


@contextlib.contextmanager
def under_load(cluster: Cluster, clients: int = 6) -> Iterator[Callable[[], LoadReport]]:
    """Clients write through the poolers; afterwards the returned function gives their report."""
    load = Load(cluster.clients(), clients=clients)
    with load:
        wait_for_clients(0.3)
        yield lambda: load.report(cluster.primary().conninfo())
        wait_for_clients(0.3)


def nothing_lost(report: LoadReport) -> None:
    assert report.acknowledged > 100
    assert (report.lost, report.duplicated) == (0, 0)


def just_before(port: Any, method: str, act: Callable[[], Any]) -> None:
    """Have something happen at the moment when a step is about to call a method of a port."""
    original = getattr(port, method)

    def call(*arguments: Any, **named: Any) -> Any:
        if not done:
            done.append(True)
            act()
        return original(*arguments, **named)

    done: list[bool] = []
    setattr(port, method, call)


@pytest.mark.parametrize("count", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_s01_back_and_forth_without_error_loss_or_leftover(cluster: Cluster, count: int) -> None:
    pauses = []
    with under_load(cluster, clients=16) as report:
        for _ in range(count):
            end, journal = cluster.switch()
            assert end["state"] == "ok", end
            pauses.append(seconds_between(journal, "pause", "resume"))
    found = report()
    nothing_lost(found)
    assert found.errors == []
    assert found.longest_wait < 2.0, f"pauses {pauses}"
    primary = cluster.primary()
    for server in cluster.servers.values():
        slots = {row[0] for row in server.sql("SELECT slot_name FROM pg_replication_slots")}
        expected = {name for name in cluster.servers if name != primary.name} if server is primary else set()
        assert slots == expected, f"slots of {server.name}"
    timeline = primary.value("SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)")
    assert int(timeline, 16) == 1 + count


def test_s02_a_long_transaction_through_a_pooler_rolls_the_switchover_back(cluster: Cluster) -> None:
    with under_load(cluster) as report:
        with psycopg.connect(cluster.poolers[0].conninfo, prepare_threshold=None) as connection:
            connection.execute("INSERT INTO load VALUES (-1, 1)")
            end, _ = cluster.switch(cluster.request(budgets=QUICK))
            connection.commit()
        assert end["state"] == "rolled_back"
        assert "pool1" in end["reason"]
        assert cluster.primaries() == ["pg1"]
    found = report()
    nothing_lost(found)
    assert found.errors == []
    assert found.longest_wait < QUICK.drain + 2.0


def test_s05_a_frozen_pooler_rolls_back_and_the_others_go_on(cluster: Cluster) -> None:
    second = cluster.poolers[1]
    try:
        with Load(cluster.clients()[:1], clients=4) as load:
            end, _ = cluster.switch(cluster.request(budgets=QUICK), lambda _: second.signal(signal.SIGSTOP))
            wait_for_clients(0.3)
        assert end["state"] == "rolled_back"
        assert cluster.primaries() == ["pg1"]
        found = load.report(cluster.primary().conninfo())
        nothing_lost(found)
        assert found.errors == []
    finally:
        second.signal(signal.SIGCONT)


def test_s05_a_pooler_that_is_down_stops_it_before_anything_is_changed(cluster: Cluster) -> None:
    cluster.poolers[1].kill()
    request = cluster.request()
    run = worker.make_run(request, cluster.access("pg1"))
    with pytest.raises(FleetError, match="pool2"):
        worker.open_everything(run)


def test_s06_a_pooler_that_dies_in_the_pause_is_told_and_reads_the_new_file(cluster: Cluster) -> None:
    victim = cluster.poolers[1]
    end, journal = cluster.switch(
        cluster.request(budgets=QUICK), lambda run: just_before(run.local, "stop", victim.kill)
    )
    assert end["state"] == "needs_operator"
    assert "pool2" in end["reason"]
    victim.start()
    with psycopg.connect(victim.conninfo, prepare_threshold=None) as connection:
        row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
    assert row == (False,)
    again = worker.work({"journal": str(journal.path)})
    assert again["state"] == "ok", again


def test_s10_a_frozen_sibling_does_not_lengthen_the_pause(cluster: Cluster) -> None:
    sibling = cluster.servers["pg3"]
    with under_load(cluster) as report:
        frozen = cluster.processes(sibling, "walreceiver")
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        end, journal = cluster.switch(cluster.request("pg2", budgets=QUICK))
        for pid in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        assert end["state"] in ("ok", "degraded"), end
        assert seconds_between(journal, "pause", "resume") < 1.5
        sibling.wait_for_streaming()
    found = report()
    nothing_lost(found)
    assert found.errors == []


def test_s11_a_candidate_that_stops_receiving_rolls_back(cluster: Cluster) -> None:
    frozen: list[int] = []

    def freeze() -> None:
        frozen.extend(cluster.processes(cluster.servers["pg2"], "walreceiver"))
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)

    with under_load(cluster) as report:
        end, _ = cluster.switch(
            cluster.request("pg2", budgets=QUICK), lambda run: just_before(run.local, "stop", freeze)
        )
        for pid in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        assert end["state"] == "rolled_back", end
        assert cluster.primaries() == ["pg1"]
    found = report()
    nothing_lost(found)
    assert found.errors == []


def test_s12_a_candidate_that_dies_before_its_promotion_rolls_back(cluster: Cluster) -> None:
    candidate = cluster.servers["pg2"]

    def arrange(run: Run) -> None:
        just_before(run.local, "checkpoint_end", lambda: cluster.kill(candidate))

    with under_load(cluster) as report:
        end, _ = cluster.switch(cluster.request("pg2", budgets=QUICK), arrange)
        assert end["state"] == "rolled_back", end
        assert cluster.primaries() == ["pg1"]
    nothing_lost(report())


def test_s12_a_candidate_that_dies_in_its_promotion_asks_and_is_promoted_by_the_rerun(cluster: Cluster) -> None:
    candidate = cluster.servers["pg2"]

    def arrange(run: Run) -> None:
        just_before(run.candidate, "promote", lambda: cluster.kill(candidate))

    end, journal = cluster.switch(cluster.request("pg2", budgets=QUICK), arrange)
    assert end["state"] == "needs_operator", end
    assert cluster.primaries() == [], "the old primary must stay out"
    candidate.start()
    again = worker.work({"journal": str(journal.path)})
    assert again["state"] == "ok", again
    assert cluster.primaries() == ["pg2"]


@pytest.mark.parametrize(("messages", "expected"), [(1, "ok"), (5000, "rolled_back")], ids=["silent", "socket full"])
def test_s13_a_subscriber_that_confirms_nothing_does_not_hold_up_the_stop(messages: int, expected: str) -> None:
    """With a full socket not even SIGTERM ends its walsender. The checks refuse such a lag; here it comes later."""
    with Cluster(wal_level="logical") as cluster:
        primary = cluster.primary()
        primary.sql("SELECT pg_create_logical_replication_slot('silent', 'test_decoding')")
        command = [str(primary.binaries / "pg_recvlogical"), "--dbname", primary.conninfo(), "--slot=silent"]
        with subprocess.Popen([*command, "--start", "--file=/dev/null"]) as subscriber:
            wait_until(lambda: cluster.processes(primary, "walsender")[2:], "the subscriber to connect")
            subscriber.send_signal(signal.SIGSTOP)
            try:
                write = "SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000)) FROM generate_series(1, %s)"
                primary.sql(write, messages)
                end, journal = cluster.switch(cluster.request(budgets=QUICK))
            finally:
                subscriber.send_signal(signal.SIGCONT)
                subscriber.kill()
        assert end["state"] == expected, end
        if expected == "ok":
            assert seconds_between(journal, "pause", "resume") < 2.0
        else:
            assert cluster.primaries() == [primary.name]


def test_s14_a_hanging_archive_command_does_not_delay_the_promotion() -> None:
    with Cluster(archive_mode="on", archive_command="sleep 2") as cluster:
        cluster.primary().sql("SELECT pg_switch_wal()")
        end, journal = cluster.switch(cluster.request(budgets=Budgets(catch_up=20, follow=30, start=30)))
        assert seconds_between(journal, "pause", "resume") < 1.5
        assert end["state"] == "ok", end


def test_s15_a_primary_that_crashes_in_the_pause_is_started_again_and_nobody_is_promoted(cluster: Cluster) -> None:
    with under_load(cluster) as report:
        end, _ = cluster.switch(
            cluster.request("pg2", budgets=QUICK),
            lambda run: just_before(run.local, "stop", lambda: cluster.kill(cluster.servers["pg1"])),
        )
        assert end["state"] == "rolled_back", end
        assert cluster.primaries() == ["pg1"]
    nothing_lost(report())


def test_s16_many_dirty_buffers_are_written_before_the_pause() -> None:
    settings = {"shared_buffers": "256MB", "max_wal_size": "4GB", "checkpoint_timeout": "1h", "autovacuum": "off"}
    with Cluster(**settings) as cluster:
        primary = cluster.primary()
        Load.make_table(primary.conninfo())
        primary.sql("CREATE TABLE big AS SELECT g, repeat('x', 900) AS filler FROM generate_series(1, 150000) AS g")
        dirty = primary.value("SELECT pg_relation_size('big')")
        assert dirty > 100 * 2**20
        with under_load(cluster) as report:
            end, journal = cluster.switch(cluster.request("pg2"))
            assert end["state"] == "ok", end
        assert seconds_between(journal, "pause", "resume") < 1.5
        found = report()
        nothing_lost(found)
        assert found.errors == []


def test_s07_a_server_login_that_is_under_way_costs_no_client_its_retry_time() -> None:
    """PAUSE breaks such a login off, and PgBouncer then waits server_login_retry, 15 s here, before the next."""
    with Cluster(poolers=1) as cluster:
        pooler, primary = cluster.poolers[0], cluster.primary()
        slow = SlowLogin(primary)
        ini = pooler.directory / "pgbouncer.ini"
        text = ini.read_text().replace(f"port={primary.port} ", f"port={slow.port} ")
        pooler.kill()
        ini.write_text(text.replace("server_login_retry = 0.2", "server_login_retry = 15"))
        pooler.start()
        Load.make_table(primary.conninfo())
        with under_load(cluster, clients=1) as report:
            slow.hold()
            with ThreadPoolExecutor(4) as pool:
                # More than the server connections that are there.
                clients = [pool.submit(_nap_through, pooler) for _ in range(4)]
                wait_until(lambda: _logins(pooler), "a login to be under way")
                threading.Timer(0.5, slow.release).start()
                end, _ = cluster.switch(cluster.request("pg2"))
                assert end["state"] == "ok", end
                assert max(client.result(30) for client in clients) < 5.0
        slow.close()
        found = report()
        nothing_lost(found)
        assert found.errors == []
        assert found.longest_wait < 5.0


def _nap_through(pooler: Bouncer) -> float:
    """Seconds that a short query of a new client took."""
    began = time.monotonic()
    with psycopg.connect(pooler.conninfo, prepare_threshold=None, autocommit=True) as client:
        client.execute("SELECT pg_sleep(0.05)")
    return time.monotonic() - began


def _logins(pooler: Bouncer) -> int:
    console = f"host={pooler.directory} port={pooler.port} dbname=pgbouncer user=pgbouncer"
    with psycopg.connect(console, autocommit=True) as connection:
        cursor = connection.execute("SHOW POOLS")
        names = [column.name for column in cursor.description or ()]
        return sum(int(row[names.index("sv_login")]) for row in cursor)


def test_s22_commits_do_not_hang_with_synchronous_replication() -> None:
    with Cluster(synchronous_standby_names="ANY 1 (pg2, pg3)") as cluster:
        Load.make_table(cluster.primary().conninfo())
        with under_load(cluster) as report:
            request = cluster.request("pg2", synchronous="ANY 1 (pg1, pg3)", required_standbys=1)
            end, _ = cluster.switch(request)
            assert end["state"] == "ok", end
            wait_for_clients(0.5)
        found = report()
        nothing_lost(found)
        assert found.errors == []
        assert found.longest_wait < 3.0


def test_s23_a_writer_that_bypasses_the_poolers_loses_nothing(cluster: Cluster) -> None:
    load = Load([cluster.primary().conninfo()], clients=4, think_seconds=0.002)
    with load:
        end, _ = cluster.switch()
        assert end["state"] in ("ok", "rolled_back"), end
    report = load.report(cluster.primary().conninfo())
    assert report.acknowledged > 0
    assert (report.lost, report.duplicated) == (0, 0)


def test_s25_archiving_puts_a_segment_switch_before_the_shutdown_checkpoint() -> None:
    with Cluster(archive_mode="on", archive_command="true") as cluster:
        for _ in range(3):
            end, journal = cluster.switch()
            assert end["state"] == "ok", end
            state = Progress.of(journal.entries).state
            assert state["end"] == state["switchpoint"]


def test_s28_an_old_primary_that_somebody_starts_comes_up_as_a_standby(cluster: Cluster) -> None:
    old = cluster.servers["pg1"]
    with under_load(cluster) as report:

        def start() -> None:
            wait_until(lambda: cluster.pid(old) is None, "the old primary to be down")
            old.start()

        end, _ = cluster.switch(cluster.request("pg2"), lambda run: just_before(run.candidate, "promote", start))
        assert end["state"] == "ok", end
        assert cluster.primaries() == ["pg2"]
    found = report()
    nothing_lost(found)
    assert found.errors == []


def test_standbys_that_log_in_with_a_password_in_primary_conninfo_keep_it(cluster: Cluster) -> None:
    for name in ("pg2", "pg3"):
        own = f"host=127.0.0.1 port={cluster.servers['pg1'].port} user=postgres application_name={name}"
        cluster.servers[name].configure(primary_conninfo=f"{own} password='a secret'").restart()
        cluster.servers[name].wait_for_streaming()
    end, journal = cluster.switch(cluster.request("pg2"))
    assert end["state"] == "ok", end
    for name in ("pg1", "pg3"):
        assert "password='a secret'" in cluster.servers[name].value("SHOW primary_conninfo")
    assert "secret" not in journal.path.read_text()


def test_s30_a_second_one_is_refused_while_the_first_is_at_work(cluster: Cluster) -> None:
    lock = LockFile(Path(cluster.access("pg1").lock_directory), "orders")
    lock.acquire("another")
    journal = cluster.journal(cluster.request())
    end = worker.work({"journal": str(journal.path)})
    assert end["state"] == "refused"
    assert "another" in end["reason"]
    lock.release()


def test_s31_a_long_retry_interval_is_lowered_for_the_operation_and_set_back() -> None:
    with Cluster(wal_retrieve_retry_interval="5s") as cluster:
        end, journal = cluster.switch()
        assert end["state"] == "ok", end
        assert seconds_between(journal, "pause", "resume") < 1.5
        intervals = {server.value("SHOW wal_retrieve_retry_interval") for server in cluster.servers.values()}
        assert intervals == {"5s"}


def test_the_unused_rest_of_a_segment_is_not_sent_while_clients_wait() -> None:
    runs: list[Run] = []
    received: list[Lsn] = []
    with Cluster(archive_mode="on", archive_command="/bin/true") as cluster:
        cluster.primary().sql("SELECT pg_switch_wal()")

        def note_what_the_candidate_has(run: Run) -> None:
            runs.append(run)
            just_before(run.local, "stop", lambda: received.append(run.candidate.position().receive))

        end, _ = cluster.switch(before=note_what_the_candidate_has)
        assert end["state"] == "ok", end
        assert 0 < Lsn.parse(runs[0].state["end"]) - received[0] < 2 << 20


# --- S08: the worker is killed ---

_DOOMED = """
import importlib.util, json, os, signal, sys
spec = importlib.util.spec_from_file_location("conftest", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
from ansible_collections.dbops.fleet.plugins.module_utils.failover import switchover_worker as worker
from ansible_collections.dbops.fleet.plugins.module_utils.failover.journal import Journal

original = Journal.append

def append(self, event, step=None, *, sync=True, **data):
    entry = original(self, event, step, sync=sync, **data)
    if (event, step) == (sys.argv[3], sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
    return entry

Journal.append = append
worker.work({"journal": sys.argv[2]})
"""

_KILLS = [(event, step.name) for step in STEPS for event in ("begin", "done")]
_QUICK_KILLS = {("begin", "pause"), ("begin", "stop"), ("done", "stop"), ("begin", "promote"), ("done", "verify")}


@pytest.mark.parametrize(
    ("event", "step"),
    [pytest.param(*kill, marks=() if kill in _QUICK_KILLS else pytest.mark.slow) for kill in _KILLS],
)
def test_s08_a_killed_worker_pauses_nobody_for_ever_and_a_rerun_settles_it(
    cluster: Cluster, event: str, step: str
) -> None:
    endpoints = tuple(Endpoint(one.name, str(one.directory), one.port) for one in cluster.poolers)
    operation = f"test-{os.getpid()}-{event}-{step}"
    arm(Deadman(operation, endpoints, ("app",), 3.0, 60.0))
    try:
        with under_load(cluster) as report:
            request = cluster.request("pg2", budgets=QUICK)
            cluster.stage("pg2")
            journal = cluster.journal(request)
            command = [sys.executable, "-c", _DOOMED, str(CONFTEST), str(journal.path), event, step]
            assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
            wait_until(lambda: not _paused(cluster), "the dead-men to let clients go", 10)
            assert len(cluster.primaries()) <= 1
            end = worker.work({"journal": str(journal.path)})
            before = [one.name for one in STEPS].index(step) < [one.name for one in STEPS].index("promote")
            assert end["state"] == ("rolled_back" if before else "ok"), end
            if end["state"] == "rolled_back":
                cluster.stage("pg1")
            assert cluster.primaries() == ["pg1" if before else "pg2"]
            wait_for_clients(1.0)
        nothing_lost(report())
    finally:
        disarm(operation)


def test_s08_a_rerun_leaves_a_primary_to_its_crash_recovery(cluster: Cluster) -> None:
    old = cluster.servers["pg1"]
    journal = cluster.journal(cluster.request("pg2", budgets=QUICK))
    work = [sys.executable, "-c", _DOOMED, str(CONFTEST), str(journal.path)]
    assert subprocess.run([*work, "begin", "stop"], check=False).returncode == -signal.SIGKILL
    old.sql("CREATE TABLE big AS SELECT generate_series(1, 2000000) AS number")
    old.kill().start(wait=False)
    wait_until(lambda: old.processes("startup"), "its recovery to begin")
    old.freeze("startup")
    postmaster = cluster.pid(old)
    try:
        rerun = subprocess.Popen([*work, "never", "killed"])
        wait_until(lambda: read(journal.path)[-1].step == "restore_primary", "the rerun to look at it")
        # Three times as long as a server that shuts down is waited for.
        wait_for_clients(1.5)
        assert cluster.pid(old) == postmaster
    finally:
        old.thaw("startup")
    assert rerun.wait(30) == 0
    end = read(journal.path)[-1].data
    assert end["state"] == "rolled_back", end
    assert cluster.primaries() == ["pg1"]
    assert cluster.pid(old) == postmaster
    assert old.value("SELECT count(*) FROM big") == 2000000


def _paused(cluster: Cluster) -> bool:
    for pooler in cluster.poolers:
        console = worker.endpoint_of(cluster.access("pg1"), _place(pooler))
        with contextlib.closing(worker.PoolerProcess(_place(pooler), console).open()) as opened:
            if any(row.paused for rows in opened.databases().values() for row in rows if row.name == "app"):
                return True
    return False


def _place(pooler: Any) -> Any:
    from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_request import PoolerPlace

    return PoolerPlace(pooler.name, str(pooler.directory), pooler.port, ("app",))


_LAUNCHER = """
import importlib.util, sys, time
from pathlib import Path
spec = importlib.util.spec_from_file_location("conftest", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
from ansible_collections.dbops.fleet.plugins.module_utils.failover import switchover_worker as worker
worker.launch(Path(sys.argv[2]), Path(sys.argv[3]))
print("launched", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="the transient unit would be left to the machine")
def test_s09_the_worker_outlives_whoever_started_it(cluster: Cluster) -> None:
    cluster.stage("pg2")
    journal = cluster.journal(cluster.request("pg2"))
    command = [sys.executable, "-c", _LAUNCHER, str(CONFTEST), str(journal.path), str(cluster.root / "work")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == "launched\n"
        os.killpg(launcher.pid, signal.SIGKILL)
    wait_until(lambda: Progress.of(read(journal.path)).end, "the worker to finish", 30)
    end = Progress.of(read(journal.path)).end
    assert end is not None
    assert end["state"] == "ok", end
    wait_until(lambda: not (cluster.root / "work").exists(), "the worker to clean up")
    assert cluster.primaries() == ["pg2"]


@pytest.mark.slow
def test_the_pause_does_not_grow_with_the_number_of_replicas() -> None:
    """2 and 6 replicas; the machine's noise is larger than the difference, so only a gross growth fails."""
    pauses = {}
    for replicas in (2, 6):
        with Cluster(replicas=replicas) as cluster:
            found = []
            for _ in range(3):
                end, journal = cluster.switch()
                assert end["state"] == "ok", end
                found.append(seconds_between(journal, "pause", "resume"))
            pauses[replicas] = sorted(found)[1]
    print(json.dumps(pauses))
    assert pauses[6] < pauses[2] + 0.5

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List S on test hosts: S08 by power cuts and S09, where switchover.yml is struck in the middle and then run again; and
S19, S29, S34 and S35, which need disks, systemd, PostgreSQL 17 and TLS.

FLEET_HOSTS_SET names the set (default: faults). FLEET_SWITCHOVER_DIRECTORY keeps hosts, inventory and passwords for the
next run. Each test leaves a cluster that the next one can switch over, which is part of what it shows.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest

from ansible_collections.dbops.fleet.tests.faults.load import LoadReport
from ansible_collections.dbops.fleet.tests.faults.on_hosts import HostCluster, Hosts, Play, Playing
from ansible_collections.dbops.fleet.tests.integration.servers import wait_until

pytestmark = [pytest.mark.fleet, pytest.mark.slow, pytest.mark.timeout(900)]

# Power cuts take a few seconds to be made; the pause is to last as long.
PATIENT = {"switchover_drain_seconds": 10, "switchover_pause_seconds": 20}
JOURNALS = "/var/lib/dbops-fleet/switchover/orders"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostCluster]:
    """pg1 to pg3 and two poolers, set up."""
    kept = os.environ.get("FLEET_SWITCHOVER_DIRECTORY")
    hosts = Hosts(os.environ.get("FLEET_HOSTS_SET") or "faults")
    directory = Path(kept) if kept else tmp_path_factory.mktemp("switchover")
    made = HostCluster(hosts, directory, fencing=False, poolers=("pool1", "pool2"))
    made.set_up(fresh=not kept)
    yield made
    if not kept:
        hosts.tool("down")


def struck(
    cluster: HostCluster, step: str, strike: Callable[[Playing, str, str], object], spared: tuple[str, ...] = ()
) -> tuple[str, Play, LoadReport]:
    """Switch over under load, strike as soon as a step has begun, mend, and run it again until it is settled.

    Args:
        step: of the journal.
        strike: called with the playbook at work and the names of the old primary and the candidate.
        spared: poolers whose clients are looked at; both by default.

    Returns:
        The candidate, how the last run ended, and what clients saw.
    """
    old, new = cluster.primary(), cluster.next_candidate()
    cluster.hosts.ssh(old, "touch /run/before")
    load = cluster.load(8, poolers=spared)
    with load, contextlib.ExitStack() as held:
        playing = cluster.start("switchover", switchover_candidate=new, **PATIENT)
        await_journal(cluster, old, '"observe"')
        if step == "pause":
            # A transaction that PAUSE waits for, so that the strike falls into the pause.
            client = psycopg.connect(cluster.conninfo("pool1"), prepare_threshold=None)
            held.callback(client.pgconn.finish)
            client.execute("SELECT 1")
        await_journal(cluster, old, f'"{step}"')
        strike(playing, old, new)
        held.close()
        first = playing()
        if step == "demote":
            # Whoever lost its power, the run that was struck says how it ended.
            assert first.state, first.text[-3000:]
        cluster.hosts.up(*cluster.members, *cluster.poolers)
        ended = run_again(cluster, new)
    print(
        f"{step}: first {first.state} ({first.record.get('reason')}), then {ended.state} ({ended.record.get('reason')})"
    )
    return new, ended, cluster.report(load)


def streams(cluster: HostCluster, name: str) -> bool:
    return cluster.sql(name, "SELECT status FROM pg_stat_wal_receiver") == "streaming"


def await_journal(cluster: HostCluster, host: str, word: str) -> None:
    """Wait until a journal that was begun after /run/before has a word, and look often: the pause is short."""
    script = f"until find {JOURNALS} -newer /run/before -name '*.jsonl' | xargs grep -qs '{word}'; do sleep 0.02; done"
    quoted = script.replace("'", "'\\''")
    cluster.hosts.ssh(host, f"timeout 240 sh -c '{quoted}'", timeout=260)


def run_again(cluster: HostCluster, candidate: str) -> Play:
    """As the operator does, until it is settled one way or the other."""
    for _ in range(4):
        ended = cluster.switch(candidate)
        if ended.state in ("ok", "rolled_back"):
            return ended
    raise AssertionError(f"not settled:\n{ended.text[-3000:]}")


def sound(cluster: HostCluster, candidate: str, ended: Play, report: LoadReport) -> None:
    """One primary, the expected one; nothing lost; every pooler lets clients write to it."""
    primary = cluster.primary()
    assert (primary == candidate) == (ended.state == "ok")
    assert report.acknowledged > 100
    assert (report.lost, report.duplicated) == (0, 0)
    for pooler in cluster.poolers:
        with psycopg.connect(cluster.conninfo(pooler), prepare_threshold=None, connect_timeout=20) as connection:
            row = connection.execute("SELECT host(inet_server_addr()), pg_is_in_recovery()").fetchone()
        assert row == (cluster.hosts.address(primary), False)
    for name in cluster.members:
        if name != primary:
            wait_until(partial(streams, cluster, name), f"{name} to stream", 60)


@pytest.mark.parametrize("step", ["pause", "demote"])
@pytest.mark.parametrize("victim", ["old primary", "candidate", "sibling", "pool2"])
def test_s08_a_power_cut_of_any_host_loses_nothing_and_a_rerun_settles_it(
    cluster: HostCluster, victim: str, step: str
) -> None:
    def strike(playing: Playing, old: str, new: str) -> None:
        sibling = next(name for name in cluster.members if name not in (old, new))
        names = {"old primary": old, "candidate": new, "sibling": sibling, "pool2": "pool2"}
        cluster.hosts.power_off(names[victim])

    spared = ("pool1",) if victim == "pool2" else ()
    sound(cluster, *struck(cluster, step, strike, spared))


@pytest.mark.parametrize("step", ["observe", "pause"])
def test_s09_a_killed_ansible_playbook_does_not_stop_the_work(cluster: HostCluster, step: str) -> None:
    def strike(playing: Playing, old: str, new: str) -> None:
        os.killpg(playing.process.pid, signal.SIGKILL)

    new, ended, report = struck(cluster, step, strike)
    assert ended.state == "ok"
    assert report.errors == []
    sound(cluster, new, ended, report)


def test_s09_a_lost_ssh_session_does_not_stop_the_work(cluster: HostCluster) -> None:
    """All of Ansible's sessions on the worker's host are killed there; sshd itself goes on."""

    def strike(playing: Playing, old: str, new: str) -> None:
        script = "for pid in $(pgrep -f '^sshd.*: fleet'); do kill -9 $pid; done"
        cluster.hosts.ssh(old, script)

    new, ended, report = struck(cluster, "observe", strike)
    assert ended.state == "ok"
    assert report.errors == []
    sound(cluster, new, ended, report)


def test_s09_a_controller_that_loses_its_network_does_not_stop_the_work(cluster: HostCluster) -> None:
    def strike(playing: Playing, old: str, new: str) -> None:
        for name in (*cluster.members, *cluster.poolers):
            cluster.hosts.tool("cut", name, "--from", "controller")

    # The clients are on the controller: those of the load wait for as long as the cut lasts.
    new, ended, report = struck(cluster, "observe", strike)
    assert ended.state == "ok"
    sound(cluster, new, ended, report)


# --- refused by the playbook, with clients at work ---


@contextlib.contextmanager
def untouched(cluster: HostCluster) -> Iterator[str]:
    """Gives the candidate. What is done inside is refused, and neither the cluster nor any client notices."""
    primary, new = cluster.primary(), cluster.next_candidate()
    load = cluster.load(4)
    with load:
        yield new
    report = cluster.report(load)
    assert cluster.primary() == primary
    assert (report.lost, report.duplicated, report.errors) == (0, 0, [])
    assert report.acknowledged > 100


def test_s19_a_candidate_whose_disk_is_full_is_refused(cluster: HostCluster) -> None:
    with untouched(cluster) as new, cluster.hosts.full_disk(new, "/var/lib/postgresql", leave_mb=300):
        refused = cluster.switch(new)
        assert refused.state == "refused"
        assert "MB free" in refused.text


def test_s19_a_candidate_that_would_not_let_the_application_in_is_refused(cluster: HostCluster) -> None:
    with untouched(cluster) as new:
        hba = "/etc/postgresql/17/main/pg_hba.conf"
        reject = f"sed -i '1i hostssl orders orders_app all reject' {hba}"
        cluster.hosts.ssh(new, f"cp -p {hba} {hba}.kept; {reject}; systemctl reload postgresql@17-main")
        try:
            refused = cluster.switch(new)
        finally:
            cluster.hosts.ssh(new, f"mv {hba}.kept {hba}; systemctl reload postgresql@17-main")
        assert refused.state == "refused", refused.text[-3000:]
        assert new in refused.text


@pytest.mark.parametrize(("unit", "command"), [("patroni", "patronictl switchover"), ("repmgrd", "repmgr")])
def test_s29_a_cluster_that_another_manager_runs_is_left_to_it(cluster: HostCluster, unit: str, command: str) -> None:
    """A unit of that name that runs is what an operator sees too; the real ones are in the benchmarks."""
    with untouched(cluster) as new:
        text = "[Service]\\nExecStart=/usr/bin/sleep infinity\\n"
        place = f"/run/systemd/system/{unit}.service"
        cluster.hosts.ssh(new, f"printf '{text}' >{place}; systemctl daemon-reload; systemctl start {unit}")
        try:
            refused = cluster.switch(new)
        finally:
            cluster.hosts.ssh(new, f"systemctl stop {unit}; rm {place}; systemctl daemon-reload")
        assert refused.state == "refused"
        assert command in refused.text


def test_s34_a_logical_slot_that_the_candidate_has_not_is_refused_and_a_synchronised_one_goes_on(
    cluster: HostCluster,
) -> None:
    old, new = cluster.primary(), cluster.next_candidate()
    make = "SELECT pg_create_logical_replication_slot('feed', 'test_decoding', failover => true)"
    # Whoever copies slots logs in to a database as the standby does for replication; any will do.
    hba = "/etc/postgresql/17/main/pg_hba.conf"
    let_in = f"cp -p {hba} {hba}.kept; sed -i '1i hostssl postgres fleet_replication all scram-sha-256' {hba}"
    cluster.hosts.ssh(old, let_in)
    for name in cluster.members:
        cluster.sql(name, "ALTER SYSTEM SET wal_level = logical", "postgres")
        cluster.sql(name, "ALTER SYSTEM SET hot_standby_feedback = on", "postgres")
    cluster.hosts.ssh(old, "systemctl restart postgresql@17-main")
    for name in cluster.members:
        if name != old:
            cluster.hosts.ssh(name, "systemctl restart postgresql@17-main")
            wait_until(partial(streams, cluster, name), f"{name} to stream", 60)
    try:
        cluster.sql(old, make)
        with untouched(cluster):
            refused = cluster.switch(new)
            assert refused.state == "refused"
            assert "not on the candidate: feed" in refused.text
        # With the slot's copy on the candidate, whoever reads it goes on there: no change is missed or seen twice.
        conninfo = cluster.sql(new, "SHOW primary_conninfo", "postgres").replace("'", "''")
        cluster.sql(new, f"ALTER SYSTEM SET primary_conninfo = '{conninfo} dbname=postgres'", "postgres")
        cluster.sql(new, "SELECT pg_reload_conf()", "postgres")
        cluster.sql(old, "CREATE TABLE IF NOT EXISTS fed (n int)")
        cluster.sql(old, "INSERT INTO fed SELECT generate_series(1, 10)")
        read = (
            "SELECT count(*) FROM pg_logical_slot_get_changes('feed', NULL, NULL) WHERE data LIKE 'table public.fed%'"
        )
        assert cluster.sql(old, read) == "10"
        wait_until(partial(streams, cluster, new), "the candidate to stream", 60)
        synced = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'feed' AND synced AND NOT temporary"

        def copied() -> bool:
            cluster.sql(old, "SELECT pg_log_standby_snapshot()", "postgres")
            cluster.sql(old, "SELECT pg_replication_slot_advance('feed', pg_current_wal_lsn())")
            with contextlib.suppress(subprocess.CalledProcessError):
                cluster.sql(new, "SELECT pg_sync_replication_slots()")
            return cluster.sql(new, synced) == "1"

        wait_until(copied, "the slot to be on the candidate", 60)
        cluster.sql(old, "INSERT INTO fed SELECT generate_series(11, 20)")
        done = cluster.switch(new)
        assert done.state == "ok", done.text[-3000:]
        cluster.sql(new, "INSERT INTO fed SELECT generate_series(21, 30)")
        assert cluster.sql(new, read) == "20"
        # The old primary's own slot would hold write-ahead log there for ever.
        assert cluster.sql(old, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'feed'") == "0"
    finally:
        cluster.hosts.ssh(old, f"mv {hba}.kept {hba}; systemctl reload postgresql@17-main")
        for name in cluster.members:
            with contextlib.suppress(subprocess.CalledProcessError):
                drop = "SELECT pg_drop_replication_slot('feed') FROM pg_replication_slots WHERE slot_name = 'feed'"
                cluster.sql(name, drop, "postgres")


def test_s35_every_link_is_encrypted_and_has_a_password_before_and_after(cluster: HostCluster) -> None:
    for _ in range(2):
        primary = cluster.primary()
        plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE NOT ssl AND client_port > 0"
        assert cluster.sql(primary, plain, "postgres") == "0"
        assert int(cluster.sql(primary, "SELECT count(*) FROM pg_stat_ssl WHERE ssl", "postgres")) >= 2
        for name in (primary, *cluster.poolers):
            port = 5432 if name == primary else 6432
            secured = cluster.conninfo(name, port)
            for worse in (secured.replace("verify-full", "disable"), secured.replace("passfile=", "passfile=/no")):
                with pytest.raises(psycopg.OperationalError):
                    psycopg.connect(worse, connect_timeout=5).close()
            psycopg.connect(secured, connect_timeout=5).close()
        load = cluster.load(4)
        with load:
            assert cluster.switch(cluster.next_candidate()).state == "ok"
        report = cluster.report(load)
        assert (report.lost, report.duplicated, report.errors) == (0, 0, [])

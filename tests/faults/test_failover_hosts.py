# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists F and R where they need hosts: power, boot, the network, and the shipped playbooks.

The tests are one story, in their order: each begins with the cluster as the one before left it.
FLEET_HOSTS_SET names the set (default: failover). FLEET_FAILOVER_DIRECTORY keeps hosts, inventory and passwords for the
next run.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.tests.faults.load import Load
from ansible_collections.dbops.fleet.tests.faults.on_hosts import (
    HostCluster,
    Hosts,
    Play,
    Playing,
    PowerCut,
    cut_power_under_load,
)
from ansible_collections.dbops.fleet.tests.integration.servers import wait_until

pytestmark = [pytest.mark.fleet, pytest.mark.slow, pytest.mark.timeout(1200)]


@dataclass(frozen=True)
class Struck:
    """A failover that was struck: the primary that was lost, how the first run ended, and how the last."""

    old: str
    first: Play
    last: Play


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostCluster]:
    """A synchronous cluster on hosts of its own."""
    kept = os.environ.get("FLEET_FAILOVER_DIRECTORY")
    hosts = Hosts(os.environ.get("FLEET_HOSTS_SET") or "failover")
    cluster = HostCluster(hosts, Path(kept) if kept else tmp_path_factory.mktemp("fleet"), synchronous=True)
    try:
        cluster.set_up(fresh=not kept)
        yield cluster
    finally:
        if not kept:
            hosts.tool("down")


@pytest.fixture(scope="module")
def cut(fleet: HostCluster) -> PowerCut:
    """The primary lost its power under load, and somebody failed over."""
    done = cut_power_under_load(fleet)
    print(f"first commit {done.seconds:.1f} s after the playbook's start; the longest wait {done.outage:.1f} s")
    return done


def test_f03_a_primary_that_only_the_controller_lost_is_refused(fleet: HostCluster) -> None:
    primary = fleet.primary()
    with fleet.hosts.cut(primary, peers=["controller"]):
        done = fleet.play("failover")
    assert not done.ok
    assert done.state == "refused"
    assert "REFUSED (alive)" in done.text
    assert "an answer from it" in done.text
    assert fleet.primary() == primary


def test_f01_a_crashed_server_is_started_again(fleet: HostCluster) -> None:
    primary = fleet.primary()
    fleet.hosts.ssh(primary, "kill -9 $(head -1 /var/lib/postgresql/*/main/postmaster.pid)")
    done = fleet.play("failover")
    assert done.ok, done.text
    assert done.record["plan"]["action"] == "restart"
    assert fleet.primary() == primary


def test_f02_a_power_cut_under_load_loses_no_acknowledged_row(fleet: HostCluster, cut: PowerCut) -> None:
    assert cut.play.ok, cut.play.text
    assert cut.play.state == "ok"
    assert cut.new not in (None, cut.old)
    assert (cut.load.lost, cut.load.duplicated) == (0, 0)
    assert cut.load.acknowledged > 100
    assert fleet.written_to() == fleet.hosts.address(str(cut.new))


def test_f19_the_old_primary_stays_out_when_its_power_returns(fleet: HostCluster, cut: PowerCut) -> None:
    fleet.hosts.power_on(cut.old)
    unit = "journalctl --boot --no-pager --unit='postgresql@*'"
    wait_until(lambda: "is not started as a primary" in fleet.hosts.ssh(cut.old, unit), "the guard to refuse", 60)
    assert fleet.primaries() == [cut.new]
    assert fleet.written_to() == fleet.hosts.address(str(cut.new))
    # By hand it does not start either.
    fleet.hosts.ssh(cut.old, "! systemctl start 'postgresql@17-main'")
    assert fleet.primaries() == [cut.new]


def test_r02_the_old_primary_rejoins_and_a_second_run_changes_nothing(fleet: HostCluster, cut: PowerCut) -> None:
    fleet.hosts.up(*fleet.members, *fleet.poolers)
    done = fleet.play("rejoin")
    assert done.ok, done.text
    assert done.record[cut.old]["action"] in ("rewind", "start", "clone")
    assert fleet.sql(cut.old, "SELECT pg_is_in_recovery()") == "t"
    again = fleet.play("rejoin")
    assert again.ok, again.text
    assert not any(result["changed"] for result in again.record.values())
    assert "changed=1" not in again.text


# --- struck in the middle ---


def struck(fleet: HostCluster, step: str, strike: Callable[[Playing, str], object]) -> Struck:
    """Cut the primary's power under load, fail over, strike in the middle, mend, and run it again.

    Args:
        step: of the worker's journal: it is struck while the worker stands still there; "" strikes before there is a
            worker, while clients are held.
        strike: called with the playbook at work and the worker's host.
    """
    mend(fleet)
    old = fleet.primary()
    others = [name for name in (*fleet.members, *fleet.poolers) if name != old]
    with Load(fleet.through_poolers(), clients=8) as load, failing_over(fleet, old, step) as (playing, worker):
        strike(playing, worker)
        first = playing()
        fleet.hosts.up(*others)
        last = first
        for _ in range(4):
            if last.state in ("ok", "degraded"):
                break
            last = fleet.play("failover")
        wait_until(lambda: fleet.written_to() == fleet.hosts.address(fleet.primary()), "clients to be let go", 30)
    report = load.report(fleet.through_poolers()[0])
    print(f"first {first.state}, then {last.state}: {last.record.get('reason')}")
    assert last.state in ("ok", "degraded"), last.text
    assert fleet.primary() != old
    assert report.acknowledged > 50
    assert (report.lost, report.duplicated) == (0, 0)
    return Struck(old, first, last)


@contextlib.contextmanager
def failing_over(fleet: HostCluster, old: str, step: str) -> Iterator[tuple[Playing, str]]:
    """Cut the primary's power and fail over: the playbook at work and the worker's host, once it has come to a step.

    At the end all hosts but the primary's have to be there.
    """
    others = [name for name in (*fleet.members, *fleet.poolers) if name != old]
    for name in others:
        fleet.hosts.ssh(name, "touch /run/before /run/watched")
    with contextlib.ExitStack() as watched:
        for name in others:
            watched.callback(partial(fleet.hosts.ssh, name, "rm -f /run/watched"))
        watches = {name: watch(fleet, name, step) for name in others if name in fleet.members and step}
        fleet.hosts.power_off(old)
        playing = fleet.start("failover")
        worker = ""
        if watches:
            seen, _, _ = select.select([one.stdout for one in watches.values()], [], [], 120)
            worker = next((name for name, one in watches.items() if one.stdout in seen), "")
            assert worker, f"no worker came to {step}"
        else:
            wait_until(lambda: held(fleet), "clients to be held", 60)
        yield playing, worker


def watch(fleet: HostCluster, name: str, step: str) -> subprocess.Popen[str]:
    """Have a host stop the worker as soon as its journal has this step, say so, and let it go on a moment later.

    A strike takes longer than all of the worker's steps together.
    """
    journals = "find /var/lib/dbops-fleet/failover -name '*.jsonl' -newer /run/before"
    script = f"""
        trap '' HUP PIPE
        while [ -e /run/watched ] && ! {journals} | xargs grep -qs '"{step}"'; do sleep 0.01; done
        [ -e /run/watched ] || exit 0
        worker=$(sed 's/.* pid //' /var/lib/dbops-fleet/failover/orders.lock)
        kill -STOP $worker; echo stopped; sleep 4; kill -CONT $worker"""
    return subprocess.Popen(fleet.hosts.ssh_command(name, script), stdout=subprocess.PIPE, text=True)


def mend(fleet: HostCluster) -> None:
    """All hosts up and all members in the cluster."""
    fleet.hosts.up(*fleet.members, *fleet.poolers)
    # A member that boots may take a moment until it is to be seen.
    wait_until(lambda: len(fleet.primaries()) == 1, "one primary", 60)
    done = fleet.play("rejoin")
    assert done.ok, done.text


def held(fleet: HostCluster) -> bool:
    """Whether a dead-man of this failover watches at the pooler."""
    found = "find /run/dbops-fleet/deadman -name 'failover*.json' -newer /run/before 2>/dev/null || true"
    return bool(fleet.hosts.ssh("pool1", found).strip())


def served(fleet: HostCluster) -> bool:
    """Whether clients write to the only primary."""
    names = fleet.primaries()
    return len(names) == 1 and fleet.written_to() == fleet.hosts.address(names[0])


def test_f02_a_playbook_killed_while_clients_are_held_is_run_again(fleet: HostCluster) -> None:
    struck(fleet, "", lambda playing, _worker: playing.kill())


def test_f02_a_worker_whose_playbook_was_killed_lets_clients_go_alone_and_a_rerun_finishes(fleet: HostCluster) -> None:
    old = fleet.primary()

    def strike(playing: Playing, _worker: str) -> None:
        playing.kill()
        wait_until(lambda: fleet.primaries() not in ([], [old]), "the worker to promote", 60)
        wait_until(lambda: served(fleet), "the worker to let clients go", 30)

    done = struck(fleet, "freeze", strike)
    assert done.last.record["plan"]["action"] == "finish"


def test_f02_a_controller_that_loses_its_network_goes_on_when_it_is_back(fleet: HostCluster) -> None:
    hosts = fleet.hosts

    def strike(_playing: Playing, _worker: str) -> None:
        for name in (*fleet.members, *fleet.poolers):
            hosts.tool("cut", name, "--from", "controller")

    done = struck(fleet, "freeze", strike)
    assert done.first.state == "needs_operator"
    assert "was lost sight of" in done.first.text


@pytest.mark.parametrize(
    ("victim", "step"),
    [("worker's host", "freeze"), ("worker's host", "promote"), ("sibling", "freeze"), ("pool1", "freeze")],
)
def test_f02_a_second_power_cut_in_the_failover_loses_nothing(fleet: HostCluster, victim: str, step: str) -> None:
    old = fleet.primary()

    def strike(_playing: Playing, worker: str) -> None:
        sibling = next(name for name in fleet.members if name not in (old, worker))
        fleet.hosts.power_off({"worker's host": worker, "sibling": sibling}.get(victim, victim))

    done = struck(fleet, step, strike)
    # Whatever died, the first run says how it ended and what to do next.
    assert done.first.state
    if victim == "pool1":
        assert "Its clients may still have the old primary" in done.first.text


def test_f22_a_failover_that_was_killed_is_put_back_when_the_primary_returns(fleet: HostCluster) -> None:
    """Its worker too, with the replicas frozen: until then no commit of the synchronous cluster would be confirmed."""
    mend(fleet)
    old = fleet.primary()
    with Load(fleet.through_poolers(), clients=8) as load, failing_over(fleet, old, "choose") as (playing, worker):
        playing.kill()
        fleet.hosts.ssh(worker, "kill -9 $(sed 's/.* pid //' /var/lib/dbops-fleet/failover/orders.lock)")
        fleet.hosts.power_on(old)
        wait_until(lambda: fleet.primaries() == [old], "the primary to return", 60)
        done = fleet.play("failover")
        wait_until(lambda: served(fleet), "clients to be let go", 30)
    report = load.report(fleet.through_poolers()[0])
    assert (done.record["plan"]["action"], done.state) == ("put_back", "rolled_back"), done.text
    assert fleet.primaries() == [old]
    assert report.acknowledged > 50
    assert (report.lost, report.duplicated) == (0, 0)
    for name in set(fleet.members) - {old}:
        assert fleet.sql(name, "SELECT status FROM pg_stat_wal_receiver") == "streaming"
    again = fleet.play("failover")
    assert again.state == "refused", again.text


# --- what only hosts have ---


def test_f13_a_replica_whose_disk_is_full_is_passed_over(fleet: HostCluster) -> None:
    mend(fleet)
    old = fleet.primary()
    full, other = (name for name in fleet.members if name != old)
    with fleet.hosts.full_disk(full, "/var/lib/postgresql", leave_mb=8):
        cut = cut_power_under_load(fleet, clients=8)
        assert cut.new == other, cut.play.text
        assert (cut.load.lost, cut.load.duplicated) == (0, 0)
        # The full replica cannot confirm a commit either, and nobody waits for it.
        assert cut.outage < 60
    assert "its disk is full" in cut.play.text
    assert "commits wait for 0 instead of 1 standbys" in cut.play.text


def test_f17_a_sibling_whose_log_the_new_primary_has_no_more_is_reported_and_cloned(fleet: HostCluster) -> None:
    mend(fleet)
    old = fleet.primary()
    near, far = (name for name in fleet.members if name != old)
    with fleet.hosts.cut(far, peers=[old]):
        for _ in range(4):
            fleet.sql(old, "SELECT pg_logical_emit_message(false, 'x', repeat('x', 100000)); SELECT pg_switch_wal()")
        caught_up = f"SELECT pg_last_wal_replay_lsn() >= '{fleet.sql(old, 'SELECT pg_current_wal_flush_lsn()')}'"
        wait_until(lambda: fleet.sql(near, caught_up) == "t", "the near replica to have it")
        # Nothing keeps old segments there: a slot of `far` is made by the failover, and that is too late.
        fleet.sql(near, "ALTER SYSTEM SET wal_keep_size = 0; SELECT pg_reload_conf()")
        for _ in range(3):
            fleet.sql(old, "CHECKPOINT")
            fleet.sql(near, "CHECKPOINT")
        fleet.hosts.power_off(old)
    done = fleet.play("failover", fleet_failover_candidate=near)
    fleet.sql(near, "ALTER SYSTEM RESET wal_keep_size; SELECT pg_reload_conf()")
    assert done.state == "degraded", done.text
    assert f"{far} does not stream" in done.text
    again = fleet.play("rejoin", fleet_rejoin_member=far, fleet_rejoin_method="clone")
    assert again.ok, again.text
    assert fleet.sql(far, "SELECT status FROM pg_stat_wal_receiver") == "streaming"


def test_f25_hosts_that_patroni_manages_are_left_to_it(fleet: HostCluster) -> None:
    """A unit of that name that runs is what an operator sees too; Patroni itself is in the benchmarks."""
    mend(fleet)
    old = fleet.primary()
    standby = next(name for name in fleet.members if name != old)
    unit = "[Service]\nExecStart=/usr/bin/sleep infinity\n"
    fleet.hosts.ssh(standby, f"printf '{unit}' >/run/systemd/system/patroni.service; systemctl start patroni")
    try:
        with fleet.hosts.power_loss(old):
            done = fleet.play("failover")
        assert done.state == "refused"
        assert "patronictl" in done.text
        assert fleet.sql(standby, "SELECT pg_is_in_recovery()") == "t"
    finally:
        fleet.hosts.ssh(standby, "systemctl stop patroni; rm /run/systemd/system/patroni.service")


# --- rejoin, struck in the middle ---


@pytest.mark.parametrize("victim", ["ansible-playbook", "the controller's network", "the member", "the primary"])
def test_r06_a_rejoin_that_is_struck_is_finished_by_a_rerun(fleet: HostCluster, victim: str) -> None:
    mend(fleet)
    lost = fleet.primary()
    fleet.hosts.power_off(lost)
    assert fleet.play("failover").ok
    fleet.hosts.power_on(lost)
    primary = fleet.primary()
    with Load(fleet.through_poolers(), clients=4) as load:
        playing = fleet.start("rejoin", fleet_rejoin_method="clone", fleet_rejoin_member=lost)
        # The clone is the long part.
        began = "pgrep -f '[p]g_basebackup|[p]g_rewind' || true"
        wait_until(lambda: fleet.hosts.ssh(lost, began).strip() or playing.process.poll() is not None, "the copy", 60)
        if victim == "ansible-playbook":
            playing.kill()
        elif victim == "the controller's network":
            for name in fleet.members:
                fleet.hosts.tool("cut", name, "--from", "controller")
        else:
            fleet.hosts.power_off(lost if victim == "the member" else primary)
        first = playing()
        fleet.hosts.up(*fleet.members, *fleet.poolers)
        wait_until(lambda: fleet.primaries() == [primary], "the primary to be back, alone", 60)
        done = fleet.play("rejoin")
        if not done.ok:
            done = fleet.play("rejoin")
        assert done.ok, done.text
        print(f"first {first.returncode}, then {done.record}")
        assert fleet.sql(lost, "SELECT status FROM pg_stat_wal_receiver") == "streaming"
        assert fleet.primaries() == [primary]
    report = load.report(fleet.through_poolers()[0])
    assert (report.lost, report.duplicated) == (0, 0)


def test_r13_a_failover_slot_of_its_time_as_primary_is_gone_after_the_rejoin(fleet: HostCluster) -> None:
    """PostgreSQL 17: left there it would keep write-ahead log for ever, and the slot could never be synchronised."""
    mend(fleet)
    lost = fleet.primary()
    level = "ALTER SYSTEM SET wal_level = logical"
    fleet.sql(lost, level)
    fleet.hosts.ssh(lost, "systemctl restart postgresql@17-main")
    slots = "SELECT string_agg(slot_name, ',') FROM pg_replication_slots WHERE slot_type = 'logical'"
    fleet.sql(lost, "SELECT pg_create_logical_replication_slot('feed', 'test_decoding', failover => true)")
    fleet.hosts.power_off(lost)
    assert fleet.play("failover").ok
    fleet.hosts.power_on(lost)
    fleet.sql(fleet.primary(), level)
    done = fleet.play("rejoin", fleet_rejoin_member=lost)
    assert done.ok, done.text
    assert fleet.sql(lost, "SELECT status FROM pg_stat_wal_receiver") == "streaming"
    assert fleet.sql(lost, slots) == ""


def test_r15_a_clone_that_does_not_fit_is_refused_before_anything_is_touched(fleet: HostCluster) -> None:
    mend(fleet)
    lost = fleet.primary()
    fleet.hosts.power_off(lost)
    assert fleet.play("failover").ok
    fleet.hosts.power_on(lost)
    with fleet.hosts.full_disk(lost, "/var/lib/postgresql", leave_mb=20):
        done = fleet.play("rejoin", fleet_rejoin_method="clone", fleet_rejoin_member=lost)
        assert not done.ok
        assert "free" in done.text
        assert fleet.hosts.ssh(lost, "ls -d /var/lib/postgresql/*/main").strip()
    done = fleet.play("rejoin")
    assert done.ok, done.text

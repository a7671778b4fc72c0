# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A switchover, and list F, where every database host is a pooler too, with two processes of PgBouncer each.

The tests are one story, in their order: each begins with the cluster as the one before left it.
FLEET_HOSTS_SET names the set (default: failover).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from ansible_collections.dbops.fleet.tests.faults.on_hosts import MEMBERS, HostCluster, Hosts

pytestmark = [pytest.mark.fleet, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostCluster]:
    """An asynchronous cluster: only a fence of the host counts."""
    hosts = Hosts(os.environ.get("FLEET_HOSTS_SET") or "failover")
    cluster = HostCluster(hosts, tmp_path_factory.mktemp("fleet"), poolers=MEMBERS, pgbouncer_processes=2)
    try:
        cluster.set_up()
        yield cluster
    finally:
        hosts.tool("down")


def targets(fleet: HostCluster, pooler: str) -> list[str]:
    """The addresses that the entry `orders` of each process of a pooler has."""
    found = []
    for number in (1, 2):
        console = f"psql -XAt -F ' ' -h /run/pgbouncer-{number} -p 6432 -U pgbouncer -c 'SHOW DATABASES' pgbouncer"
        rows = fleet.hosts.ssh(pooler, f"cd / && runuser -u postgres -- {console}").splitlines()
        found += [row.split()[1] for row in rows if row.split()[0] == "orders"]
    return found


def test_a_switchover_holds_the_clients_of_every_process_that_shares_a_port(fleet: HostCluster) -> None:
    """The worker reaches each process from another host, over the one TCP port."""
    old, new = fleet.primary(), fleet.next_candidate()
    load = fleet.load(12, think_seconds=0.02)
    with load:
        done = fleet.switch(new)
    assert done.ok, done.text
    assert done.state == "ok", done.text
    report = fleet.report(load)
    assert report.acknowledged > 0
    assert (report.errors, report.lost, report.duplicated) == ([], 0, 0)
    assert fleet.primary() == new
    assert old != new
    for pooler in fleet.members:
        assert targets(fleet, pooler) == [fleet.hosts.address(new)] * 2


def test_f01_a_crashed_primary_whose_host_is_a_pooler_is_started_again(fleet: HostCluster) -> None:
    primary = fleet.primary()
    fleet.hosts.ssh(primary, "kill -9 $(head -1 /var/lib/postgresql/*/main/postmaster.pid)")
    done = fleet.play("failover")
    assert done.ok, done.text
    assert (done.state, done.record["plan"]["action"]) == ("ok", "restart")
    assert fleet.primary() == primary


def test_f02_a_dead_primary_whose_host_was_a_pooler_is_fenced_and_every_process_elsewhere_lets_clients_go(
    fleet: HostCluster,
) -> None:
    old = fleet.primary()
    fleet.hosts.power_off(old)
    done = fleet.play("failover")
    assert done.ok, done.text
    assert done.state == "ok", done.text
    assert done.record["record"]["fence"]["driver"] == "command"
    new = fleet.primary()
    assert new != old
    for pooler in fleet.members:
        if pooler != old:
            assert targets(fleet, pooler) == [fleet.hosts.address(new)] * 2


def test_f03_a_primary_with_standby_signal_that_does_not_run_is_failed_over_and_not_started(fleet: HostCluster) -> None:
    """As a switchover leaves it that needs the operator. Started again, it would be a replica without a primary."""
    fleet.hosts.up(*fleet.members)
    assert fleet.play("rejoin").ok
    old = fleet.primary()
    data = "/var/lib/postgresql/17/main"
    fleet.hosts.ssh(old, f"systemctl stop postgresql@17-main && runuser -u postgres touch {data}/standby.signal")
    done = fleet.play("failover")
    assert done.state == "ok", done.text
    assert done.record["record"]["fence"]["driver"] == "ssh"
    assert fleet.primary() != old

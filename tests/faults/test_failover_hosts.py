# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists F and R where they need hosts: power, boot, the network, and the shipped playbooks.

The tests are one story, in their order: each begins with the cluster as the one before left it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.tests.faults.on_hosts import HostCluster, Hosts, PowerCut, cut_power_under_load
from ansible_collections.dbops.fleet.tests.integration.servers import wait_until

pytestmark = [pytest.mark.fleet, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostCluster]:
    """A synchronous cluster on hosts of its own, which are destroyed at the end."""
    if os.geteuid() != 0:
        pytest.skip("test hosts need root")
    hosts = Hosts(os.environ.get("FLEET_HOSTS_SET") or "failover")
    directory: Path = tmp_path_factory.mktemp("fleet")
    cluster = HostCluster(hosts, directory, synchronous=True)
    try:
        cluster.set_up()
        yield cluster
    finally:
        hosts.tool("down")


@pytest.fixture(scope="module")
def cut(fleet: HostCluster) -> PowerCut:
    """The primary lost its power under load, and somebody failed over."""
    return cut_power_under_load(fleet)


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

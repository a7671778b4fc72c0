# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List F where nothing can switch a host off, and a firewall keeps all but poolers and members from PostgreSQL.

FLEET_HOSTS_SET names the set (default: failover).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from ansible_collections.dbops.fleet.tests.faults.on_hosts import HostCluster, Hosts

pytestmark = [pytest.mark.fleet, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostCluster]:
    """An asynchronous cluster, so that the replicas alone are no quorum."""
    hosts = Hosts(os.environ.get("FLEET_HOSTS_SET") or "failover")
    cluster = HostCluster(
        hosts, tmp_path_factory.mktemp("fleet"), fencing=False, fencing_poolers_are_the_only_way_in=True
    )
    try:
        cluster.set_up()
        yield cluster
    finally:
        hosts.tool("down")


def test_f04_a_primary_that_nobody_reaches_is_replaced_once_every_pooler_holds_its_clients(fleet: HostCluster) -> None:
    """It goes on as a primary, with nobody to write to it, until it rejoins."""
    old = fleet.primary()
    everybody = ["controller", *(name for name in (*fleet.members, *fleet.poolers) if name != old)]
    load = fleet.load(8, think_seconds=0.02)
    with load:
        with fleet.hosts.cut(old, peers=everybody):
            done = fleet.play("failover")
        assert done.ok, done.text
        assert done.state == "ok", done.text
        assert done.record["record"]["fence"]["driver"] == "pooler_cut", done.record
        new = done.record["record"]["candidate"]
        # The network is back, and two servers take writes: the poolers know one of them.
        assert sorted(fleet.primaries()) == sorted([old, new])
        assert fleet.written_to() == fleet.hosts.address(new)
        # Only the operator can say that nobody wrote to the old one past the poolers.
        done = fleet.play("rejoin")
        assert f"-e fleet_rejoin_stop_primary={old}" in done.text
        assert not done.ok
        done = fleet.play("rejoin", fleet_rejoin_stop_primary=old)
        assert done.ok, done.text
    assert fleet.primary() == new
    report = fleet.report(load)
    assert report.acknowledged > 50
    assert report.duplicated == 0
    # Not replicated when the network was cut: a row of each client at most. Later writes to the old one would be more.
    assert report.lost <= 8

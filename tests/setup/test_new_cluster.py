# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input for a cluster that does not exist yet: each is refused by host and with a remedy, and leaves hosts bare."""

from __future__ import annotations

import pytest
from fleet import Fleet

HOSTS = ("pg3", "old1")


@pytest.fixture(scope="module", autouse=True)
def fresh_hosts(hosts):
    hosts.reset(*HOSTS)


@pytest.fixture
def bare(fleet: Fleet) -> Fleet:
    """Two hosts without data, one a cluster, both marked."""
    for name in HOSTS:
        fleet.mark(name)
    return fleet


def test_refuses_a_cluster_without_initial_primary(bare: Fleet) -> None:
    bare.member("pg3")
    run = bare.setup()
    assert run.says("no member is named as its first primary", "fleet_initial_primary: true for one of pg3")
    assert bare.touched("pg3") == []
    assert not bare.secrets.exists()


def test_refuses_two_initial_primaries(bare: Fleet) -> None:
    bare.member("pg3", fleet_initial_primary=True)
    bare.member("old1", fleet_initial_primary=True)
    run = bare.setup()
    assert run.says("pg3 and old1 are named as its first primary", "for one host only")
    assert bare.touched("pg3") == bare.touched("old1") == []


def test_refuses_a_new_cluster_while_a_member_cannot_be_reached(bare: Fleet) -> None:
    """It may hold the cluster's data."""
    bare.member("pg3", fleet_initial_primary=True)
    bare.member("old1")
    with bare.hosts.power_loss("old1"):
        run = bare.setup()
    assert run.says("old1 cannot be reached and may hold them", "Bring old1 back")
    assert bare.touched("pg3") == []


def test_refuses_a_pooler_of_a_cluster_that_the_inventory_does_not_know(bare: Fleet) -> None:
    bare.member("pg3", fleet_initial_primary=True)
    bare.pooler("old1", "orders", "billing")
    run = bare.setup()
    assert run.says("old1", "billing", "pgbouncer_clusters")
    assert bare.touched("pg3") == bare.touched("old1") == []


def test_refuses_a_pooler_without_the_hosts_of_its_clusters(bare: Fleet) -> None:
    """What they serve is read from the hosts; without them the pooler would lose its entries."""
    bare.member("pg3", fleet_initial_primary=True)
    bare.pooler("old1", "orders")
    run = bare.setup("--limit=old1")
    assert run.says("old1", "orders", "--limit")
    assert bare.touched("old1") == []


def test_refuses_somebody_elses_data_directory(bare: Fleet) -> None:
    bare.hosts.ssh("old1", "pg_createcluster --start 15 main")
    try:
        identifier = bare.sql("old1", "SELECT system_identifier FROM pg_control_system()", "postgres")
        bare.mark("old1")
        bare.member("pg3", fleet_initial_primary=True)
        bare.member("old1")
        run = bare.setup()
        assert run.says("old1 holds somebody else's data", "pg_dropcluster --stop 15 main")
        assert bare.sql("old1", "SELECT system_identifier FROM pg_control_system()", "postgres") == identifier
        assert not [path for path in bare.touched("old1") if path.startswith("/etc/")]
        assert bare.touched("pg3") == []
    finally:
        bare.hosts.ssh("old1", "pg_dropcluster --stop 15 main")


def test_says_which_version_the_host_can_have(bare: Fleet) -> None:
    bare.member("pg3", fleet_initial_primary=True, postgres_server_version=16)
    run = bare.setup()
    assert run.says("pg3: PostgreSQL 16 could not be installed", "Debian 13 ships PostgreSQL 17")
    assert not [path for path in bare.touched("pg3") if "/16/" in path]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"work_memm": "4MB"}, "work_memm"),
        ({"work_mem": "plenty"}, "work_mem"),
        ({"shared_buffers": "100TB"}, "shared_buffers"),
    ],
    ids=["a name that is none", "a value that is none", "a value out of range"],
)
def test_refuses_settings_that_postgresql_would_not_start_with(
    bare: Fleet, settings: dict[str, str], complaint: str
) -> None:
    bare.member("pg3", fleet_initial_primary=True, postgres_server_settings=settings)
    run = bare.setup()
    assert run.failed == {"pg3"}
    assert run.says(complaint)
    assert "online" not in bare.hosts.ssh("pg3", "pg_lsclusters --no-header")


def test_says_why_postgresql_does_not_start_and_goes_on_when_it_can(bare: Fleet) -> None:
    bare.member("pg3", fleet_initial_primary=True, postgres_server_settings={"shared_buffers": "6TB"})
    run = bare.setup()
    assert run.failed == {"pg3"}
    assert run.says("pg3: PostgreSQL 17 did not start. Its data is untouched.", "shared memory")
    bare.member("pg3", fleet_initial_primary=True)
    assert bare.setup().ok
    assert bare.sql("pg3", "SELECT pg_is_in_recovery()") == "f"

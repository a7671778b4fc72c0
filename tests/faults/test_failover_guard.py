# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List F, F19: what the start guard learns from the other members after a power cut of all hosts. Real servers.

That systemd heeds it is shown on test hosts (test_failover_hosts.py), what it makes of answers in its unit tests.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from ansible_collections.dbops.fleet.tests.integration.servers import Servers

GUARD = Path(__file__).resolve().parents[2] / "roles/postgres_server/files/usr/lib/dbops-fleet/start-guard"


@pytest.fixture
def servers() -> Iterator[Servers]:
    with Servers() as made:
        yield made


def test_f19_a_replica_without_its_primary_still_knows_the_timeline_of_the_failover(servers: Servers) -> None:
    """The walreceiver, and with it received_tli, is gone, and no restartpoint has told the control file."""
    loader = importlib.machinery.SourceFileLoader("start_guard", str(GUARD))
    spec = importlib.util.spec_from_loader("start_guard", loader)
    assert spec
    guard = importlib.util.module_from_spec(spec)
    loader.exec_module(guard)

    old = servers.primary("db1")
    old.sql("CREATE ROLE asking LOGIN IN ROLE pg_monitor")
    new = servers.replica("db2", of=old)
    other = servers.replica("db3", of=new)
    other.wait_for_replay(old)
    old.kill()
    new.promote()
    new.sql("CREATE TABLE since_the_failover (id int)")
    other.wait_for_replay(new)
    other.kill()
    new.kill()
    other.start()
    assert other.value("SELECT count(*) FROM pg_stat_wal_receiver") == 0
    assert other.value("SELECT timeline_id FROM pg_control_checkpoint()") == 1

    with psycopg.connect(other.conninfo(user="asking")) as connection:
        row = connection.execute(guard.QUERY).fetchone()
    assert row
    found = guard.objection([guard.Answer("db3", True, *row)], 1, row[2])
    assert found == guard.Objection("db3 follows timeline 2, this host is on timeline 1")
    assert guard.objection([guard.Answer("db3", True, *row)], 2, row[2]) is None

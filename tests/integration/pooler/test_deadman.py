# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dead-man: a pause that somebody forgot, or died in, ends by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.pooler import deadman
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.console import Endpoint
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.deadman import Deadman
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.operations import Poolers
from ansible_collections.dbops.fleet.tests.integration.poolers import Pooler
from ansible_collections.dbops.fleet.tests.integration.poolers import Poolers as PoolerMaker
from ansible_collections.dbops.fleet.tests.integration.servers import Servers, wait_until

OPERATION = f"test-{os.getpid()}"


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Where dead-men keep their files; afterwards none of them runs."""
    yield tmp_path
    for operation in deadman.armed(tmp_path):
        deadman.disarm(operation, tmp_path)


def make(endpoints: list[Endpoint], max_pause_seconds: float, lifetime_seconds: float = 60.0) -> Deadman:
    return Deadman(OPERATION, tuple(endpoints), ("orders",), max_pause_seconds, lifetime_seconds)


def test_it_can_be_proved_armed_from_anywhere_and_disarmed(
    pool1: Pooler, pool2: Pooler, endpoints: list[Endpoint], directory: Path
) -> None:
    assert deadman.not_armed(endpoints, OPERATION) == ["pool1", "pool2"]
    deadman.arm(make(endpoints, 5.0), directory=directory)
    assert deadman.not_armed(endpoints, OPERATION) == []
    assert deadman.armed(directory) == (OPERATION,)
    remote = [Endpoint("pool1", pool1.address, pool1.port, user="operator", sslmode="disable")]
    assert deadman.not_armed(remote, OPERATION) == []
    assert deadman.disarm(OPERATION, directory)
    wait_until(lambda: deadman.not_armed(endpoints, OPERATION) == ["pool1", "pool2"], "it to be gone")
    assert deadman.armed(directory) == ()
    assert not deadman.disarm(OPERATION, directory)


def test_a_pause_within_its_time_is_left_alone_and_a_longer_one_ends(
    pool1: Pooler, pool2: Pooler, endpoints: list[Endpoint], directory: Path
) -> None:
    deadman.arm(make(endpoints, 1.5), directory=directory)
    with Poolers.open(endpoints, ["orders"]) as poolers:
        started = time.monotonic()
        poolers.pause(1.0)
        while pool1.paused("orders") or pool2.paused("orders"):
            time.sleep(0.02)
            assert time.monotonic() - started < 5.0
        assert time.monotonic() - started > 1.4
        # The clock starts anew with each pause.
        poolers.pause(1.0)
        time.sleep(0.7)
        assert pool1.paused("orders")
        poolers.resume()


def test_it_resumes_when_the_orchestrator_is_killed_in_the_pause(
    pool1: Pooler, endpoints: list[Endpoint], pool2: Pooler, directory: Path
) -> None:
    """kill -9 of the whole process group of a process that armed the dead-man and paused, as a cancelled job does."""
    program = f"""
import os, sys, time
sys.path.insert(0, {str(Path(__file__).parents[3] / ".cache" / "collections")!r})
from pathlib import Path
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.console import Endpoint
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.deadman import Deadman, arm
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.operations import Poolers
endpoints = {endpoints!r}
arm(Deadman({OPERATION!r}, tuple(endpoints), ("orders",), 1.0), directory=Path({str(directory)!r}))
poolers = Poolers.open(endpoints, ["orders"])
poolers.pause(1.0)
print("paused", flush=True)
time.sleep(60)
"""
    orchestrator = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert orchestrator.stdout is not None
        assert orchestrator.stdout.readline() == "paused\n"
        assert pool1.paused("orders")
    finally:
        os.killpg(orchestrator.pid, signal.SIGKILL)
        orchestrator.wait()
    assert pool1.paused("orders"), "a dead console does not end a pause"
    wait_until(lambda: not pool1.paused("orders") and not pool2.paused("orders"), "the dead-man to resume", 5.0)
    assert pool1.query("orders", "SELECT 1") == 1


def test_a_frozen_process_does_not_keep_it_from_resuming_the_others(
    pool1: Pooler, pool2: Pooler, endpoints: list[Endpoint], directory: Path
) -> None:
    deadman.arm(make(endpoints, 0.5), directory=directory)
    with Poolers.open(endpoints, ["orders"]) as poolers:
        poolers.pause(1.0)
    pool2.freeze()
    wait_until(lambda: not pool1.paused("orders"), "pool1 to be resumed", 5.0)
    pool2.thaw()
    wait_until(lambda: not pool2.paused("orders"), "pool2 to be resumed", 5.0)


def test_it_stays_at_its_post_when_pgbouncer_is_restarted(pool1: Pooler, directory: Path) -> None:
    place = [Endpoint(pool1.name, str(pool1.directory), pool1.port)]
    deadman.arm(make(place, 0.5), directory=directory)
    pool1.kill()
    pool1.start()
    wait_until(lambda: not deadman.not_armed(place, OPERATION), "it to be back")
    with Poolers.open(place, ["orders"]) as poolers:
        poolers.pause(1.0)
    wait_until(lambda: not pool1.paused("orders"), "the dead-man to resume", 5.0)


def test_it_goes_by_itself_when_its_time_is_over(pool1: Pooler, directory: Path) -> None:
    place = [Endpoint(pool1.name, str(pool1.directory), pool1.port)]
    deadman.arm(make(place, 0.5, lifetime_seconds=0.5), directory=directory)
    wait_until(lambda: deadman.armed(directory) == (), "it to go", 5.0)


def test_it_follows_a_promotion_that_happened_in_the_pause_and_only_that(poolers: PoolerMaker, tmp_path: Path) -> None:
    with Servers() as servers:
        old = servers.primary("db1")
        new = servers.replica("db2", of=old)
        place = f"host={old.address} port={old.port} dbname=postgres"
        pooler = poolers.start("pool1", {"orders": place}, auth_user="postgres")
        endpoint = Endpoint(pooler.name, str(pooler.directory), pooler.port)
        staged = {"orders": {"host": new.address, "port": new.port, "dbname": "postgres"}}
        deadman.arm(Deadman(OPERATION, (endpoint,), ("orders",), 0.5, 60.0, staged), directory=tmp_path)
        pooler.databases["orders"] = f"host={new.address} port={new.port} dbname=postgres"
        pooler.write()
        try:
            for promoted in (False, True):
                with Poolers.open([endpoint], ["orders"]) as logins:
                    logins.pause(1.0)
                if promoted:
                    new.promote()
                wait_until(lambda: not pooler.paused("orders"), "the dead-man to resume", 10.0)
                expected = new if promoted else old
                assert pooler.query("orders", "SELECT inet_server_port()") == expected.port
        finally:
            deadman.disarm(OPERATION, tmp_path)


def test_it_is_not_armed_where_no_pgbouncer_is(tmp_path: Path) -> None:
    nowhere = Endpoint("nowhere", str(tmp_path), 6432)
    with pytest.raises(OperationFailed, match="nowhere: PgBouncer's socket"):
        deadman.arm(make([nowhere], 1.0), directory=tmp_path)


def test_it_refuses_endpoints_of_other_hosts_and_names_that_are_no_names() -> None:
    with pytest.raises(Refused, match="reached over the network"):
        make([Endpoint("far", "10.0.0.1")], 1.0)
    with pytest.raises(Refused, match="cannot name a dead-man"):
        Deadman("a b/../c", (), (), 1.0)

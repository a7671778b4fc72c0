# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The servers that all integration tests stand on do what their names say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from ansible_collections.dbops.fleet.tests.integration.servers import Servers, wait_until


def test_primary_and_replicas_stream_and_cascade(servers: Servers) -> None:
    first = servers.primary("db1")
    second = servers.replica("db2", of=first, slot="db2")
    third = servers.replica("db3", of=second)
    first.sql("CREATE TABLE t AS SELECT 42 AS answer")
    assert third.wait_for_replay(first).value("SELECT answer FROM t") == 42
    assert first.value("SELECT active FROM pg_replication_slots") is True


def test_promoted_by_hand_a_replica_takes_writes_and_the_others_follow(servers: Servers) -> None:
    first = servers.primary("db1")
    second, third = servers.replica("db2", of=first), servers.replica("db3", of=first)
    first.kill()
    second.promote()
    third.follow(second)
    second.sql("CREATE TABLE t ()")
    assert third.wait_for_replay(second).value("SELECT count(*) FROM t") == 0


def test_a_frozen_server_is_silent_until_it_is_thawed(servers: Servers) -> None:
    first = servers.primary("db1")
    first.freeze()
    assert first.running
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(first.conninfo() + " connect_timeout=2")
    first.thaw()
    assert first.value("SELECT 1") == 1


def test_a_killed_server_recovers_at_its_next_start(servers: Servers) -> None:
    first = servers.primary("db1")
    first.sql("CREATE TABLE t AS SELECT 1")
    first.kill()
    assert not first.running
    assert "in production" in first.control_data()
    assert first.start().value("SELECT count(*) FROM t") == 1
    assert "in production" not in first.stop().control_data()


def test_a_server_that_cannot_start_tells_its_log(servers: Servers) -> None:
    first = servers.server("db1").initdb(max_connections="many")
    with pytest.raises(RuntimeError, match="max_connections"):
        first.start()


def test_leftovers_of_a_killed_run_are_swept_by_the_next(servers: Servers) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import servers\n"
        "made = servers.Servers()\n"
        "print(made.primary('db1').pid, made.root, flush=True)\n"
        "sys.stdin.read()\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script, str(Path(__file__).parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert run.stdout is not None
    pid, root = run.stdout.readline().decode().split()
    run.send_signal(signal.SIGKILL)
    run.communicate()
    os.kill(int(pid), 0)
    Servers().close()
    wait_until(lambda: not _alive(int(pid)), "the forgotten server to be gone")
    assert not Path(root).exists()


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"

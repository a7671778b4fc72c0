# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List S: what is refused before anything is changed, found on real servers while clients write.

Every combination of facts is in unit tests (test_switchover_checks.py). Here one real case of each is brought about,
seen by the checks of the module, and gone again: all on one cluster, whose clients notice nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import psycopg
import pytest

from ansible_collections.dbops.fleet.tests.faults.cluster import Bouncer, Cluster
from ansible_collections.dbops.fleet.tests.faults.load import Load
from ansible_collections.dbops.fleet.tests.integration.servers import Server, wait_until


@pytest.fixture(scope="module")
def whole() -> Iterator[Cluster]:
    with Cluster(replicas=3, autovacuum="off") as made:
        Load.make_table(made.primary().conninfo())
        yield made


@pytest.fixture
def cluster(whole: Cluster) -> Iterator[Cluster]:
    """Under load while it is checked; before and after the test nothing refuses."""
    wait_until(lambda: whole.plan("pg2") == {}, "nothing to be refused any more", 30)
    with Load(whole.clients(), clients=4) as load:
        yield whole
    report = load.report(whole.servers["pg1"].conninfo())
    assert (report.lost, report.duplicated, report.errors) == (0, 0, [])
    assert report.acknowledged > 20
    assert report.longest_wait < 2.0


@contextlib.contextmanager
def set_on(server: Server, **settings: str) -> Iterator[None]:
    """Settings in force inside."""
    server.configure(**settings).reload()
    names = list(settings)
    wait_until(lambda: all(server.value(f"SHOW {name}") == settings[name] for name in names), "the settings")
    try:
        yield
    finally:
        server.configure(**dict.fromkeys(names)).reload()


def test_s03_a_client_that_is_idle_in_a_transaction_is_named(cluster: Cluster) -> None:
    with psycopg.connect(cluster.poolers[0].conninfo, prepare_threshold=None) as client:
        client.execute("INSERT INTO load VALUES (-1, 1)")
        found = wait_until(lambda: cluster.plan("pg2", drain_seconds=0.2), "the transaction to be old enough")
        assert "idle in transaction" in found["no_long_transaction"]
        client.rollback()


def test_s04_a_pool_in_session_mode_is_refused_unless_accepted(cluster: Cluster) -> None:
    session = Bouncer(cluster.root, "pool-session", cluster.primary(), pool_mode="session")
    cluster.poolers.append(session)
    try:
        # Only clients that are there can keep a server for themselves.
        with psycopg.connect(session.conninfo, autocommit=True, prepare_threshold=None) as client:
            client.execute("SELECT 1")
            found = cluster.plan("pg2")
            assert "pool-session" in found.get("pooler_session_mode", ""), found
            assert "pooler_session_mode" not in cluster.plan("pg2", accept_session_mode=True)
    finally:
        cluster.poolers.remove(session)
        session.kill()


def test_s17_a_candidate_that_has_received_much_and_replayed_little_is_refused(cluster: Cluster) -> None:
    candidate = cluster.servers["pg2"]
    (startup,) = cluster.processes(candidate, "startup")
    os.kill(startup, signal.SIGSTOP)
    try:
        write = "SELECT pg_logical_emit_message(false, 'x', repeat('x', 8000)) FROM generate_series(1, 600)"
        cluster.servers["pg1"].sql(write)
        found = wait_until(lambda: cluster.plan("pg2", max_lag_mb=2), "the lag to be seen")
        assert "received and not replayed" in found["candidate_lag"]
    finally:
        os.kill(startup, signal.SIGCONT)


def test_s18_a_candidate_whose_replay_is_paused_or_delayed_is_refused(cluster: Cluster) -> None:
    candidate = cluster.servers["pg2"]
    candidate.sql("SELECT pg_wal_replay_pause()")
    wait_until(lambda: candidate.value("SELECT pg_get_wal_replay_pause_state()") == "paused", "the pause")
    assert "paused" in cluster.plan("pg2")["candidate_replays"]
    candidate.sql("SELECT pg_wal_replay_resume()")
    with set_on(candidate, recovery_min_apply_delay="1min"):
        assert "60 s late" in cluster.plan("pg2")["candidate_replays"]


def test_s19_a_candidate_that_could_not_serve_is_refused_with_the_setting(cluster: Cluster) -> None:
    with set_on(cluster.servers["pg2"], default_transaction_read_only="on"):
        assert "default_transaction_read_only is on" in cluster.plan("pg2")["candidate_settings"]
    # A disk that is really full: test_switchover_hosts.py. The automatic choice takes another one then.
    full = {"pg2": {"disk_free_mb": 100}, "pg3": {"disk_free_mb": 9000}}
    assert "100 MB free" in cluster.plan("pg2", instances=full)["candidate_disk"]
    assert cluster.plan(instances=full) == {}


def test_s20_a_standby_of_a_standby_is_refused(cluster: Cluster) -> None:
    third, below = cluster.servers["pg3"], cluster.servers["pg4"]
    third.sql("SELECT pg_create_physical_replication_slot('pg4')")
    below.follow(third, slot="pg4").wait_for_streaming()
    try:
        wait_until(lambda: cluster.plan("pg4").get("candidate_streams"), "pg4 to be seen below pg3")
        assert "no walsender for it" in cluster.plan("pg4")["candidate_streams"]
    finally:
        below.follow(cluster.servers["pg1"], slot="pg4").wait_for_streaming()
        wait_until(
            lambda: third.value("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'pg4' AND NOT active"),
            "pg4 to have left pg3",
        )
        third.sql("SELECT pg_drop_replication_slot('pg4')")


def test_s20_data_of_another_cluster_are_refused(cluster: Cluster) -> None:
    stranger = cluster._servers.primary("stranger")
    found = cluster.plan("pg2", members=[*cluster.servers.values(), stranger])
    assert "stranger" in found["same_system"]
    stranger.stop()


def test_s19_a_candidate_that_would_not_let_a_client_of_today_in_is_refused(cluster: Cluster) -> None:
    primary, candidate = cluster.servers["pg1"], cluster.servers["pg2"]
    primary.sql("CREATE ROLE clerk LOGIN")
    candidate.wait_for_replay(primary)
    hba = candidate.data / "pg_hba.conf"
    kept = hba.read_text()
    hba.write_text(f"host all clerk 127.0.0.1/32 reject\n{kept}")
    candidate.reload()
    try:
        assert cluster.plan("pg2") == {}, "nobody of that name is logged in"
        with psycopg.connect(f"host=127.0.0.1 port={primary.port} dbname=postgres user=clerk"):
            found = cluster.plan("pg2")["candidate_logins"]
    finally:
        hba.write_text(kept)
        candidate.reload()
        primary.sql("DROP ROLE clerk")
    assert "clerk to postgres from 127.0.0.1" in found


def test_s27_clients_that_would_not_wait_as_long_as_the_pause_are_named(cluster: Cluster) -> None:
    pooler = cluster.poolers[1]
    ini = pooler.directory / "pgbouncer.ini"
    kept = ini.read_text()
    ini.write_text(kept.replace("query_wait_timeout = 60", "query_wait_timeout = 3"))
    pooler.signal(signal.SIGHUP)
    try:
        found = wait_until(lambda: cluster.plan("pg2"), "PgBouncer to have read its file")
    finally:
        ini.write_text(kept)
        pooler.signal(signal.SIGHUP)
    (said,) = found.values()
    assert "pool2" in said
    assert "query_wait_timeout" in said


def test_s21_two_primaries_are_both_named_and_so_is_another_timeline(cluster: Cluster) -> None:
    """The last test of this file: pg4 leaves the cluster, and pg3 goes with it."""
    fourth, third = cluster.servers["pg4"], cluster.servers["pg3"]
    third.follow(fourth).wait_for_streaming()
    fourth.promote()
    wait_until(lambda: fourth.value("SELECT NOT pg_is_in_recovery()"), "pg4 to be promoted")
    del cluster.servers["pg4"]
    members = [*cluster.servers.values(), fourth]
    assert "pg1 and pg4" in cluster.plan("pg2", members=members)["one_primary"]
    wait_until(lambda: "same_timeline" in cluster.plan("pg2"), "pg3 to be on the other timeline")
    assert "candidate_streams" in cluster.plan("pg3")
    cluster.kill(third)
    del cluster.servers["pg3"]
    cluster.kill(fourth)

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts and judgement of real clusters, healthy and broken."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.postgres import session
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.instance import Instance
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts
from ansible_collections.dbops.fleet.plugins.module_utils.topology.judge import ClusterView, judge
from ansible_collections.dbops.fleet.plugins.module_utils.topology.read import Address, read_cluster, read_local
from ansible_collections.dbops.fleet.plugins.module_utils.topology.report import cluster_report
from ansible_collections.dbops.fleet.tests.integration.servers import Server, Servers, wait_until


def look(*servers: Server) -> tuple[MemberFacts, ...]:
    return read_cluster(
        [Address(server.name, server.address, server.port, server.conninfo()) for server in servers],
        connect_timeout=2,
        timeout=3,
    )


def codes(view: ClusterView) -> set[tuple[str, str | None]]:
    return {(problem.code, problem.member) for problem in view.problems}


def local(server: Server) -> MemberFacts:
    instance = Instance(
        version=server.version,
        name=server.name,
        data_directory=server.data,
        binaries=server.binaries,
        port=server.port,
        socket_directory=str(server.socket_directory),
    )
    return read_local(instance, server.name, server.address)


def judged(servers: Sequence[Server]) -> ClusterView:
    return judge(look(*servers))


def test_a_healthy_cluster_with_a_cascade_has_no_problems(servers: Servers) -> None:
    first = servers.primary("db1", synchronous_standby_names="ANY 1 (db2)")
    second = servers.replica("db2", of=first, slot="db2")
    third = servers.replica("db3", of=first)
    fourth = servers.replica("db4", of=second)
    first.sql("CREATE TABLE t ()")
    for replica in (second, third, fourth):
        replica.wait_for_replay(first)
    facts = look(first, second, third, fourth)
    view = judge(facts)
    assert codes(view) == set(), cluster_report("orders", view)
    assert view.primary == "db1"
    assert view.timeline == 1
    assert view.replicas == ("db2", "db3", "db4")
    assert {member.name: member.upstream for member in view.members} == {
        "db1": None,
        "db2": "db1",
        "db3": "db1",
        "db4": "db2",
    }
    assert {member.name: member.sync_state for member in view.members}["db2"] == "quorum"
    assert facts[0].slots[0].name == "db2"
    assert facts[0].slots[0].active
    assert {sender.application_name: sender.slot_name for sender in facts[0].senders} == {"db2": "db2", "db3": None}
    assert facts[1].receiver is not None
    assert facts[1].receiver.slot_name == "db2"
    assert facts[1].receiver.last_message_age_seconds is not None
    assert facts[1].replay_lag_seconds == 0
    assert facts[1].settings["wal_retrieve_retry_interval"] == "100ms"
    assert facts[0].history is not None
    assert facts[0].history.timeline == 1
    for fact in facts:
        assert MemberFacts.from_dict(fact.to_dict()) == fact


def test_a_hand_promotion_is_followed_and_the_stopped_old_primary_named(servers: Servers) -> None:
    first = servers.primary("db1")
    second, third = servers.replica("db2", of=first), servers.replica("db3", of=first)
    first.stop()
    second.promote()
    third.follow(second).wait_for_streaming()
    second.sql("CREATE TABLE t ()")
    third.wait_for_replay(second)
    view = judged([first, second, third])
    assert view.primary == "db2"
    assert view.timeline == 2
    assert codes(view) == {("stopped", "db1")}
    facts = look(second, third)
    assert facts[0].history is not None
    assert facts[0].history.timelines == (1, 2)
    assert facts[1].timeline == 2
    assert facts[1].history == facts[0].history
    old = local(first)
    assert old.state == "stopped"
    assert old.control is not None
    assert old.control.state == "shut down"
    # Cleanly stopped: everything it has is in the new line, so it may follow without pg_rewind.
    assert facts[0].history.contains(1, old.control.checkpoint_lsn)
    assert ("timeline_behind", "db1") in codes(judge([old, *facts]))


def test_an_old_primary_that_comes_back_is_a_second_primary(servers: Servers) -> None:
    first = servers.primary("db1")
    second, third = servers.replica("db2", of=first), servers.replica("db3", of=first)
    first.kill()
    second.promote()
    first.start()
    view = judged([first, second, third])
    assert view.primary is None
    assert view.primaries == ("db1", "db2")
    assert {("two_primaries", "db1"), ("two_primaries", "db2")} <= codes(view)
    assert "db1 (timeline 1) and db2 (timeline 2)" in str(view.problems[0])


def test_readers_are_replicas_that_stream_and_replay_without_a_delay(servers: Servers) -> None:
    first = servers.primary("db1")
    second, third, fourth = (servers.replica(name, of=first) for name in ("db2", "db3", "db4"))
    third.configure(recovery_min_apply_delay="1h").reload()
    fourth.stop()
    wait_until(lambda: third.value("SHOW recovery_min_apply_delay") == "1h", "the delay")
    second.wait_for_replay(first)
    assert judged([first, second, third, fourth]).readers == ("db2",)


def test_a_diverged_old_primary_is_told_by_its_position(servers: Servers) -> None:
    first = servers.primary("db1")
    second = servers.replica("db2", of=first)
    second.freeze("walreceiver")
    first.sql("CREATE TABLE lost AS SELECT generate_series(1, 1000)")
    first.sql("CHECKPOINT")
    first.kill()
    second.thaw("walreceiver").promote()
    view = judge([local(first), *look(second)])
    assert ("timeline_diverged", "db1") in codes(view) or ("timeline_behind", "db1") in codes(view)
    assert local(first).control is not None
    assert local(first).control.state == "in production"  # type: ignore[union-attr]


def test_an_orphan_streams_from_nobody_and_its_lag_is_not_called_zero(servers: Servers) -> None:
    first = servers.primary("db1")
    second = servers.replica("db2", of=first).configure(primary_conninfo="").reload()
    wait_until(lambda: second.value("SELECT count(*) FROM pg_stat_wal_receiver") == 0, "the walreceiver to end")
    first.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)")
    view = judged([first, second])
    assert codes(view) == {("orphan_replica", "db2")}
    assert view.members[1].lag_seconds is None
    assert (view.members[1].lag_bytes or 0) > 10000
    assert view.members[1].upstream is None


def test_a_standby_restarted_without_upstream_still_knows_its_timeline(servers: Servers) -> None:
    first = servers.primary("db1")
    second, third = servers.replica("db2", of=first), servers.replica("db3", of=first)
    first.kill()
    second.promote()
    third.follow(second).wait_for_streaming()
    second.sql("CREATE TABLE t ()")
    third.wait_for_replay(second)
    second.kill()
    (facts,) = look(third.restart())
    # What PostgreSQL calls received is nothing, or the start of a segment, although more is on disk and replayed.
    assert facts.replay_lsn is not None
    assert facts.receive_lsn is None or facts.receive_lsn <= facts.replay_lsn
    assert facts.position == facts.replay_lsn
    assert facts.timeline == 2


def test_a_paused_replay_is_told(servers: Servers) -> None:
    first = servers.primary("db1")
    second = servers.replica("db2", of=first)
    second.sql("SELECT pg_wal_replay_pause()")
    assert codes(judged([first, second])) == {("replay_paused", "db2")}


def test_a_lost_slot_and_its_orphan_are_told(servers: Servers) -> None:
    first = servers.primary("db1")
    second = servers.replica("db2", of=first, slot="db2").stop()
    first.configure(max_slot_wal_keep_size="1MB", min_wal_size="32MB", max_wal_size="32MB").reload()
    wait_until(lambda: first.value("SHOW max_slot_wal_keep_size") == "1MB", "the setting to be read")
    for _ in range(4):
        first.sql("SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1000000))")
        first.sql("SELECT pg_switch_wal()")
    first.sql("CHECKPOINT")
    second.start()
    assert {("slot_lost", "db1"), ("orphan_replica", "db2")} <= codes(judged([first, second]))


def test_a_stranger_is_told_by_its_system_identifier(servers: Servers) -> None:
    first = servers.primary("db1")
    second = servers.replica("db2", of=first)
    stranger = servers.primary("db3")
    view = judged([first, second, stranger])
    assert view.primary == "db1"
    assert codes(view) == {("foreign_system_identifier", "db3")}


def test_frozen_stopped_and_unknown_hosts_are_told_apart_in_time(servers: Servers) -> None:
    first = servers.primary("db1")
    second, third = servers.replica("db2", of=first), servers.replica("db3", of=first)
    second.freeze()
    third.stop()
    started = time.monotonic()
    facts = (*look(first, second, third), *read_cluster([Address("db4", "no-such-host.invalid")]))
    took = time.monotonic() - started
    assert [fact.state for fact in facts] == ["running", "unreachable", "stopped", "unreachable"]
    assert all(fact.error for fact in facts[1:])
    assert took < 8
    assert {("unreachable", "db2"), ("stopped", "db3"), ("unreachable", "db4")} <= codes(judge(facts))
    second.thaw()


def test_a_server_frozen_after_the_session_opened_does_not_hold_the_reader(servers: Servers) -> None:
    first = servers.primary("db1")
    connection = session.connect_remote(first.conninfo())
    psycopg = session.require_psycopg()
    first.freeze()
    started = time.monotonic()
    with pytest.raises(psycopg.OperationalError), session.deadline(connection, 0.5):
        connection.execute("SELECT 1")
    assert time.monotonic() - started < 3
    first.thaw()


def test_a_server_that_starts_up_or_rejects_says_so(servers: Servers) -> None:
    first = servers.primary("db1")
    standby = servers.server("db2").clone(first, hot_standby="off").start(wait=False)
    wait_until(lambda: look(standby)[0].state == "starting", "db2 to answer")
    wrong = Address("db1", first.address, first.port, first.conninfo(user="nobody_there"))
    (facts,) = read_cluster([wrong])
    assert facts.state == "unreachable"
    assert "nobody_there" in (facts.error or "")


def test_pg_monitor_is_enough_but_for_histories(servers: Servers) -> None:
    first = servers.primary("db1")
    first.sql("CREATE ROLE watcher LOGIN")
    first.sql("GRANT pg_monitor TO watcher")
    second = servers.replica("db2", of=first, slot="db2")
    first.kill()
    second.promote()
    third = servers.replica("db3", of=second)
    full = look(second, third)
    seen = read_cluster([Address(s.name, s.address, s.port, s.conninfo(user="watcher")) for s in (second, third)])
    for everything, little in zip(full, seen, strict=True):
        assert little.state == "running"
        assert little.timeline == everything.timeline
        assert little.history is None
        assert set(little.settings) == set(everything.settings)
        assert len(little.senders) == len(everything.senders)
    assert seen[1].receiver is not None
    assert seen[1].receiver.sender_port == second.port


def test_passwords_in_primary_conninfo_are_not_returned(servers: Servers) -> None:
    first = servers.primary("db1")
    second = servers.replica("db2", of=first)
    second.configure(primary_conninfo=second.settings["primary_conninfo"] + " password=hunter2").reload()
    wait_until(lambda: "hunter2" in second.value("SHOW primary_conninfo"), "the setting to be read")
    (facts,) = look(second)
    assert "hunter2" not in str(facts)
    assert "application_name=db2" in facts.settings["primary_conninfo"]


def test_locally_read_facts_have_the_control_file_too(servers: Servers) -> None:
    first = servers.primary("db1")
    running = local(first)
    assert running.state == "running"
    assert running.is_primary
    assert running.control is not None
    assert running.control.system_identifier == running.system_identifier
    first.kill()
    crashed = local(first)
    assert crashed.state == "stopped"
    assert crashed.control is not None
    assert not crashed.control.shut_down_cleanly
    assert crashed.system_identifier == running.system_identifier

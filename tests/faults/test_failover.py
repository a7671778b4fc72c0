# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List F: the primary is gone, or seems to be. Real servers on loopback.

Elsewhere: power cuts under load, F13, F17, F19, F22, F25 and second strikes on test hosts (test_failover_hosts.py),
poolers that are the only way in (test_failover_pooler_cut_hosts.py) and database hosts that are poolers too
(test_failover_shared_hosts.py); the worker killed at each journal step (test_failover_killed.py); the drivers of F05
also in unit tests (test_fencing_command.py, test_fencing_ec2.py). An EC2 that really stops instances is not to be had.

F24, the promotion of another site, is here a replica that is never first choice while its cluster's other members are
out of sight: one cluster may span sites, there is no operation on two clusters. For F25 a unit of Patroni's name runs;
Patroni itself, with etcd, is in tests/benchmarks/bench_peers.py.

The list has no F06, F18, F20 and F21.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.failover.fencing_command import fence_by_command
from ansible_collections.dbops.fleet.tests.faults.load import Load
from ansible_collections.dbops.fleet.tests.faults.loopback import OFF, LoopbackCluster
from ansible_collections.dbops.fleet.tests.integration.servers import Server, Servers, wait_until


@pytest.fixture
def servers() -> Iterator[Servers]:
    with Servers() as made:
        yield made


@pytest.fixture
def cluster(servers: Servers, tmp_path: Path) -> LoopbackCluster:
    return LoopbackCluster(servers, tmp_path)


def _write(server: Server) -> None:
    with contextlib.suppress(psycopg.OperationalError):
        server.sql("INSERT INTO acked VALUES (2)")


def test_f01_a_crashed_primary_on_a_reachable_host_is_started_again_first(cluster: LoopbackCluster) -> None:
    cluster.n1.kill()
    plan = cluster.plan()
    assert plan.action == "restart"
    assert plan.worker == "n1"
    end = cluster.fail_over(OFF)
    assert end["state"] == "ok", end
    assert end["record"]["election"]["loss"]["kind"] == "none"
    assert cluster.primaries() == [end["record"]["candidate"]]


def test_f02_a_power_cut_is_failed_over_and_the_siblings_follow(cluster: LoopbackCluster) -> None:
    cluster.n1.sql("INSERT INTO acked SELECT generate_series(1, 1000)")
    cluster.wait_for_replicas()
    cluster.n1.kill()
    cluster.cut.add("n1")
    end = cluster.fail_over(OFF)
    assert end["state"] == "ok", end
    new = cluster.servers[end["record"]["candidate"]]
    sibling = cluster.servers["n3" if new.name == "n2" else "n2"]
    assert new.value("SELECT count(*) FROM acked") == 1000
    new.sql("INSERT INTO acked VALUES (1001)")
    sibling.wait_for_replay(new)
    assert sibling.value("SELECT count(*) FROM acked") == 1001
    assert new.value("SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s AND active", sibling.name) == 1
    assert end["seconds"] < 5


def test_f03_a_primary_that_only_the_controller_lost_is_refused(cluster: LoopbackCluster) -> None:
    cluster.cut.add("n1")
    end = cluster.fail_over(OFF)
    assert end["state"] == "refused"
    assert end["refusals"] == ["alive"]
    assert cluster.primaries() == ["n1"]


def test_f04_without_a_fence_nothing_is_promoted_and_replicas_go_back(cluster: LoopbackCluster) -> None:
    cluster.n1.freeze()
    cluster.cut.add("n1")
    end = cluster.fail_over()
    assert end["state"] == "refused"
    assert end["details"]["code"] == "fencing_unconfirmed"
    assert end["details"]["fence"]["manual"]
    cluster.n1.thaw()
    for name in ("n2", "n3"):
        cluster.servers[name].wait_for_streaming()
    assert cluster.primaries() == ["n1"]


def test_f04_a_synchronous_cluster_is_fenced_by_its_quorum(servers: Servers, tmp_path: Path) -> None:
    rule = {"synchronous_standby_names": "ANY 1 (n1, n2, n3)"}
    cluster = LoopbackCluster(servers, tmp_path, **rule)
    cluster.n1.freeze()
    cluster.cut.add("n1")
    end = cluster.fail_over()
    assert end["state"] == "ok", end
    assert end["record"]["fence"]["level"] == "quorum"
    new = cluster.servers[end["record"]["candidate"]]
    new.sql("INSERT INTO acked VALUES (1)")
    cluster.n1.thaw()
    # The old primary lives again; its commits wait for confirmations that cannot come.
    writer = threading.Thread(target=_write, args=(cluster.n1,), daemon=True)
    writer.start()
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    wait_until(lambda: cluster.n1.value(waiting), "the commit to wait")
    writer.join(1.0)
    assert writer.is_alive(), "the old primary acknowledged a commit"
    cluster.n1.kill()


def test_f07_the_most_advanced_replica_is_chosen_and_the_loss_is_estimated(cluster: LoopbackCluster) -> None:
    cluster.servers["n2"].freeze("walreceiver")
    cluster.n1.sql("INSERT INTO acked SELECT generate_series(1, 5000)")
    cluster.servers["n3"].wait_for_replay(cluster.n1)
    cluster.n1.kill()
    cluster.servers["n2"].thaw("walreceiver")
    cluster.cut.add("n1")
    end = cluster.fail_over(OFF)
    assert end["state"] == "ok", end
    assert end["record"]["election"]["loss"]["kind"] in ("unknown", "at_least")
    new = cluster.servers[end["record"]["candidate"]]
    assert new.value("SELECT count(*) FROM acked") == 5000


def test_a_named_candidate_that_is_behind_gets_the_rest_from_another_replica(cluster: LoopbackCluster) -> None:
    n2, n3 = cluster.servers["n2"], cluster.servers["n3"]
    # n2 loses its upstream before the rows are written, and so cannot have them in its receive buffer either.
    n2.follow_nobody()
    cluster.n1.sql("INSERT INTO acked SELECT generate_series(1, 2000)")
    n3.wait_for_replay(cluster.n1)
    cluster.n1.kill()
    cluster.cut.add("n1")
    end = cluster.fail_over(OFF, candidate="n2", primary="n1")
    assert end["state"] == "ok", end
    assert end["record"]["election"]["catch_up_from"] == "n3"
    assert n2.value("SELECT count(*) FROM acked") == 2000
    assert n3.value("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'n2'") == 0


def test_f11_what_lies_on_disk_counts_for_a_standby_that_was_restarted(cluster: LoopbackCluster) -> None:
    """n3 received rows, does not replay them (a long delay), and is restarted when its upstream is gone."""
    n3 = cluster.servers["n3"]
    n3.configure(recovery_min_apply_delay="1h").restart().wait_for_streaming()
    cluster.servers["n2"].follow_nobody()
    cluster.n1.sql("INSERT INTO acked SELECT generate_series(1, 3000)")
    target = cluster.n1.value("SELECT pg_current_wal_flush_lsn()")
    wait_until(lambda: n3.value("SELECT pg_last_wal_receive_lsn() >= %s::pg_lsn", target), "n3 to receive")
    cluster.n1.kill()
    cluster.cut.add("n1")
    n3.restart()
    assert n3.value("SELECT pg_last_wal_receive_lsn()") is None
    refused = cluster.fail_over(OFF, primary="n1")
    assert refused["state"] == "refused"
    assert refused["refusals"] == ["source_cannot_send"]
    end = cluster.fail_over(OFF, primary="n1", candidate="n3")
    assert end["state"] in ("ok", "degraded"), end
    assert n3.value("SELECT count(*) FROM acked") == 3000


def test_f23_a_stopped_upstream_of_a_cascade_is_not_taken_for_the_primary(servers: Servers, tmp_path: Path) -> None:
    """n1's host cannot be looked at, and its server lives: with n2 gone for the primary, two would take writes."""
    cluster = LoopbackCluster(servers, tmp_path)
    n2 = cluster.servers["n2"]
    n2.sql("SELECT pg_create_physical_replication_slot('n3')")
    cluster.servers["n3"].follow(n2)
    cluster.servers["n3"].wait_for_streaming()
    n2.stop()
    cluster.cut.add("n1")
    end = cluster.fail_over(OFF)
    assert (end["plan"].primary, end["refusals"][0]) == ("n1", "alive")
    assert cluster.primaries() == ["n1"]


def test_f14_a_candidate_that_dies_after_its_promotion_began_is_fenced_and_the_next_one_chosen(
    cluster: LoopbackCluster,
) -> None:
    cluster.n1.kill()
    cluster.cut.add("n1")
    end = cluster.fail_over(OFF, candidate="n2", worker="n3")
    assert end["state"] == "ok"
    cluster.servers["n2"].kill()
    cluster.cut.add("n2")
    # Nobody can ask n1 either, which may have followed n2 in between for all that anybody knows.
    assert cluster.fail_over(OFF)["refusals"] == ["data_loss"]
    end = cluster.fail_over(OFF, accept_data_loss="orders")
    assert end["state"] == "degraded", end
    assert cluster.primaries() == ["n3"]


def test_f15_only_a_replica_that_is_never_to_be_promoted_is_left(servers: Servers, tmp_path: Path) -> None:
    cluster = LoopbackCluster(servers, tmp_path, replicas=1)
    cluster.priorities["n2"] = 0
    cluster.n1.kill()
    cluster.cut.add("n1")
    assert cluster.fail_over(OFF)["refusals"] == ["only_reserved"]
    assert cluster.fail_over(OFF, candidate="n2")["state"] == "ok"


def test_f24_another_site_is_not_promoted_while_nobody_knows_what_the_main_site_does(
    servers: Servers, tmp_path: Path
) -> None:
    """n1 and n2 are the main site, alive behind a cut; n3 is the other site's replica, which is never first choice."""
    cluster = LoopbackCluster(servers, tmp_path)
    cluster.priorities["n3"] = 0
    cluster.n1.sql("INSERT INTO acked SELECT generate_series(1, 100)")
    cluster.wait_for_replicas()
    n2, n3 = cluster.servers["n2"], cluster.servers["n3"]
    cluster.n1.freeze()
    n2.freeze()
    cluster.cut |= {"n1", "n2"}
    assert set(cluster.fail_over()["refusals"]) & {"data_loss", "only_reserved"}
    # Named, and with consent to lose: still nobody has seen the main site off.
    end = cluster.fail_over(candidate="n3", accept_data_loss="orders")
    assert end["state"] == "refused"
    assert end["details"]["code"] == "fencing_unconfirmed"
    end = cluster.fail_over(candidate="n3", accept_data_loss="orders", without_fence="orders")
    assert end["state"] == "degraded", end
    assert end["record"]["election"]["consented"]
    assert end["record"]["fence"]["manual"]
    assert n3.value("SELECT count(*) FROM acked") == 100
    for server in (cluster.n1, n2):
        server.kill()


def test_f16_commits_do_not_wait_for_members_that_are_gone(servers: Servers, tmp_path: Path) -> None:
    cluster = LoopbackCluster(servers, tmp_path, synchronous_standby_names="FIRST 1 (n1, n2)", replicas=1)
    cluster.n1.kill()
    cluster.cut.add("n1")
    end = cluster.fail_over(OFF)
    assert end["state"] == "degraded", end
    cluster.servers["n2"].sql("INSERT INTO acked VALUES (1)")


def test_f09_a_silent_quorum_member_needs_the_operators_consent(servers: Servers, tmp_path: Path) -> None:
    cluster = LoopbackCluster(servers, tmp_path, synchronous_standby_names="ANY 1 (n1, n2, n3)")
    cluster.n1.kill()
    cluster.servers["n3"].freeze()
    cluster.cut |= {"n1", "n3"}
    assert cluster.fail_over(OFF)["refusals"] == ["data_loss"]
    end = cluster.fail_over(OFF, accept_data_loss="orders")
    assert end["state"] == "degraded", end
    assert end["record"]["election"]["consented"]


def test_f05_a_power_command_that_says_yes_without_effect_promotes_nobody(cluster: LoopbackCluster) -> None:
    rung = fence_by_command("true", "echo Chassis Power is on", "is off", timeout=0.3)
    cluster.n1.freeze()
    cluster.cut.add("n1")
    end = cluster.fail_over(rung)
    assert end["state"] == "refused"
    assert end["details"]["code"] == "fencing_unconfirmed"
    cluster.n1.thaw()
    for name in ("n2", "n3"):
        cluster.servers[name].wait_for_streaming()
    assert cluster.primaries() == ["n1"]


def _lose_the_primary_under_load(root: Path, number: int) -> None:
    """The member that is preferred is behind; commits are confirmed by the other one."""
    with Servers() as servers:
        directory = root / str(number)
        directory.mkdir(mode=0o755)
        cluster = LoopbackCluster(servers, directory, synchronous_standby_names="ANY 1 (n1, n2, n3)")
        cluster.priorities["n2"] = 200
        Load.make_table(cluster.n1.conninfo())
        with Load([cluster.n1.conninfo()], clients=8) as load:
            cluster.servers["n2"].freeze("walreceiver")
            rows = "SELECT count(*) >= %s FROM load"
            # Another moment each time, and the same ones in every run of the test.
            wait_until(lambda: cluster.n1.value(rows, 100 + 37 * number), "the clients to write")
            cluster.n1.kill()
            cluster.servers["n2"].thaw("walreceiver")
            cluster.cut.add("n1")
            end = cluster.fail_over(OFF)
        assert end["state"] == "ok", (number, end)
        assert end["record"]["election"]["loss"]["kind"] == "none"
        seen = load.report(rows_of=cluster.servers[end["record"]["candidate"]].conninfo())
        assert (seen.lost, seen.duplicated) == (0, 0), (number, end)
        assert seen.acknowledged >= 100


def test_f08_with_a_quorum_no_acknowledged_row_is_lost_whoever_is_preferred(tmp_path: Path) -> None:
    for number in range(2):
        _lose_the_primary_under_load(tmp_path, number)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_f08_a_hundred_times(tmp_path: Path) -> None:
    for number in range(100):
        _lose_the_primary_under_load(tmp_path, number)


def test_f08_a_preferred_candidate_that_is_behind_is_passed_over(servers: Servers, tmp_path: Path) -> None:
    cluster = LoopbackCluster(servers, tmp_path, synchronous_standby_names="ANY 1 (n1, n2, n3)")
    cluster.priorities["n2"] = 200
    n2 = cluster.servers["n2"]
    n2.follow_nobody()
    cluster.n1.sql("INSERT INTO acked SELECT generate_series(1, 2000)")
    cluster.n1.kill()
    cluster.cut.add("n1")
    end = cluster.fail_over(OFF, primary="n1")
    assert end["record"]["candidate"] == "n3", end
    assert cluster.servers["n3"].value("SELECT count(*) FROM acked") == 2000


def test_f10_a_newer_timeline_wins_over_a_longer_log(servers: Servers, tmp_path: Path) -> None:
    """n2 was promoted and is lost, n4 follows it; n3 stayed with the old n1, which wrote far more and is lost too."""
    cluster = LoopbackCluster(servers, tmp_path, replicas=3)
    n2, n3, n4 = (cluster.servers[name] for name in ("n2", "n3", "n4"))
    n2.promote()
    n2.sql("SELECT pg_create_physical_replication_slot('n4')")
    n4.follow(n2)
    n2.sql("INSERT INTO acked VALUES (1)")
    n4.wait_for_replay(n2)
    cluster.n1.sql("INSERT INTO acked SELECT generate_series(1001, 9000)")
    n3.wait_for_replay(cluster.n1)
    cluster.n1.kill()
    n2.kill()
    cluster.cut |= {"n1", "n2"}
    end = cluster.fail_over(OFF, primary="n2", accept_data_loss="orders")
    assert end["state"] == "degraded", end
    assert end["record"]["candidate"] == "n4"
    assert any("n3 left n4's line" in problem for problem in end["problems"])
    assert n4.value("SELECT count(*) FROM acked") == 1


def test_f12_a_delayed_replica_with_the_most_log_gives_it_and_is_not_promoted(cluster: LoopbackCluster) -> None:
    n2, n3 = cluster.servers["n2"], cluster.servers["n3"]
    n3.configure(recovery_min_apply_delay="1h").restart().wait_for_streaming()
    n2.follow_nobody()
    cluster.n1.sql("INSERT INTO acked SELECT generate_series(1, 3000)")
    target = cluster.n1.value("SELECT pg_current_wal_flush_lsn()")
    wait_until(lambda: n3.value("SELECT pg_last_wal_receive_lsn() >= %s::pg_lsn", target), "n3 to receive")
    cluster.n1.kill()
    cluster.cut.add("n1")
    end = cluster.fail_over(OFF, primary="n1")
    assert end["state"] == "ok", end
    assert end["record"]["candidate"] == "n2"
    assert end["record"]["election"]["catch_up_from"] == "n3"
    assert n2.value("SELECT count(*) FROM acked") == 3000


def test_f22_a_primary_that_comes_back_before_the_promotion_keeps_its_place(servers: Servers, tmp_path: Path) -> None:
    cluster = LoopbackCluster(servers, tmp_path, synchronous_standby_names="ANY 1 (n1, n2, n3)")
    cluster.n1.freeze()
    cluster.cut.add("n1")
    end = cluster.fail_over(meanwhile=cluster.n1.thaw)
    assert end["state"] == "rolled_back", end
    assert "n1 answers again" in end["reason"]
    for name in ("n2", "n3"):
        cluster.servers[name].wait_for_streaming()
    assert cluster.primaries() == ["n1"]
    cluster.n1.sql("INSERT INTO acked VALUES (1)")


def test_f23_cascaded_standbys_of_the_candidate_and_of_the_lost_primary_follow(
    servers: Servers, tmp_path: Path
) -> None:
    cluster = LoopbackCluster(servers, tmp_path)
    for name, upstream in (("n4", "n2"), ("n5", "n3")):
        cluster.servers[name] = servers.replica(name, of=cluster.servers[upstream], slot=name)
    cluster.wait_for_replicas()
    cluster.n1.kill()
    cluster.cut.add("n1")
    end = cluster.fail_over(OFF)
    assert end["state"] == "ok", end
    new = cluster.servers[end["record"]["candidate"]]
    new.sql("INSERT INTO acked VALUES (1)")
    for name in {"n2", "n3", "n4", "n5"} - {new.name}:
        cluster.servers[name].wait_for_replay(new)

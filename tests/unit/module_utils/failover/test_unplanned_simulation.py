# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every fault at every act of an unplanned failover, in a simulated cluster, followed by reruns.

The engine and its steps are the real ones; servers and network are simulated. Clients go on writing to the old primary
wherever it lives, with or without synchronous standbys: what was acknowledged must be on the new primary.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.failover import unplanned_engine as engine
from ansible_collections.dbops.fleet.plugins.module_utils.failover.election import Policy
from ansible_collections.dbops.fleet.plugins.module_utils.failover.fencing import CONFIRMED, PoolerCut, Rung
from ansible_collections.dbops.fleet.plugins.module_utils.failover.journal import Entry, Journal, Progress, read
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_request import PoolerPlace
from ansible_collections.dbops.fleet.plugins.module_utils.failover.synchronous import SyncRule
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_ports import PortError
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_request import (
    Budgets,
    FailoverRequest,
    Member,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_steps import STEPS, Run
from ansible_collections.dbops.fleet.plugins.module_utils.postgres import conninfo
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import TimelineHistory
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts, WalReceiver

SSH = Rung("ssh", CONFIRMED, ("no postmaster, unit masked",))


class Killed(BaseException):
    """The worker is gone, in the middle of whatever it did."""


@dataclass
class Server:
    """A PostgreSQL server; its write-ahead log is a list, a position is its length."""

    name: str
    up: bool = True
    primary: bool = False
    history: TimelineHistory = field(default_factory=TimelineHistory.first)
    log: list[str] = field(default_factory=list)
    upstream: str = "old"
    settings: dict[str, str] = field(default_factory=dict)
    own_settings: dict[str, str] = field(default_factory=dict)
    slots: set[str] = field(default_factory=set)
    cut_off: bool = False
    broken_disk: bool = False

    def setting(self, name: str) -> str:
        if name == "primary_conninfo":
            return f"host={self.upstream} user=fleet_replication" if self.upstream else ""
        return self.own_settings.get(name, self.settings.get(name, ""))


@dataclass
class Pooler:
    """The port `Pooler`: it holds clients, points at the old primary, and its file names another server."""

    cluster: Cluster
    staged: str
    target: str = "old"
    paused: bool = True
    frozen: bool = False

    def _act(self, name: str, effect: Callable[[], None]) -> None:
        def guarded() -> None:
            if self.frozen:
                raise PortError("no answer")
            effect()

        self.cluster.act(f"pool1.{name}", guarded)

    def retarget(self, host: str, port: int) -> None:
        def effect() -> None:
            self.target = self.staged
            if self.target != host:
                raise PortError(f"orders points to {self.target}, not to {host}")

        self._act("retarget", effect)

    def resume(self) -> None:
        def effect() -> None:
            self.paused = False

        self._act("resume", effect)

    def pause(self, timeout: float) -> None:
        raise AssertionError("the playbook holds clients, not the worker")


class Cluster:
    """Three replicas of one primary. Each act of the worker goes through `act`, where faults strike."""

    def __init__(self, rule: str = "", *, primary_alive: bool = False, replicas: int = 3) -> None:
        self.now = 0.0
        self.rule = SyncRule.parse(rule)
        names = [f"n{number}" for number in range(2, 2 + replicas)]
        self.servers = {name: Server(name, settings={"synchronous_standby_names": rule}) for name in names}
        self.old = Server("old", up=True, primary=True)
        self.old_visible = False
        self.pool1 = Pooler(self, "n3")
        self.acked: list[str] = []
        self.acts = 0
        self.names: list[str] = []
        self.fault: Callable[[int, str, bool], None] = lambda number, name, after: None
        self.write(4)
        self.servers["n2"].up = False
        self.write(1)
        self.servers["n2"].up = True
        self.old.up = primary_alive

    # What goes on beside the worker

    def write(self, count: int = 1) -> None:
        """Clients write to the old primary; standbys that are connected receive and confirm."""
        for _ in range(count):
            if not self.old.up:
                return
            row = f"row {len(self.old.log)}"
            self.old.log.append(row)
            confirmed = []
            for server in self.servers.values():
                if server.up and not server.primary and server.upstream == "old":
                    server.log = list(self.old.log)
                    confirmed.append(server.name)
            if not self.rule.is_synchronous or self.rule.can_be_met(confirmed):
                self.acked.append(row)

    def replicate(self) -> None:
        for server in self.servers.values():
            source = self.servers.get(server.upstream)
            if not server.up or server.primary or source is None or not source.up or server.broken_disk:
                continue
            if server.history.is_ancestor_of(source.history):
                server.log, server.history = list(source.log), source.history

    def act(self, name: str, effect: Callable[[], Any]) -> Any:
        number = self.acts
        self.acts += 1
        self.names.append(name)
        self.write()
        self.fault(number, name, False)
        result = effect()
        self.replicate()
        self.write()
        self.check()
        self.fault(number, name, True)
        return result

    def check(self) -> None:
        writable = [server.name for server in self.servers.values() if server.primary]
        assert len(writable) <= 1, f"{writable} both take writes"
        assert self.pool1.paused or [self.pool1.target] == writable, f"clients were let go to {self.pool1.target}"

    # The port `World`

    def replica(self, name: str) -> Replica:
        return Replica(self, self.servers[name])

    def pooler(self, name: str) -> Pooler:
        assert name == "pool1"
        return self.pool1

    def primary_answers(self) -> str | None:
        return self.act("primary_answers", lambda: "it answers" if self.old.up and self.old_visible else None)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.5)
        self.replicate()
        self.write()

    def gather(self, calls: Sequence[Callable[[], Any]], timeout: float) -> list[Any]:
        def one(call: Callable[[], Any]) -> Any:
            try:
                return call()
            except Exception as error:
                return error

        return [one(call) for call in calls]


class Replica:
    """The port `Replica`."""

    def __init__(self, cluster: Cluster, server: Server) -> None:
        self.cluster, self.server = cluster, server

    def _act(self, name: str, effect: Callable[[], Any]) -> Any:
        def guarded() -> Any:
            if not self.server.up or self.server.cut_off:
                raise PortError(f"{self.server.name} does not answer")
            return effect()

        return self.cluster.act(f"{self.server.name}.{name}", guarded)

    def facts(self) -> MemberFacts:
        try:
            return self._act("facts", self._facts)
        except PortError as error:
            return MemberFacts(self.server.name, self.server.name, error=str(error))

    def _facts(self) -> MemberFacts:
        server = self.server
        end = Lsn(len(server.log))
        return MemberFacts(
            server.name,
            server.name,
            state="running",
            in_recovery=not server.primary,
            timeline=server.history.timeline,
            history=server.history,
            current_lsn=end if server.primary else None,
            receive_lsn=None if server.primary else end,
            replay_lsn=None if server.primary else end,
            receiver=WalReceiver("streaming", sender_host=server.upstream) if server.upstream else None,
        )

    def setting(self, name: str) -> str:
        return self._act(f"setting {name}", lambda: self.server.setting(name))

    def configure(self, settings: Mapping[str, str | None]) -> None:
        def effect() -> None:
            for name, value in settings.items():
                if name == "primary_conninfo":
                    self.server.upstream = conninfo.parse(value or "").get("host", "")
                elif value is None:
                    self.server.own_settings.pop(name, None)
                else:
                    self.server.own_settings[name] = value

        self._act(f"configure {' '.join(settings)}", effect)

    def create_slot(self, name: str) -> bool:
        def effect() -> bool:
            new = name not in self.server.slots
            self.server.slots.add(name)
            return new

        return self._act(f"create_slot {name}", effect)

    def drop_slot(self, name: str) -> None:
        self._act(f"drop_slot {name}", lambda: self.server.slots.discard(name))

    def promote(self) -> None:
        def effect() -> None:
            server = self.server
            if not server.primary:
                switches = (*server.history.switches, (server.history.timeline, Lsn(len(server.log))))
                server.history = TimelineHistory(server.history.timeline + 1, switches)
                server.primary = True

        self._act("promote", effect)

    def switchpoint(self, timeline: int) -> Lsn:
        return self._act("switchpoint", lambda: self.server.history.switchpoint)

    def write(self) -> None:
        def effect() -> None:
            if self.server.broken_disk:
                raise PortError("no space left on device")
            self.server.log.append(f"proof on {self.server.name}")

        self._act("write", effect)

    def confirmed(self, position: Lsn) -> Sequence[str]:
        def effect() -> list[str]:
            mine = [s for s in self.cluster.servers.values() if s.up and s.upstream == self.server.name]
            return [s.name for s in mine if Lsn(len(s.log)) >= position]

        return self._act("confirmed", effect)

    def checkpoint(self) -> None:
        self._act("checkpoint", lambda: None)


def request(cluster: Cluster, **values: Any) -> FailoverRequest:
    members = tuple(Member(name, name, slot=name) for name in cluster.servers)
    fixed: dict[str, Any] = {
        "operation": "1",
        "cluster": "orders",
        "old": Member("old", "old"),
        "replicas": members,
        "rungs": (SSH,),
        "synchronous": str(cluster.rule),
        "synchronous_commit": "on",
        "poolers": (PoolerPlace("pool1", "pool1", 6432, ("orders",)),),
        "staged": cluster.pool1.staged,
        "budgets": Budgets(promote=10.0, catch_up=5.0),
    }
    return FailoverRequest(**(fixed | values))


def carry_out(cluster: Cluster, order: FailoverRequest, directory: Path, number: int = 0) -> dict[str, Any]:
    """One run of the worker; a later one takes over what an earlier one left."""
    run = Run(order, cluster)
    first = 0
    if number:
        earlier = Progress.of(read(directory / f"{number - 1}.jsonl"))
        first = engine.adopt(run, earlier)
    journal = Journal.create(directory / f"{number}.jsonl")
    journal.append("start", request=order.to_dict())
    try:
        if run.state:
            journal.append("begin", "note")
            journal.append("done", "note", **run.state)
            if first:
                journal.append("begin", engine.NAMES[first])
        return engine.put_back(run, journal) if order.put_back else engine.execute(run, journal, first=first)
    finally:
        journal.close()


def assert_settled(cluster: Cluster, end: dict[str, Any]) -> None:
    """What must hold after the last run, whatever happened before."""
    primaries = [server for server in cluster.servers.values() if server.primary]
    cluster.fault = lambda number, name, after: None
    cluster.now += 1
    cluster.replicate()
    if end["state"] in ("ok", "degraded"):
        assert len(primaries) == 1
        new = primaries[0]
        for server in cluster.servers.values():
            told = any(server.name in problem for problem in end["problems"])
            assert server is new or server.upstream == new.name or told
    elif end["state"] in ("refused", "rolled_back"):
        assert not primaries
        for server in cluster.servers.values():
            told = any(server.name in problem for problem in end["problems"])
            assert server.upstream == "old" or told, f"{server.name} was left frozen and nobody told"
            assert not server.slots or told
    else:
        assert end["state"] == "needs_operator"
        assert end["next"]


def assert_nothing_acknowledged_is_lost(cluster: Cluster) -> None:
    for server in cluster.servers.values():
        if server.primary:
            missing = [row for row in cluster.acked if row not in server.log]
            assert not missing, f"{missing} were acknowledged and are not on {server.name}"


def test_the_most_advanced_replica_becomes_primary_and_the_others_follow(tmp_path: Path) -> None:
    cluster = Cluster()
    end = carry_out(cluster, request(cluster), tmp_path)
    assert end["state"] == "ok", end
    assert cluster.servers["n3"].primary
    assert {server.upstream for server in cluster.servers.values() if not server.primary} == {"n3"}
    assert cluster.servers["n3"].slots == {"n2", "n4"}
    assert "fleet_rejoin_member=old" in end["next"]
    assert_nothing_acknowledged_is_lost(cluster)


def test_the_worker_lets_clients_go_to_the_new_primary_without_a_controller(tmp_path: Path) -> None:
    cluster = Cluster()
    assert carry_out(cluster, request(cluster), tmp_path)["state"] == "ok"
    assert (cluster.pool1.target, cluster.pool1.paused) == ("n3", False)


def test_clients_stay_held_where_the_poolers_file_names_another_than_the_elected_one(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.pool1.staged = "n4"
    assert carry_out(cluster, request(cluster), tmp_path)["state"] == "ok"
    assert cluster.servers["n3"].primary
    assert (cluster.pool1.target, cluster.pool1.paused) == ("old", True)


def test_a_pooler_that_does_not_answer_is_left_to_the_playbook(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.pool1.frozen = True
    end = carry_out(cluster, request(cluster), tmp_path)
    assert (end["state"], end["problems"]) == ("ok", [])
    state = Progress.of(read(tmp_path / "0.jsonl")).state
    assert (state["let_go"], list(state["not_let_go"])) == ([], ["pool1"])


def test_without_a_confirmed_fence_nothing_is_promoted_and_everything_put_back(tmp_path: Path) -> None:
    """F04."""
    cluster = Cluster(primary_alive=True)
    end = carry_out(cluster, request(cluster, rungs=()), tmp_path)
    assert end["state"] == "refused"
    assert end["details"]["code"] == "fencing_unconfirmed"
    assert len(end["details"]["fence"]["manual"]) == 4
    assert_settled(cluster, end)


def test_poolers_that_are_the_only_way_in_are_the_fence_when_all_of_them_are_cut(tmp_path: Path) -> None:
    cluster = Cluster()
    cuts = (PoolerCut("pool1", paused=True, servers=0), PoolerCut("pool2", error="it does not answer"))
    order = request(cluster, rungs=(), poolers_are_the_only_way_in=True, cuts=cuts, cut_seconds=60.0)
    end = carry_out(cluster, order, tmp_path)
    assert end["details"]["code"] == "fencing_unconfirmed"
    assert_settled(cluster, end)
    end = carry_out(cluster, replace(order, poolers_are_the_only_way_in=False, cuts=cuts[:1]), tmp_path, 1)
    assert end["details"]["code"] == "fencing_unconfirmed"
    # The poolers' timers would let clients go to the old primary while the candidate is promoted.
    end = carry_out(cluster, replace(order, cuts=cuts[:1], cut_seconds=9.0), tmp_path, 2)
    assert end["state"] == "rolled_back"
    assert "fleet_failover_pause_seconds" in end["reason"]
    end = carry_out(cluster, replace(order, cuts=cuts[:1]), tmp_path, 3)
    assert end["state"] == "ok", end
    fence = Progress.of(read(tmp_path / "3.jsonl")).state["fence"]
    assert (fence["driver"], fence["level"]) == ("pooler_cut", "clients")


def test_the_operators_word_replaces_the_fence_and_the_record_says_so(tmp_path: Path) -> None:
    cluster = Cluster()
    end = carry_out(cluster, request(cluster, rungs=(), without_fence=True), tmp_path)
    assert end["state"] == "ok"
    progress = Progress.of(read(tmp_path / "0.jsonl"))
    assert progress.state["fence"]["status"] == "unconfirmed"
    assert progress.state["election"]["loss"]["text"]


@pytest.mark.parametrize("rule", ["ANY 1 (n2, n3, n4)", "ANY 2 (n2, n3, n4)", "FIRST 1 (n2, n3, n4)"])
def test_a_synchronous_cluster_is_fenced_by_its_quorum_while_the_old_primary_lives(rule: str, tmp_path: Path) -> None:
    cluster = Cluster(rule, primary_alive=True)
    end = carry_out(cluster, request(cluster, rungs=()), tmp_path)
    assert end["state"] == "ok", end
    assert Progress.of(read(tmp_path / "0.jsonl")).state["fence"]["level"] == "quorum"
    cluster.write(10)
    assert_nothing_acknowledged_is_lost(cluster)


def test_a_primary_that_shows_up_again_stops_the_failover(tmp_path: Path) -> None:
    """F22."""
    cluster = Cluster("ANY 1 (n2, n3, n4)", primary_alive=True)
    cluster.old_visible = True
    end = carry_out(cluster, request(cluster, rungs=()), tmp_path)
    assert end["state"] == "rolled_back"
    assert "answers again" in end["reason"]
    assert_settled(cluster, end)


def test_a_preferred_candidate_catches_up_from_the_most_advanced_replica(tmp_path: Path) -> None:
    cluster = Cluster()
    end = carry_out(cluster, request(cluster, policy=Policy(candidate="n2")), tmp_path)
    assert end["state"] == "ok", end
    assert cluster.servers["n2"].primary
    assert "n2" not in cluster.servers["n3"].slots
    assert_nothing_acknowledged_is_lost(cluster)


def test_confirmations_that_nobody_can_give_any_more_are_not_waited_for(tmp_path: Path) -> None:
    """F16: two standbys required, one is left."""
    cluster = Cluster("ANY 2 (old, n2, n3)", replicas=2)
    cluster.rule = cluster.rule.without("old")
    end = carry_out(cluster, request(cluster), tmp_path)
    assert end["state"] == "degraded"
    for server in cluster.servers.values():
        assert SyncRule.parse(server.setting("synchronous_standby_names")).required == 1


@pytest.mark.parametrize("free_mb", [8, None], ids=["seen before", "not known"])
def test_commits_do_not_wait_for_a_replica_that_cannot_write_what_it_receives(
    free_mb: int | None, tmp_path: Path
) -> None:
    """F13: it streams, and never confirms."""
    cluster = Cluster("ANY 1 (old, n2, n3)", replicas=2)
    cluster.rule = cluster.rule.without("old")
    cluster.servers["n2"].broken_disk = True
    order = request(cluster)
    order = replace(
        order, replicas=tuple(replace(m, free_mb=free_mb if m.name == "n2" else None) for m in order.replicas)
    )
    end = carry_out(cluster, order, tmp_path)
    assert end["state"] == "degraded"
    assert end["problems"] == ["commits wait for 0 instead of 1 standbys, until others have rejoined"]
    assert cluster.servers["n3"].setting("synchronous_standby_names") == ""
    state = Progress.of(read(tmp_path / "0.jsonl")).state
    assert (state["lowered_synchronous"], state["synchronous_before"]) == ("", "ANY 1 (old, n2, n3)")
    assert not cluster.pool1.paused


def test_a_rule_that_can_still_be_kept_is_left_alone(tmp_path: Path) -> None:
    cluster = Cluster("ANY 1 (old, n2, n3, n4)")
    cluster.rule = cluster.rule.without("old")
    assert carry_out(cluster, request(cluster), tmp_path)["state"] == "ok"
    assert all("synchronous_standby_names" not in server.own_settings for server in cluster.servers.values())


def test_a_new_primary_that_cannot_write_gets_no_clients(tmp_path: Path) -> None:
    """F13."""
    cluster = Cluster()
    cluster.servers["n3"].broken_disk = True
    end = carry_out(cluster, request(cluster), tmp_path)
    assert end["state"] == "needs_operator"
    assert cluster.pool1.paused
    assert engine.promoting(Progress.of(read(tmp_path / "0.jsonl"))) == "n3"


def test_an_unreachable_replica_needs_consent(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.servers["n4"].cut_off = True
    end = carry_out(cluster, request(cluster), tmp_path)
    assert end["state"] == "refused"
    assert end["details"]["code"] == "data_loss"
    end = carry_out(cluster, request(cluster, policy=Policy(accept_loss=True)), tmp_path, 1)
    assert end["state"] == "degraded"
    assert any("n4 was not asked" in problem for problem in end["problems"])


SCENARIOS: dict[str, tuple[Callable[[], Cluster], dict[str, Any]]] = {
    "power cut, asynchronous": (Cluster, {}),
    "power cut, synchronous": (lambda: Cluster("ANY 1 (n2, n3, n4)"), {}),
    "quorum fence": (lambda: Cluster("ANY 2 (n2, n3, n4)", primary_alive=True), {"rungs": ()}),
    "catching up": (Cluster, {"policy": Policy(candidate="n2")}),
    "lowered promise": (lambda: Cluster("ANY 2 (n2, n3)", replicas=2), {}),
    "no fence": (lambda: Cluster(primary_alive=True), {"rungs": ()}),
}


def acts_of(scenario: str, directory: Path) -> int:
    make, values = SCENARIOS[scenario]
    cluster = make()
    directory.mkdir()
    carry_out(cluster, request(cluster, **values), directory)
    return cluster.acts


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", ["killed", "lost answer", "server dies", "nobody expected it"])
def test_any_fault_at_any_act_ends_well_after_a_rerun(scenario: str, after: bool, kind: str, tmp_path: Path) -> None:
    make, values = SCENARIOS[scenario]
    total = acts_of(scenario, tmp_path / "plain")
    assert total > 10
    for strike in range(total):
        cluster = make()
        directory = tmp_path / f"{strike}"
        directory.mkdir()

        def fault(number: int, name: str, now_after: bool, cluster: Cluster = cluster, strike: int = strike) -> None:
            if number != strike or now_after != after:
                return
            if kind == "killed":
                raise Killed
            victim = cluster.servers.get(name.split(".")[0])
            if kind == "server dies" and victim is not None:
                victim.up = False
            if kind == "nobody expected it":
                raise ValueError("password=hunter2 has no place here")
            raise PortError("connection lost")

        cluster.fault = fault
        order = request(cluster, **values)
        try:
            end = carry_out(cluster, order, directory)
        except Killed:
            end = None
        cluster.fault = lambda number, name, now_after: None
        for number in range(1, 3):
            if end is not None and end["state"] in ("ok", "degraded"):
                break
            dead = [name for name, server in cluster.servers.items() if not server.up]
            consent = replace(order.policy, accept_loss=bool(dead))
            end = carry_out(cluster, replace(order, policy=consent), directory, number)
        assert end is not None
        assert not any("hunter2" in path.read_text() for path in directory.glob("*.jsonl"))
        assert_settled(cluster, end)
        if not any(not server.up for server in cluster.servers.values()):
            expected = ("refused",) if scenario == "no fence" else ("ok", "degraded")
            assert end["state"] in expected, (strike, cluster.names[strike], end)
            assert_nothing_acknowledged_is_lost(cluster)


def killed_at(strike: int, strike_after: bool) -> Callable[[int, str, bool], None]:
    """A fault: the worker is killed before or after this act."""

    def fault(number: int, name: str, after: bool) -> None:
        if (number, after) == (strike, strike_after):
            raise Killed

    return fault


@pytest.mark.parametrize("scenario", ["quorum fence", "catching up", "lowered promise"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
def test_what_a_killed_worker_left_is_put_back_when_the_primary_answers_again(
    scenario: str, after: bool, again: bool, tmp_path: Path
) -> None:
    """Also where the one that puts it back is killed, too."""
    make, values = SCENARIOS[scenario]
    times = 0
    for strike in range(acts_of(scenario, tmp_path / "plain")):
        cluster, number = make(), 1
        directory = tmp_path / f"{strike}"
        directory.mkdir()
        cluster.fault = killed_at(strike, after)
        order = request(cluster, **values)
        with pytest.raises(Killed):
            carry_out(cluster, order, directory)
        if not engine.unfinished(Progress.of(read(directory / "0.jsonl"))):
            break
        order = replace(order, put_back=True)
        if again:
            cluster.fault = killed_at(cluster.acts + 3, after)
            with pytest.raises(Killed):
                carry_out(cluster, order, directory, number)
            number += 1
        cluster.fault = lambda number, name, after: None
        end = carry_out(cluster, order, directory, number)
        assert (end["state"], end["problems"], end["next"]) == ("rolled_back", [], "")
        for server in cluster.servers.values():
            assert server.upstream == "old", (strike, cluster.names[strike])
        assert not engine.unfinished(Progress.of(read(directory / f"{number}.jsonl")))
        times += 1
    assert times > 10


class FullDisk(Journal):
    """A journal whose disk is full from some line on."""

    room = 0

    def append(self, event: str, step: str | None = None, *, sync: bool = True, **data: Any) -> Entry:
        if len(self.entries) >= self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().append(event, step, sync=sync, **data)


def test_a_full_disk_ends_a_failover_before_its_promotion_and_not_after_it(tmp_path: Path) -> None:
    """Replicas are not left frozen, and clients not held, for the sake of the journal."""
    states = []
    for room in range(2 * len(STEPS)):
        cluster = Cluster()
        journal = FullDisk(tmp_path / f"{room}.jsonl")
        journal.room = room
        end = engine.execute(Run(request(cluster), cluster), journal)
        journal.close()
        assert "No space left on device" in " ".join([end["reason"], *end["problems"]])
        assert_settled(cluster, end)
        if end["state"] == "degraded":
            assert not cluster.pool1.paused
        states.append(end["state"])
    # A line before and one after each step.
    assert states == ["rolled_back"] * (2 * engine.NO_RETURN + 1) + ["degraded"] * (
        len(states) - 2 * engine.NO_RETURN - 1
    )


def test_step_names_are_unique_and_every_undo_lies_before_the_point_of_no_return() -> None:
    assert len(set(engine.NAMES)) == len(STEPS)
    assert all(step.undo is None for step in STEPS[engine.NO_RETURN :])

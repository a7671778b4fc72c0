# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every fault at every act of a switchover, in a simulated cluster, followed by reruns: what may never be, never is.

The engine and its steps are the real ones. Only the ports are simulated: three servers with write-ahead logs, two
poolers with files and timers, hosts that lose power and boot, clients that write whenever somebody lets them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.failover import switchover_engine as engine
from ansible_collections.dbops.fleet.plugins.module_utils.failover.journal import Journal, Progress, read
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_ports import (
    ControlState,
    LocalStatus,
    PortError,
    Position,
    Writer,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_request import (
    Budgets,
    Place,
    PoolerPlace,
    SwitchoverRequest,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_steps import (
    STEPS,
    Run,
    StepFailed,
    pointed_at,
)
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.conninfo import parse
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn

TIMER = 15.0


class Killed(BaseException):
    """The worker is gone, in the middle of whatever it did."""


@dataclass
class Server:
    """A PostgreSQL server: its write-ahead log is a list, a position is its length."""

    name: str
    running: str = "down"  # down, starting, primary, standby, stopping
    host_up: bool = True
    timeline: int = 1
    begins: dict[int, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    control: str = "in production"
    checkpoint: int = 0
    standby_signal: bool = False
    upstream: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    slots: set[str] = field(default_factory=set)
    frozen: bool = False
    broken_disk: bool = False
    hidden: bool = False
    # Until when it recovers, or is too busy to answer its own host.
    starts_at: float = 0.0
    busy_until: float = 0.0


@dataclass
class PoolerProcess:
    """A PgBouncer process: what it uses (`target`) and what it would use after RELOAD (`file`)."""

    name: str
    target: str
    file: str
    paused: bool = False
    alive: bool = True
    hung: bool = False
    timer: float | None = None


class World:
    """The cluster. Each act goes through `act`, where faults strike, clients write, and the invariants are checked."""

    def __init__(self, siblings: int = 1) -> None:
        self.now = 0.0
        names = ["pg1", "pg2", *(f"pg{3 + number}" for number in range(siblings))]
        standby: dict[str, Any] = {"upstream": "pg1", "control": "in archive recovery", "standby_signal": True}
        self.servers = {name: Server(name, "standby", **standby) for name in names}
        primary = self.servers["pg1"] = Server("pg1", "primary")
        primary.slots = set(names[1:])
        self.poolers = {name: PoolerProcess(name, "pg1", "pg2", timer=TIMER) for name in ("pool1", "pool2")}
        self.acked: list[str] = []
        self.acts = 0
        self.names: list[str] = []
        self.fault: Callable[[World, int, str], str | None] | None = None
        self.stops_lost = False
        # The worker's host: what its kernel had not written is gone.
        self.power_lost = False

    # Time, replication, clients, invariants.

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for server in self.servers.values():
            if server.running == "starting" and self.now >= server.starts_at:
                self.start(server)
        for pooler in self.poolers.values():
            if pooler.timer is not None and self.now >= pooler.timer and pooler.alive and not pooler.hung:
                pooler.timer, pooler.paused = None, False
        self.settle()

    def settle(self) -> None:
        """Replication and clients have their way, then the invariants are looked at."""
        for _ in range(3):
            for server in self.servers.values():
                self.replicate(server)
        for server in self.servers.values():
            if server.host_up and server.running == "primary" and not server.broken_disk:
                server.log.append(f"direct {len(self.acked)}")
                self.acked.append(server.log[-1])
        for pooler in self.poolers.values():
            target = self.servers[pooler.target]
            usable = pooler.alive and not pooler.hung and not pooler.paused
            if usable and target.host_up and target.running == "primary" and not target.broken_disk:
                target.log.append(f"{pooler.name} {len(self.acked)}")
                self.acked.append(target.log[-1])
        for server in self.servers.values():
            self.replicate(server)
        primaries = [server.name for server in self.servers.values() if server.host_up and server.running == "primary"]
        assert len(primaries) <= 1, f"two writable primaries: {primaries}"

    def replicate(self, server: Server) -> None:
        source = self.servers.get(server.upstream)
        if not self.streams(server) or source is None:
            return
        if source.log[: len(server.log)] == server.log:
            server.log = list(source.log)
            server.timeline, server.begins = source.timeline, dict(source.begins)

    def streams(self, server: Server) -> bool:
        source = self.servers.get(server.upstream)
        return bool(
            server.host_up
            and server.running == "standby"
            and not server.frozen
            and source
            and source.host_up
            and source.running in ("primary", "standby", "stopping")
            and source.log[: len(server.log)] == server.log
            and source.timeline >= server.timeline
        )

    # What servers and hosts can do.

    def start(self, server: Server) -> None:
        if not server.host_up or server.running in ("primary", "standby"):
            return
        if server.standby_signal:
            server.running, server.control = "standby", "in archive recovery"
        else:
            assert server.control != "in archive recovery", f"{server.name}: standby started without standby.signal"
            server.running, server.control = "primary", "in production"

    def promote(self, server: Server) -> None:
        if server.running != "standby" or not server.host_up:
            return
        server.timeline = max(other.timeline for other in self.servers.values()) + 1
        server.begins = {**server.begins, server.timeline: len(server.log)}
        server.running, server.control, server.standby_signal = "primary", "in production", False

    def finish_stop(self, server: Server) -> None:
        if server.running == "stopping":
            self.replicate_all()
            server.checkpoint = len(server.log)
            server.log.append("shutdown checkpoint")
            self.replicate_all()
            server.running, server.control = "down", "shut down"

    def replicate_all(self) -> None:
        for server in self.servers.values():
            self.replicate(server)

    def lose_power(self, name: str) -> None:
        self.servers[name].host_up = False
        self.servers[name].running = "down"
        self.power_lost = self.power_lost or name == "pg1"

    def boot(self, name: str) -> None:
        server = self.servers[name]
        if not server.host_up:
            server.host_up = True
            self.start(server)

    # The one way through which the steps act.

    def act(self, name: str, effect: Callable[[], Any]) -> Any:
        self.acts += 1
        self.names.append(name)
        self.advance(0.001)
        how = self.fault(self, self.acts, name) if self.fault else None
        if how == "kill":
            raise Killed
        if how == "lose":
            raise PortError(f"{name}: lost")
        result = effect()
        self.settle()
        if how == "kill after":
            raise Killed
        if how == "lose after":
            raise PortError(f"{name}: answer lost")
        if how == "surprise":
            raise ValueError("password=secret")
        return result


class SimulatedClock:
    def __init__(self, world: World) -> None:
        self.world = world

    def monotonic(self) -> float:
        return self.world.now

    def sleep(self, seconds: float) -> None:
        # Coarser than asked, so that waiting for a timeout does not take thousands of turns.
        self.world.advance(max(seconds, 0.25))

    def gather(self, calls: Sequence[Callable[[], Any]], timeout: float) -> list[Any]:
        results: list[Any] = []
        for call in calls:
            try:
                results.append(call())
            except Exception as error:
                results.append(error)
        return results


class SimulatedServer:
    """Both the local and the remote port; what differs is which methods the steps call."""

    def __init__(self, world: World, name: str, *, local: bool = False) -> None:
        self.world, self.name, self.local = world, name, local

    @property
    def server(self) -> Server:
        return self.world.servers[self.name]

    def _sql(self, what: str, effect: Callable[[Server], Any]) -> Any:
        def run() -> Any:
            server = self.server
            silent = server.hidden or self.world.now < server.busy_until
            if not server.host_up or silent or server.running not in ("primary", "standby"):
                raise PortError(f"{self.name} does not answer")
            return effect(self.server)

        return self.world.act(f"{self.name} {what}", run)

    def _host(self, what: str, effect: Callable[[Server], Any]) -> Any:
        return self.world.act(f"{self.name} {what}", lambda: effect(self.server))

    def status(self) -> LocalStatus:
        def look(server: Server) -> LocalStatus:
            busy = self.world.now < server.busy_until
            recovery = None if busy else {"primary": False, "standby": True}.get(server.running)
            control = ControlState(server.control, Lsn(server.checkpoint), server.timeline)
            running, stopping = server.running != "down", server.running == "stopping"
            status = LocalStatus(running, recovery, server.timeline, control, server.standby_signal, stopping)
            self.world.finish_stop(server)
            return status

        return self._host("status", look)

    def control(self) -> ControlState:
        def look(server: Server) -> ControlState:
            state = ControlState(server.control, Lsn(server.checkpoint), server.timeline)
            if not self.world.stops_lost:
                self.world.finish_stop(server)
            return state

        return self._host("control", look)

    def checkpoint(self) -> None:
        self._sql("checkpoint", lambda _: None)

    def fill_segment(self, leave: int) -> Lsn:
        return self._sql("fill", lambda server: Lsn(len(server.log)))

    def writers(self) -> Sequence[Writer]:
        return self._sql("writers", lambda _: [])

    def terminate(self, pids: Sequence[int]) -> None:
        self._sql("terminate", lambda _: None)

    def configure(self, settings: Mapping[str, str | None]) -> None:
        def change(server: Server) -> None:
            for name, value in settings.items():
                if name == "primary_conninfo":
                    server.upstream = parse(value or "")["host"]
                elif name == "primary_slot_name":
                    continue
                elif value is None:
                    server.settings.pop(name, None)
                else:
                    server.settings[name] = value

        self._sql("configure", change)

    def write_standby_signal(self) -> None:
        self._host("write standby.signal", lambda server: setattr(server, "standby_signal", True))

    def remove_standby_signal(self) -> None:
        self._host("remove standby.signal", lambda server: setattr(server, "standby_signal", False))

    def stop(self, mode: str) -> None:
        def ask(server: Server) -> None:
            if mode == "immediate":
                assert server.running == "stopping", f"{self.name} is {server.running}, and was killed"
                server.running = "down"
            elif server.running == "primary":
                server.running = "stopping"

        self._host(f"stop {mode}", ask)

    def cut_off(self, names: Collection[str]) -> None:
        self._host("cut walsenders off", lambda _: None)

    def terminate_senders(self, keep: str) -> int:
        return int(self._host("terminate walsenders", lambda _: 0))

    def checkpoint_end(self, control: ControlState) -> Lsn:
        return self._host("pg_waldump", lambda _: Lsn(control.checkpoint + 1))

    def start(self, timeout: float) -> None:
        self._host("start", self.world.start)

    def promote(self, timeout: float = 0) -> None:
        self._sql("promote", self.world.promote)

    def position(self) -> Position:
        def look(server: Server) -> Position:
            at = Lsn(len(server.log))
            return Position(server.running == "standby", server.timeline, at, at, self.world.streams(server))

        return self._sql("position", look)

    def in_recovery(self) -> bool:
        return self.position().in_recovery

    def slots(self) -> Sequence[str]:
        return self._sql("slots", lambda server: sorted(server.slots))

    def drop_slots(self, names: Sequence[str]) -> Sequence[str]:
        def drop(server: Server) -> list[str]:
            gone = sorted(server.slots & set(names))
            server.slots -= set(names)
            return gone

        return self._sql("drop slots", drop)

    def drop_slot(self, name: str) -> None:
        self._sql("drop slot", lambda server: server.slots.discard(name))

    def create_slot(self, name: str) -> None:
        self._sql("create slot", lambda server: server.slots.add(name))

    def setting(self, name: str) -> str:
        default = "host=pg1 port=5432" if name == "primary_conninfo" else "5s"
        return self._sql("setting", lambda server: server.settings.get(name, default))

    def override(self, name: str) -> str | None:
        return self._sql("override", lambda server: server.settings.get(name))

    def follow(self, place: Place) -> None:
        self._sql("follow", lambda server: setattr(server, "upstream", place.name))

    def switchpoint(self, timeline: int) -> Lsn:
        return self._sql("switchpoint", lambda server: Lsn(server.begins[timeline]))

    def write(self) -> None:
        def write(server: Server) -> None:
            if server.broken_disk or server.running != "primary":
                raise PortError("could not write")

        self._sql("write", write)

    def standbys(self) -> Sequence[str]:
        def look(server: Server) -> list[str]:
            others = self.world.servers.values()
            return [other.name for other in others if other.upstream == server.name and self.world.streams(other)]

        return self._sql("standbys", look)


class SimulatedPooler:
    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name

    def _console(self, what: str, effect: Callable[[PoolerProcess], Any]) -> Any:
        def run() -> Any:
            pooler = self.world.poolers[self.name]
            if not pooler.alive or pooler.hung:
                raise PortError(f"{self.name} does not answer")
            return effect(pooler)

        return self.world.act(f"{self.name} {what}", run)

    def pause(self, timeout: float) -> None:
        self._console("PAUSE", lambda pooler: setattr(pooler, "paused", True))

    def resume(self) -> None:
        self._console("RESUME", lambda pooler: setattr(pooler, "paused", False))

    def retarget(self, host: str, port: int) -> None:
        self._console("RELOAD", lambda pooler: setattr(pooler, "target", pooler.file))
        if self._console("SHOW DATABASES", lambda pooler: pooler.target) != host:
            raise PortError(f"{self.name} does not point at {host}")


def request_for(world: World, *, synchronous: bool = False) -> SwitchoverRequest:
    old, new, *siblings = (Place(name, name, 5432, name) for name in world.servers)
    return SwitchoverRequest(
        operation="1",
        cluster="orders",
        old=old,
        new=new,
        timeline=1,
        siblings=tuple(siblings),
        poolers=tuple(PoolerPlace(name, name, 6432, ("app",)) for name in world.poolers),
        synchronous="ANY 1 (pg1, pg3)" if synchronous else None,
        required_standbys=1 if synchronous else 0,
        budgets=Budgets(promote=20, follow=20, catch_up=10),
    )


def run_for(world: World, request: SwitchoverRequest, *, same_boot: bool = True) -> Run:
    return Run(
        request=request,
        clock=SimulatedClock(world),
        local=SimulatedServer(world, "pg1", local=True),  # type: ignore[arg-type]
        remote={name: SimulatedServer(world, name) for name in world.servers if name != "pg1"},  # type: ignore[misc]
        poolers={name: SimulatedPooler(world, name) for name in world.poolers},
        same_boot=same_boot,
    )


class Story:
    """One switchover, its fault, the time after, and the reruns."""

    def __init__(self, directory: Path, world: World, *, synchronous: bool = False) -> None:
        self.world = world
        self.request = request_for(world, synchronous=synchronous)
        self.path = directory / "1.jsonl"
        self.path.unlink(missing_ok=True)
        self.booted = False
        self.end: dict[str, Any] | None = None

    def first_run(self) -> None:
        journal = Journal.create(self.path)
        journal.append("start", request=self.request.to_dict())
        self._guarded(lambda: engine.execute(run_for(self.world, self.request), journal))
        journal.close()

    def rerun(self) -> None:
        journal = Journal.open(self.path)
        run = run_for(self.world, self.request, same_boot=not self.booted)

        def again() -> dict[str, Any]:
            others: dict[str, Position | None] = {}
            for name, server in run.remote.items():
                try:
                    others[name] = server.position()
                except (PortError, ValueError):
                    others[name] = None
            for pooler in self.world.poolers.values():
                pooler.timer = self.world.now + TIMER
            try:
                status = run.local.status()
            except ValueError as error:
                raise Killed from error
            return engine.resume(run, journal, others, status)

        self._guarded(again)
        journal.close()

    def _guarded(self, call: Callable[[], dict[str, Any]]) -> None:
        try:
            self.end = call()
        except (Killed, PortError):
            self.end = None
        # Whoever waits for the end waits for its line.
        if Progress.of(read(self.path)).end is None:
            self.end = None
        if self.world.power_lost and self.end is None:
            os.truncate(self.path, SYNCED.get(self.path.stat().st_ino, 0))
            self.world.power_lost = False
        if self.end is not None and self.end["state"] == "rolled_back" and not self.end["problems"]:
            assert not any(pooler.paused for pooler in self.world.poolers.values()), "rolled back, and not resumed"

    def heal(self) -> None:
        """Time passes: timers go off, hosts boot, processes are restarted by systemd."""
        world = self.world
        world.fault = None
        DISK["full"] = False
        for server in world.servers.values():
            if not server.host_up:
                self.booted = self.booted or server.name == "pg1"
                world.boot(server.name)
            elif server.running == "stopping":
                world.finish_stop(server)
            elif server.running == "down" and server.name != "pg1":
                world.start(server)
            server.frozen = False
        for pooler in world.poolers.values():
            if not pooler.alive:
                pooler.alive, pooler.paused, pooler.target = True, False, pooler.file
            pooler.hung = False
        world.stops_lost = False
        world.advance(60.0)
        assert not any(pooler.paused for pooler in world.poolers.values()), "a pooler is paused for ever"

    def unstage(self) -> None:
        """What the playbook does after a rollback: the files name the old primary again."""
        for pooler in self.world.poolers.values():
            pooler.file = "pg1"
            if pooler.alive and not pooler.hung:
                pooler.target = "pg1"

    def settle_down(self) -> dict[str, Any]:
        """Heal and rerun until the operation has ended."""
        for _ in range(4):
            if self.end is not None and self.end["state"] != "needs_operator":
                break
            self.heal()
            self.rerun()
        assert self.end is not None
        if self.end["state"] == "rolled_back":
            self.unstage()
        self.heal()
        return self.end

    def prove(self) -> None:
        """What must hold at the end of every story."""
        world, end = self.world, self.end
        assert end is not None
        primaries = [server for server in world.servers.values() if server.running == "primary"]
        assert end["state"] in ("ok", "rolled_back", "degraded"), f"not settled: {end}"
        assert len(primaries) == 1, f"{len(primaries)} primaries after {end}"
        primary = primaries[0]
        assert primary.name == ("pg1" if end["state"] == "rolled_back" else "pg2")
        lost = set(world.acked) - set(primary.log)
        assert not lost, f"{len(lost)} acknowledged rows lost, first {sorted(lost)[0]}"
        assert {pooler.target for pooler in world.poolers.values()} == {primary.name}
        assert Progress.of(read(self.path)).end is not None
        if end["state"] == "rolled_back" and not end["problems"]:
            left = world.servers["pg2"]
            assert not left.slots, f"slots left on the candidate: {left.slots}"
            assert not left.settings, f"settings left on the candidate: {left.settings}"


# --- faults ---

Fault = Callable[[World, int, str], str | None]


def simple(how: str) -> Callable[[int], Fault]:
    return lambda at: lambda world, act, name: how if act == at else None


def from_then_on(change: Callable[[World], None], how: str | None = None) -> Callable[[int], Fault]:
    def make(at: int) -> Fault:
        def strike(world: World, act: int, name: str) -> str | None:
            if act == at:
                change(world)
                return how
            return None

        return strike

    return make


def _dies(name: str) -> Callable[[World], None]:
    return lambda world: setattr(world.poolers[name], "alive", False)


def _hangs(name: str) -> Callable[[World], None]:
    return lambda world: setattr(world.poolers[name], "hung", True)


def _restarts(name: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        pooler = world.poolers[name]
        pooler.paused, pooler.target = False, pooler.file

    return change


def _crashes(name: str) -> Callable[[World], None]:
    return lambda world: setattr(world.servers[name], "running", "down")


def _crash_and_restart(name: str) -> Callable[[World], None]:
    def change(world: World) -> None:
        world.servers[name].running = "down"
        world.start(world.servers[name])

    return change


def _power_cycle(world: World) -> None:
    world.lose_power("pg1")
    world.boot("pg1")


def _boots_slowly(world: World) -> None:
    """Into a crash recovery that is not over when the operator runs the playbook again."""
    world.lose_power("pg1")
    server = world.servers["pg1"]
    server.host_up, server.running, server.starts_at = True, "starting", world.now + 100.0


def _is_busy(world: World) -> None:
    world.servers["pg1"].busy_until = world.now + 10.0


def _blackout(world: World) -> None:
    for name in world.servers:
        world.lose_power(name)
    for pooler in world.poolers.values():
        pooler.alive = False


FAULTS: dict[str, Callable[[int], Fault]] = {
    "the act fails": simple("lose"),
    "the act works but its answer is lost": simple("lose after"),
    "the act fails as nobody foresaw": simple("surprise"),
    "the worker's disk is full": from_then_on(lambda world: DISK.update(full=True)),
    "the worker's disk is full for an act": lambda at: lambda world, act, name: DISK.update(full=act == at),
    "the worker is killed before the act": simple("kill"),
    "the worker is killed after the act": simple("kill after"),
    "the old primary's host loses power": from_then_on(lambda world: world.lose_power("pg1"), "kill"),
    "the old primary's host loses power and boots at once": from_then_on(_power_cycle, "kill"),
    "the old primary's host loses power and recovers for long": from_then_on(_boots_slowly, "kill"),
    "the old primary answers nobody for a while": from_then_on(_is_busy),
    "the old primary crashes": from_then_on(_crashes("pg1")),
    "somebody starts the old primary": from_then_on(lambda world: world.start(world.servers["pg1"])),
    "the candidate crashes": from_then_on(_crashes("pg2")),
    "the candidate crashes and restarts": from_then_on(_crash_and_restart("pg2")),
    "the candidate's host loses power": from_then_on(lambda world: world.lose_power("pg2")),
    "the candidate stops receiving": from_then_on(lambda world: setattr(world.servers["pg2"], "frozen", True)),
    "the candidate cannot write": from_then_on(lambda world: setattr(world.servers["pg2"], "broken_disk", True)),
    "the sibling crashes": from_then_on(_crashes("pg3")),
    "the sibling's host loses power": from_then_on(lambda world: world.lose_power("pg3")),
    "the shutdown never ends": from_then_on(lambda world: setattr(world, "stops_lost", True)),
    "pooler 1 dies": from_then_on(_dies("pool1")),
    "pooler 2 dies": from_then_on(_dies("pool2")),
    "pooler 1 hangs": from_then_on(_hangs("pool1")),
    "pooler 2 hangs": from_then_on(_hangs("pool2")),
    "pooler 1 restarts": from_then_on(_restarts("pool1")),
    "everything loses power": from_then_on(_blackout, "kill"),
}


# How much of a file, by inode, survives a power loss.
SYNCED: dict[int, int] = {}
DISK = {"full": False}


@pytest.fixture(autouse=True)
def _simulated_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of journals are written here: fsync is noted instead of done."""

    def fsync(descriptor: int) -> None:
        found = os.fstat(descriptor)
        SYNCED[found.st_ino] = found.st_size

    def write(descriptor: int, data: bytes) -> int:
        return really_write(descriptor, data[: len(data) // 2] if DISK["full"] else data)

    really_write = os.write
    SYNCED.clear()
    DISK["full"] = False
    monkeypatch.setattr("os.fsync", fsync)
    monkeypatch.setattr("os.write", write)


def acts_of_a_good_run(directory: Path, *, synchronous: bool = False) -> int:
    world = World()
    story = Story(directory, world, synchronous=synchronous)
    story.first_run()
    assert story.end is not None
    assert story.end["state"] == "ok", story.end
    return world.acts


def every_act(directory: Path, *, synchronous: bool = False) -> Iterator[int]:
    return iter(range(1, acts_of_a_good_run(directory, synchronous=synchronous) + 1))


def test_a_good_run_switches_over_and_leaves_nothing(tmp_path: Path) -> None:
    world = World()
    story = Story(tmp_path, world)
    story.first_run()
    assert story.end is not None
    assert story.end["state"] == "ok"
    story.heal()
    story.prove()
    old, new, sibling = world.servers.values()
    assert old.running == sibling.running == "standby"
    assert old.slots == set()
    assert new.slots == {"pg1", "pg3"}
    assert "wal_retrieve_retry_interval" not in new.settings
    done = Progress.of(read(story.path)).done
    assert done == {step.name for step in STEPS}


@pytest.mark.parametrize("synchronous", [False, True], ids=["asynchronous", "synchronous"])
@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost_whatever_happens_at_any_act(tmp_path: Path, fault: str, synchronous: bool) -> None:
    for at in every_act(tmp_path, synchronous=synchronous):
        world = World()
        world.fault = FAULTS[fault](at)
        story = Story(tmp_path, world, synchronous=synchronous)
        story.first_run()
        where = world.names[at - 1] if at <= len(world.names) else "(not reached)"
        try:
            story.settle_down()
            if fault != "the candidate cannot write" or story.end["state"] != "needs_operator":  # type: ignore[index]
                story.prove()
        except AssertionError as error:
            raise AssertionError(f"{fault}, act {at} ({where}): {error}") from error


@pytest.mark.parametrize("second", ["kill", "kill after", "lose", "surprise"])
def test_a_rerun_may_be_killed_as_well(tmp_path: Path, second: str) -> None:
    for at in every_act(tmp_path):
        length = 1
        later = 1
        while later <= length:
            world = World()
            world.fault = simple("kill")(at)
            story = Story(tmp_path, world)
            story.first_run()
            story.heal()
            before = world.acts
            world.fault = simple(second)(before + later)
            story.rerun()
            length = max(length, world.acts - before)
            try:
                story.settle_down()
                story.prove()
            except AssertionError as error:
                raise AssertionError(f"killed at act {at}, rerun: {second} at its act {later}: {error}") from error
            later += 1


@pytest.mark.parametrize("promoted", ["pg2", "pg3"])
@pytest.mark.parametrize("hidden", [False, True], ids=["seen", "not seen"])
def test_a_rerun_never_makes_a_second_primary_after_somebody_failed_over(
    tmp_path: Path, promoted: str, hidden: bool
) -> None:
    """The old primary's host dies at each act, somebody fails over, and then the host and the operator come back."""
    for at in every_act(tmp_path):
        world = World()
        world.fault = from_then_on(lambda world: world.lose_power("pg1"), "kill")(at)
        story = Story(tmp_path, world)
        story.first_run()
        if world.servers["pg2"].running == "primary":
            continue
        world.promote(world.servers[promoted])
        other = "pg2" if promoted == "pg3" else "pg3"
        world.servers[other].upstream = promoted
        world.settle()
        # A fence holds a host that boots; here it is what the switchover itself left on the disk, or the playbook.
        world.servers["pg1"].standby_signal = True
        world.servers["pg1"].control = "in archive recovery"
        world.boot("pg1")
        story.booted = True
        world.fault = None
        world.servers[promoted].hidden = hidden
        world.servers[other].hidden = hidden
        world.advance(60)
        story.rerun()
        assert story.end is not None
        # Where the candidate was to be promoted anyway, and holds everything, the rerun may simply finish.
        fine = ("needs_operator", "degraded", "ok") if promoted == "pg2" else ("needs_operator", "degraded")
        assert story.end["state"] in fine, f"act {at}: {story.end}"
        world.servers[promoted].hidden = world.servers[other].hidden = False
        world.settle()


def test_the_time_of_the_pause_does_not_depend_on_the_number_of_replicas(tmp_path: Path) -> None:
    """Acts between PAUSE and RESUME, other than those that all siblings do at once."""

    def acts(siblings: int) -> list[str]:
        world = World(siblings)
        story = Story(tmp_path, world)
        story.first_run()
        names = [name.split(" ", 1)[1] for name in world.names]
        return names[names.index("PAUSE") : names.index("RESUME")]

    assert acts(1) == acts(5)


@pytest.mark.parametrize(("standby_signal", "action"), [(False, "ask"), (True, "finish")])
def test_nobody_is_promoted_while_the_old_primary_starts_as_a_primary(standby_signal: bool, action: str) -> None:
    request = request_for(World())
    progress = Progress({}, ("pause", "stop", "hold", "promote"), frozenset(), {"end": "0/10"}, None)
    control = ControlState("in crash recovery", Lsn(16), 1)
    old = LocalStatus(True, None, 1, control, standby_signal)
    others: dict[str, Position | None] = {"pg2": Position(True, 1, Lsn(16), Lsn(16)), "pg3": None}
    assert engine.decide(request, progress, old, others).action == action


def test_an_error_that_nobody_foresaw_rolls_back_and_tells_where_but_not_what(tmp_path: Path) -> None:
    world = World()
    story = Story(tmp_path, world)
    world.fault = lambda world, act, name: "surprise" if name == "pg1 writers" else None
    story.first_run()
    assert story.end is not None
    assert story.end["state"] == "rolled_back"
    assert "Wait for writers that bypass the poolers: unexpected ValueError in " in story.end["reason"]
    assert "secret" not in story.path.read_text()
    assert not any(pooler.paused for pooler in world.poolers.values())


def test_a_full_disk_in_the_pause_rolls_back_at_once(tmp_path: Path) -> None:
    world = World()
    story = Story(tmp_path, world)
    world.fault = lambda world, act, name: DISK.update(full=True) if name == "pg1 writers" else None
    journal = Journal.create(story.path)
    journal.append("start", request=story.request.to_dict())
    end = engine.execute(run_for(world, story.request), journal)
    assert end["state"] == "rolled_back"
    assert "No space left on device" in end["reason"]
    assert not any(pooler.paused for pooler in world.poolers.values())
    assert world.servers["pg1"].running == "primary"
    DISK["full"] = False
    assert Progress.of(read(story.path)).begun[-1] == "quiesce"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "user=repl password='it''s' host=a hostaddr=10.0.0.1".replace("''", "\\'"),
            "user=repl host=b port=5433 application_name=pg1 password='it\\'s'",
        ),
        ("postgresql://repl:p%20w@a/", "user=repl host=b port=5433 application_name=pg1 password='p w'"),
        ("host=a port=1 user=repl", "host=b port=5433 user=repl application_name=pg1"),
    ],
)
def test_a_standby_keeps_its_login_when_it_is_pointed_elsewhere(before: str, after: str) -> None:
    assert pointed_at(before, "b", 5433, application_name="pg1") == after


def test_what_is_no_connection_string_is_not_quoted() -> None:
    with pytest.raises(StepFailed, match=r"^primary_conninfo is no connection string$"):
        pointed_at("hunter2", "b", 5433)

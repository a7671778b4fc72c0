# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of a switchover, as data: what each does and how it is undone. They act through ports only.

Every `do` may be run again by a rerun that finds it begun, and every `undo` may be run although its `do` never
happened: none of them trusts the journal to say what the world is like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_ports import (
    Clock,
    LocalServer,
    LocalStatus,
    Pooler,
    PortError,
    Position,
    RemoteServer,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_request import Place, SwitchoverRequest
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.conninfo import build, parse, quote
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn

# How often states are polled inside the pause. pg_ctl and pg_promote() poll every 100 ms, which would be most of it.
TICK = 0.002
# wal_retrieve_retry_interval for the operation. A standby whose trigger is consumed while it waits for its lost
# upstream sleeps this long before it promotes; the default is 5 s, and all clients wait meanwhile.
CANDIDATES_RETRY = "20ms"
# The others try again at once when they are pointed at the new primary: a reload wakes them. Until then each try to
# reach the stopped one, at the 100 ms of the role, costs a processor 20 ms while clients wait.
SIBLINGS_RETRY = "1s"
# Bytes of a segment for what clients write between the last look and the stop.
SEGMENT_LEFT = 1 << 20


class StepFailed(Exception):
    """A step did not reach what it is for. The message is a sentence for the operator."""


@dataclass
class Run:
    """One switchover at work.

    Attributes:
        state: what finished steps left for later ones, JSON-able; it is journalled with each step.
        problems: sentences about what did not go as it should after the new primary took over.
        unserved: poolers that may not send clients to the new primary.
        pause_ends: clock's time by which the candidate must have been asked to promote; None outside the pause.
        same_boot: this host has not been restarted since the operation began.
    """

    request: SwitchoverRequest
    clock: Clock
    local: LocalServer
    remote: Mapping[str, RemoteServer]
    poolers: Mapping[str, Pooler]
    state: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unserved: set[str] = field(default_factory=set)
    pause_ends: float | None = None
    same_boot: bool = True

    @property
    def candidate(self) -> RemoteServer:
        """The new primary-to-be."""
        return self.remote[self.request.new.name]

    def siblings(self) -> list[Place]:
        """The other replicas."""
        return list(self.request.siblings)

    def wait(self, reached: Callable[[], bool], timeout: float, failure: str, tick: float = TICK) -> None:
        """Poll until `reached` or raise StepFailed(failure) after `timeout` seconds."""
        deadline = self.clock.monotonic() + timeout
        while not reached():
            if self.clock.monotonic() >= deadline:
                raise StepFailed(failure)
            self.clock.sleep(tick)

    def within_pause(self, seconds: float) -> float:
        """`seconds`, or what is left of the pause where that is less."""
        if self.pause_ends is None:
            return seconds
        return max(0.0, min(seconds, self.pause_ends - self.clock.monotonic()))

    def each_pooler(self, act: Callable[[Pooler], Any], timeout: float) -> dict[str, Exception]:
        """Do something with every pooler at once; the failures by name."""
        return self._each([place.name for place in self.request.poolers], lambda name: act(self.poolers[name]), timeout)

    def each_sibling(self, act: Callable[[RemoteServer], Any], timeout: float) -> dict[str, Exception]:
        """Do something with every sibling at once; the failures by name."""
        names = [place.name for place in self.request.siblings]
        return self._each(names, lambda name: act(self.remote[name]), timeout)

    def _each(self, names: list[str], act: Callable[[str], Any], timeout: float) -> dict[str, Exception]:
        results = self.clock.gather([partial(act, name) for name in names], timeout)
        return {name: result for name, result in zip(names, results, strict=True) if isinstance(result, Exception)}


Act: TypeAlias = "Callable[[Run], dict[str, Any] | None]"


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: in the journal.
        title: for people, imperative.
        phase: "prepare" (clients notice nothing), "pause" (clients wait), "after" (clients work again).
        do: returns what later steps need.
        undo: how to put it back; None where nothing needs to be.
    """

    name: str
    title: str
    phase: str
    do: Act
    undo: Act | None = None

    @property
    def durable(self) -> bool:
        """Whether its beginning has to be on disk before it begins, for a rerun after a power loss.

        In the pause each fsync is a wait of all clients, so only what decides between going back and going on, and what
        has to be undone, waits for the disk. The kernel has the other lines, which is enough when the worker is killed.
        """
        return self.phase != "pause" or self.undo is not None or self.name == POINT_OF_NO_RETURN


# --- prepare ---


def observe(run: Run) -> dict[str, Any]:
    """Note what is set now, before anything is changed: undoing works from this and not from what was done."""
    intervals = {}
    for place in (run.request.new, *run.request.siblings):
        server = run.remote[place.name]
        if server.setting("wal_retrieve_retry_interval") != retry_interval(run, place.name):
            intervals[place.name] = server.override("wal_retrieve_retry_interval")
    return {
        "retry_before": intervals,
        "slots_before": sorted(run.candidate.slots()),
        "synchronous_before": run.candidate.override("synchronous_standby_names"),
    }


def retry_interval(run: Run, name: str) -> str:
    """What a replica's wal_retrieve_retry_interval is for the operation."""
    return CANDIDATES_RETRY if name == run.request.new.name else SIBLINGS_RETRY


def tune(run: Run) -> None:
    """Set wal_retrieve_retry_interval for the operation: low on the candidate, calm on the others."""
    for name in run.state["retry_before"]:
        run.remote[name].configure({"wal_retrieve_retry_interval": retry_interval(run, name)})


def untune(run: Run) -> None:
    """Set wal_retrieve_retry_interval back, on every replica that can be reached."""
    failures = []
    for name, value in run.state.get("retry_before", {}).items():
        try:
            run.remote[name].configure({"wal_retrieve_retry_interval": value})
        except PortError as error:
            failures.append(f"wal_retrieve_retry_interval of {name} was not set back: {error}")
    if failures:
        raise StepFailed("; ".join(failures))


def make_slots(run: Run) -> None:
    """Make the slots that the new primary's followers will use, so that it keeps their write-ahead log from now on."""
    for place in run.request.followers():
        if place.slot and place.slot not in run.state["slots_before"]:
            run.candidate.create_slot(place.slot)


def drop_slots(run: Run) -> None:
    """Drop the slots that were made. One that is left behind would hold write-ahead log until the disk is full."""
    if "slots_before" not in run.state:
        return
    for place in run.request.followers():
        if place.slot and place.slot not in run.state["slots_before"]:
            run.candidate.drop_slot(place.slot)


def set_synchronous(run: Run) -> None:
    """Set synchronous_standby_names for the time after. A standby ignores it, so it may be done before."""
    if run.request.synchronous is not None:
        run.candidate.configure({"synchronous_standby_names": run.request.synchronous})


def unset_synchronous(run: Run) -> None:
    """Set the candidate's synchronous_standby_names back."""
    if run.request.synchronous is not None and "synchronous_before" in run.state:
        run.candidate.configure({"synchronous_standby_names": run.state["synchronous_before"]})


def aim(run: Run) -> None:
    """Set whom the old primary will follow. A primary ignores it, so it may be done before."""
    old, new = run.request.old, run.request.new
    # Asked for here and not noted before: an operator's may have a password in it, and that is not for the journal.
    conninfo = pointed_at(run.candidate.setting("primary_conninfo"), new.address, new.port, application_name=old.name)
    run.local.configure({"primary_conninfo": conninfo, "primary_slot_name": old.slot or None})


def pointed_at(conninfo: str, host: str, port: int, application_name: str | None = None) -> str:
    """The same connection string with another server (and another name of the standby).

    A password in it, as pg_basebackup -R writes it, was the operator's choice, and the standby needs it.

    Raises:
        StepFailed: libpq could not read it either.
    """
    try:
        parameters = parse(conninfo)
    except ValueError:
        # Its words are from the connection string.
        raise StepFailed("primary_conninfo is no connection string") from None
    parameters.pop("hostaddr", None)
    password = parameters.pop("password", None)
    parameters |= {"host": host, "port": str(port)}
    if application_name is not None:
        parameters["application_name"] = application_name
    text = build(dict(parameters))
    return text if password is None else f"{text} password={quote(password)}"


def checkpoint(run: Run) -> None:
    """Write dirty buffers now, on both, so that the shutdown checkpoint and the promotion have little to do."""
    results = run.clock.gather([run.local.checkpoint, run.candidate.checkpoint], run.request.budgets.catch_up)
    if isinstance(results[0], Exception):
        raise StepFailed(f"CHECKPOINT on {run.request.old.name} failed: {results[0]}")


def catch_up(run: Run) -> None:
    """Wait until the candidate has replayed all that it had received a moment ago, and receives.

    A server that archives switches to a new segment when it stops (ShutdownXLOG in xlog.c), and sends the unused rest
    of the old one, up to 16 MB, while clients wait. So most of it is used up before.
    """
    filled = run.local.fill_segment(SEGMENT_LEFT)
    first = max(run.candidate.position().receive, filled)

    def ready() -> bool:
        now = run.candidate.position()
        return now.in_recovery and now.streaming and now.replay >= first

    run.wait(ready, run.request.budgets.catch_up, f"{run.request.new.name} does not catch up", tick=0.05)


# --- pause ---


def pause(run: Run) -> dict[str, Any]:
    """Hold all clients of all poolers, within the budget, or none."""
    budgets = run.request.budgets
    run.pause_ends = run.clock.monotonic() + budgets.pause
    failed = run.each_pooler(lambda pooler: pooler.pause(budgets.drain), budgets.drain + 0.5)
    if failed:
        raise StepFailed("; ".join(f"{name} could not be paused: {error}" for name, error in failed.items()))
    return {}


def resume_old(run: Run) -> None:
    """Let clients go on with the old primary."""
    run.pause_ends = None
    failed = run.each_pooler(lambda pooler: pooler.resume(), 10.0)
    if failed:
        said = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise StepFailed(f"not resumed ({said}); its own dead-man will do it")


def quiesce(run: Run) -> dict[str, Any] | None:
    """Wait for writers that do not come through a pooler; a stop would abort their transactions."""
    deadline = run.clock.monotonic() + run.within_pause(0.5)
    while writers := run.local.writers():
        if run.request.terminate_writers:
            run.local.terminate([writer.pid for writer in writers])
            return {"terminated_writers": len(writers)}
        if run.clock.monotonic() >= deadline:
            first = writers[0]
            raise StepFailed(
                f"{len(writers)} session(s) write past the poolers, one as {first.user} "
                f"({first.application or 'no name'}, pid {first.pid}, for {first.seconds:.1f} s)"
            )
        run.clock.sleep(0.01)
    return None


def mark_standby(run: Run) -> None:
    """From here on, however the old primary is started, by whomever, it starts as a standby of the candidate."""
    run.local.write_standby_signal()


def stop(run: Run) -> dict[str, Any]:
    """Fast shutdown, seen in the control file: the postmaster itself may stay long for an archiver or a walsender."""
    began = run.clock.monotonic()
    deadline = began + run.within_pause(run.request.budgets.pause)
    run.local.stop("fast")
    # They get the rest from the new primary. Until then each would be sent all that the candidate is sent.
    run.local.cut_off([place.name for place in run.request.siblings])
    hurried = False
    while (control := run.local.control()).state != "shut down":
        now = run.clock.monotonic()
        if control.state == "shut down in recovery":
            raise StepFailed(f"{run.request.old.name} was not a primary when it stopped")
        if now >= deadline:
            raise StepFailed(f"{run.request.old.name} did not shut down in time ({control.state})")
        if not hurried and now >= began + 0.25:
            # A logical subscriber that confirms nothing would hold up the shutdown checkpoint for ever.
            hurried = run.local.terminate_senders(keep=run.request.new.name) >= 0
        run.clock.sleep(TICK)
    if control.timeline != run.request.timeline:
        raise StepFailed(f"{run.request.old.name} stopped on timeline {control.timeline}")
    return {"checkpoint": str(control.checkpoint), "stopped_timeline": control.timeline}


def restore_primary(run: Run) -> None:
    """Make the old primary the primary again. Never when anybody else is, or may have been.

    It may have been started as a standby meanwhile, by a boot of its host. Then it is promoted: to take standby.signal
    away from a standby would have it write the same timeline twice.
    """
    old = run.request.old.name
    status = run.local.status()
    if not status.is_primary:
        # It may take minutes. Whether somebody else is primary is looked at when it is over.
        status = await_answer(run, status)
        refuse_second_primary(run)
        if status.timeline > run.request.timeline:
            raise StepFailed(f"{old} has followed a promotion to timeline {status.timeline}")
        if not status.running:
            if status.control.state not in ("shut down in recovery", "in archive recovery"):
                run.local.remove_standby_signal()
            run.local.start(run.request.budgets.start)
            status = run.local.status()
        if status.in_recovery:
            run.local.promote(run.request.budgets.promote)
        if not run.local.status().is_primary:
            raise StepFailed(f"{old} does not take writes")
    run.local.remove_standby_signal()


def refuse_second_primary(run: Run) -> None:
    """Raise StepFailed unless it is sure that no other member is a primary or follows a newer one."""
    others = (run.request.new, *run.request.siblings)

    answers = dict(
        zip(
            (place.name for place in others),
            run.clock.gather([run.remote[place.name].position for place in others], 3.0),
            strict=True,
        )
    )
    for name, answer in answers.items():
        if not isinstance(answer, Position):
            continue
        if not answer.in_recovery:
            raise StepFailed(f"{name} is a primary now, so {run.request.old.name} must not become one again")
        if answer.timeline > run.request.timeline:
            raise StepFailed(f"{name} follows a newer primary (timeline {answer.timeline})")
    if not run.same_boot and not isinstance(answers[run.request.new.name], Position):
        # Within one boot of this host nobody can have failed over without leaving a trace here; across a boot they can.
        raise StepFailed(f"{run.request.new.name} cannot be asked whether it was promoted meanwhile")


def await_answer(run: Run, status: LocalStatus) -> LocalStatus:
    """Wait until an old primary that runs and is silent is down, or takes sessions.

    A fast shutdown cannot be cancelled: it is ended, so that the server can be started again; clients wait meanwhile,
    and it had its time already. A server that nobody asked to stop is left to its crash recovery, however often this is
    run: what it has recovered would be lost.
    """
    began = run.clock.monotonic()
    hurry = began + 0.5
    while status.silent:
        now = run.clock.monotonic()
        if now >= began + run.request.budgets.start:
            what = "does not end" if status.stopping else "takes no sessions"
            raise StepFailed(f"{run.request.old.name} {what} after {run.request.budgets.start:g} s")
        if status.stopping and now >= hurry:
            run.local.stop("immediate")
            hurry = now + 10.0
        run.clock.sleep(0.01 if status.stopping else 0.2)
        status = run.local.status()
    return status


def hold(run: Run) -> dict[str, Any]:
    """The candidate has everything, to the end of the shutdown checkpoint record (its start is not enough)."""
    control = run.local.control()
    if control.state != "shut down" or str(control.checkpoint) != run.state["checkpoint"]:
        raise StepFailed(f"{run.request.old.name} was started again (its control file says {control.state})")
    end = run.local.checkpoint_end(control)

    def has_all() -> bool:
        now = run.candidate.position()
        return now.in_recovery and now.receive >= end and now.replay >= end

    run.wait(has_all, run.within_pause(run.request.budgets.hold), f"{run.request.new.name} did not receive {end}")
    run.state["end"] = str(end)
    return {"end": str(end)}


def promote(run: Run) -> dict[str, Any]:
    """Promote the candidate. After this was begun the old primary may not become primary again by itself."""
    deadline = run.clock.monotonic() + run.request.budgets.promote
    asked = False
    problem = "it is still in recovery"
    while True:
        try:
            if not run.candidate.in_recovery():
                return {}
            if not asked:
                run.candidate.promote()
                asked = True
        except PortError as error:
            # It may have crashed; a restarted standby has forgotten that it was asked.
            asked, problem = False, str(error)
        if run.clock.monotonic() >= deadline:
            raise StepFailed(f"{run.request.new.name} was asked to promote, and {problem}")
        run.clock.sleep(TICK)


def verify(run: Run) -> dict[str, Any]:
    """The new primary is on the next timeline, which begins where the old one ended, and it can write."""
    new = run.request.new.name
    timeline = run.candidate.position().timeline
    if timeline <= run.request.timeline:
        raise StepFailed(f"{new} is no new primary: it is on timeline {timeline}")
    switchpoint = run.candidate.switchpoint(timeline)
    end = Lsn.parse(run.state["end"])
    if switchpoint != end:
        raise StepFailed(f"timeline {timeline} begins at {switchpoint}, but {run.request.old.name} ended at {end}")
    try:
        run.candidate.write()
    except PortError as error:
        raise StepFailed(f"{new} cannot write: {error}") from error
    return {"new_timeline": timeline, "switchpoint": str(switchpoint)}


def retarget(run: Run) -> dict[str, Any]:
    """Every pooler reads its files, which name the new primary since before the pause, and says so."""
    new = run.request.new
    failed = run.each_pooler(lambda pooler: pooler.retarget(new.address, new.port), 5.0)
    run.unserved = set(failed)
    run.problems.extend(f"pooler {name} does not point at {new.name}: {error}" for name, error in failed.items())
    return {"unserved": sorted(failed)}


def attach(run: Run) -> None:
    """Where commits wait for standbys, let enough of them attach first; without, this is done after the resume."""
    if run.request.required_standbys == 0:
        return
    failed = run.each_sibling(lambda server: server.follow(run.request.new), run.request.budgets.attach)
    wanted = min(run.request.required_standbys, len(run.request.siblings) - len(failed))
    try:
        run.wait(lambda: len(run.candidate.standbys()) >= wanted, run.request.budgets.attach, "")
    except StepFailed:
        run.problems.append(f"commits on {run.request.new.name} waited for its synchronous standbys")


def resume(run: Run) -> dict[str, Any]:
    """Let clients in, and repoint the other replicas at the same time."""
    new = run.request.new
    poolers = [place.name for place in run.request.poolers if place.name not in run.unserved]
    siblings = [place.name for place in run.request.siblings]
    calls: list[Callable[[], Any]] = [run.poolers[name].resume for name in poolers]
    calls += [partial(run.remote[name].follow, new) for name in siblings]
    results = run.clock.gather(calls, 5.0)
    run.pause_ends = None
    for name, result in zip(poolers + siblings, results, strict=True):
        if not isinstance(result, Exception):
            continue
        if name in poolers:
            run.unserved.add(name)
            run.problems.append(f"pooler {name} could not be resumed: {result}")
        else:
            run.problems.append(f"{name} could not be pointed at {new.name}: {result}")
    return {"unserved": sorted(run.unserved)}


# --- after ---


def demote(run: Run) -> None:
    """Start the old primary as a standby. It needs no rewind: the new timeline begins where it ended."""
    status = run.local.status()
    if status.is_primary:
        raise StepFailed(f"{run.request.old.name} was started as a primary by somebody else: stop it now")
    if status.stopping:
        run.local.terminate_senders(keep="")
    budgets = run.request.budgets
    deadline = run.clock.monotonic() + (budgets.follow if status.stopping else budgets.start)
    while status.silent:
        if run.clock.monotonic() >= deadline:
            what = "does not end (a hanging archive_command?)" if status.stopping else "takes no sessions"
            raise StepFailed(f"the postmaster of {run.request.old.name} {what}")
        run.clock.sleep(0.02 if status.stopping else 0.2)
        status = run.local.status()
    if not status.running:
        run.local.write_standby_signal()
        run.local.start(run.request.budgets.start)


def follow(run: Run) -> dict[str, Any]:
    """All others stream the new timeline."""
    wanted = int(run.state["new_timeline"])

    def behind() -> list[str]:
        names = []
        for place in run.request.followers():
            server: Any = run.local if place is run.request.old else run.remote[place.name]
            try:
                position: Position = server.position()
            except PortError:
                names.append(place.name)
                continue
            if not (position.in_recovery and position.streaming and position.timeline >= wanted):
                names.append(place.name)
        return names

    for name, error in run.each_sibling(lambda server: server.follow(run.request.new), 5.0).items():
        run.problems.append(f"{name} could not be pointed at {run.request.new.name}: {error}")
    deadline = run.clock.monotonic() + run.request.budgets.follow
    while (missing := behind()) and run.clock.monotonic() < deadline:
        run.clock.sleep(0.05)
    run.problems.extend(f"{name} does not stream from {run.request.new.name}" for name in missing)
    return {"not_streaming": missing}


def tidy(run: Run) -> dict[str, Any]:
    """Drop slots that nobody uses any more, reset what was set for the operation, checkpoint the new primary.

    The checkpoint writes the new timeline into its control file, where pg_rewind looks for it.
    """
    dropped = run.local.drop_slots([place.slot for place in run.request.members() if place.slot])
    if run.request.new.slot is not None:
        run.candidate.drop_slot(run.request.new.slot)
    untune(run)
    run.candidate.checkpoint()
    return {"dropped_slots": list(dropped)}


POINT_OF_NO_RETURN = "promote"

STEPS: tuple[Step, ...] = (
    Step("observe", "Note the settings and slots of the replicas", "prepare", observe),
    Step("tune", "Set wal_retrieve_retry_interval on the replicas", "prepare", tune, untune),
    Step("make_slots", "Make replication slots on the candidate", "prepare", make_slots, drop_slots),
    Step("synchronous", "Set the candidate's synchronous_standby_names", "prepare", set_synchronous, unset_synchronous),
    Step("aim", "Set whom the old primary will follow", "prepare", aim),
    Step("checkpoint", "CHECKPOINT on the primary and the candidate", "prepare", checkpoint),
    Step("catch_up", "Wait until the candidate has caught up", "prepare", catch_up),
    Step("pause", "PAUSE all poolers", "pause", pause, resume_old),
    Step("quiesce", "Wait for writers that bypass the poolers", "pause", quiesce),
    Step("mark_standby", "Let the old primary start only as a standby", "pause", mark_standby),
    Step("stop", "Shut the old primary down", "pause", stop),
    Step("hold", "Wait until the candidate has the end of the shutdown checkpoint", "pause", hold),
    Step("promote", "Promote the candidate (no way back from here)", "pause", promote),
    Step("verify", "Check the new timeline and write to it", "pause", verify),
    Step("retarget", "RELOAD all poolers", "pause", retarget),
    Step("attach", "Let synchronous standbys attach", "pause", attach),
    Step("resume", "RESUME all poolers and repoint the other replicas", "pause", resume),
    Step("demote", "Start the old primary as a standby", "after", demote),
    Step("follow", "Wait until all others stream from the new primary", "after", follow),
    Step("tidy", "Drop unused slots, reset settings, CHECKPOINT on the new primary", "after", tidy),
)

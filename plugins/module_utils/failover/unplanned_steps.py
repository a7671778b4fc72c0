# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of an unplanned failover, as data: what each does and how it is undone. They act through ports only.

The playbook holds clients before. The last step lets them go, so that they need no controller that may have died.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.failover import fencing
from ansible_collections.dbops.fleet.plugins.module_utils.failover.election import Standing, elect, has_full_disk
from ansible_collections.dbops.fleet.plugins.module_utils.failover.synchronous import SyncRule
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unexpected import told
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_ports import PortError, World
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_request import FailoverRequest, Member
from ansible_collections.dbops.fleet.plugins.module_utils.postgres import conninfo as libpq
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn

TICK = 0.005


class StepFailed(Exception):
    """A step did not reach what it is for. The message is a sentence for the operator."""


def sentence(error: Exception) -> str:
    """What journal and operator are told of it."""
    return str(error) if isinstance(error, (StepFailed, PortError, FleetError)) else told(error)


@dataclass
class Run:
    """One failover at work.

    Attributes:
        state: what finished steps left for later ones, JSON-able; it is journalled.
        problems: sentences about what did not go as it should after the new primary took over.
        started: when, by the world's clock.
    """

    request: FailoverRequest
    world: World
    state: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.world.monotonic()

    @property
    def new(self) -> Member:
        """The candidate, once elected."""
        return self.request.replica(self.state["candidate"])

    def siblings(self) -> list[Member]:
        """Replicas that were asked, other than the candidate."""
        frozen = self.state.get("frozen", {})
        return [m for m in self.request.replicas if m.name in frozen and m.name != self.state.get("candidate")]

    def wait(self, reached: Callable[[], bool], timeout: float, failure: str) -> None:
        """Poll until `reached` or raise StepFailed(failure) after `timeout` seconds."""
        deadline = self.world.monotonic() + timeout
        while not reached():
            if self.world.monotonic() >= deadline:
                raise StepFailed(failure)
            self.world.sleep(TICK)

    def each(self, members: list[Member], act: Callable[[Member], Any], timeout: float) -> dict[str, Any]:
        """Do something with every member at once; result or exception by name."""

        def one(member: Member) -> Callable[[], Any]:
            return lambda: act(member)

        return dict(zip((m.name for m in members), self.world.gather([one(m) for m in members], timeout), strict=True))


Act: TypeAlias = "Callable[[Run], dict[str, Any] | None]"


@dataclass(frozen=True)
class Step:
    """One step: its name in the journal, its title for people, what it does, and how it is undone (None: nothing)."""

    name: str
    title: str
    do: Act
    undo: Act | None = None


def note(run: Run) -> dict[str, Any]:
    """Read what freezing overwrites, before it does: a rerun finds it in the journal.

    Values that an earlier, interrupted run noted are kept where the setting is empty now.
    """
    known: dict[str, str] = dict(run.state.get("conninfo", {}))

    def look(member: Member) -> str:
        return run.world.replica(member.name).setting("primary_conninfo")

    unread = {}
    for name, found in run.each(list(run.request.replicas), look, run.request.budgets.freeze).items():
        if isinstance(found, Exception):
            unread[name] = sentence(found)
        elif found:
            known[name] = found
    return {"conninfo": known, "unread": unread}


def freeze(run: Run) -> dict[str, Any]:
    """Switch every walreceiver off and see it gone, so that positions stand still and nobody confirms any commit.

    The setting is stored (ALTER SYSTEM): a restart of a standby does not connect it again either.
    """

    def off(member: Member) -> None:
        replica = run.world.replica(member.name)
        replica.configure({"primary_conninfo": "", "wal_retrieve_retry_interval": "100ms"})
        deadline = run.world.monotonic() + run.request.budgets.freeze
        while True:
            facts = replica.facts()
            if facts.is_standby and facts.receiver is None:
                return
            if not facts.is_standby:
                raise PortError(facts.error or f"it is {facts.state} and not in recovery")
            if run.world.monotonic() >= deadline:
                raise PortError("its walreceiver does not end")
            run.world.sleep(TICK)

    unread = run.state["unread"]
    members = [member for member in run.request.replicas if member.name not in unread]
    results = run.each(members, off, run.request.budgets.freeze + 3.0)
    failed = {**unread} | {name: sentence(result) for name, result in results.items() if isinstance(result, Exception)}
    return {"frozen": {name: True for name in results if name not in failed}, "not_frozen": failed}


def unfreeze(run: Run) -> None:
    """Let every replica follow whom it followed before, also one that an earlier run froze and that is silent now."""
    known = run.state["conninfo"]

    def on(member: Member) -> None:
        settings = {"primary_conninfo": known[member.name], "wal_retrieve_retry_interval": None}
        run.world.replica(member.name).configure(settings)

    members = [member for member in run.request.replicas if member.name in known]
    failed = [f"{n}: {sentence(r)}" for n, r in run.each(members, on, 5.0).items() if isinstance(r, Exception)]
    if failed:
        raise StepFailed(f"primary_conninfo could not be put back ({'; '.join(failed)})")


def choose(run: Run) -> dict[str, Any]:
    """Elect the candidate from positions that do not move any more."""
    request = run.request
    frozen, failed = run.state["frozen"], run.state.get("not_frozen", {})
    standings = []
    for member in request.replicas:
        if member.name in frozen:
            facts = run.world.replica(member.name).facts()
            standing = Standing.of(
                facts, priority=member.priority, on_disk_end=member.on_disk_end, free_mb=member.free_mb
            )
            standings.append(standing)
        else:
            error = failed.get(member.name, "no answer")
            standings.append(Standing(member.name, asked=False, error=error, priority=member.priority))
    rule = None if request.synchronous is None else SyncRule.parse(request.synchronous)
    election = elect(
        standings,
        rule,
        request.policy,
        cluster=request.cluster,
        last_known=request.last_known,
        on_primary_disk=request.on_primary_disk,
    )
    return {"candidate": election.candidate, "election": election.to_dict()}


def fence(run: Run) -> dict[str, Any]:
    """Go on only when the old primary is proven to be out, by a rung that was tried before or by the quorum."""
    request = run.request
    rule = None if request.synchronous is None else SyncRule.parse(request.synchronous)
    rungs = [rung for rung in request.rungs if rung.driver != "quorum"]
    if request.poolers_are_the_only_way_in:
        rungs.append(fencing.pooler_cut(True, request.cuts))
    rungs.append(fencing.quorum(rule, request.synchronous_commit, run.state["frozen"]))
    verdict = fencing.judge_ladder(request.old.name, request.old.address, rungs, cluster=request.cluster)
    if not verdict.confirmed and not request.without_fence:
        raise Refused(
            f"it is not proven that {request.old.name} cannot take writes",
            remedy=verdict.manual[0],
            code="fencing_unconfirmed",
            fence=verdict.to_dict(),
        )
    return {"fence": verdict.to_dict()}


def catch_up(run: Run) -> dict[str, Any] | None:
    """Let the candidate stream what another replica holds and it does not. Then freeze it again."""
    source_name = run.state["election"]["catch_up_from"]
    if source_name is None:
        return None
    new, source = run.new, run.request.replica(source_name)
    candidate = run.world.replica(new.name)
    target, timeline = Lsn.parse(run.state["election"]["end"]), run.state["election"]["timeline"]
    if new.slot and run.world.replica(source.name).create_slot(new.slot):
        run.state |= {"lent_slot": [source.name, new.slot], "borrower": new.name}
    candidate.configure({"primary_conninfo": upstream(run, new, source)})

    def has_all() -> bool:
        facts = candidate.facts()
        return facts.position is not None and facts.position >= target and (facts.timeline or 0) >= timeline

    run.wait(has_all, run.request.budgets.catch_up, f"{new.name} did not get {target} from {source.name}")
    candidate.configure({"primary_conninfo": ""})
    run.wait(lambda: candidate.facts().receiver is None, run.request.budgets.freeze, f"{new.name} still receives")
    return_slot(run)
    return {"caught_up_from": source.name}


def return_slot(run: Run) -> None:
    """Drop the slot that was made for catching up: on a standby nobody would ever advance it again."""
    if "lent_slot" not in run.state:
        return
    source, slot = run.state["lent_slot"]
    candidate = run.world.replica(run.state["borrower"])
    if candidate.facts().is_standby:
        candidate.configure({"primary_conninfo": ""})
    run.world.replica(source).drop_slot(slot)
    del run.state["lent_slot"]


def upstream(run: Run, follower: Member, primary: Member) -> str:
    """primary_conninfo of a follower: what it had, with another address. How it logs in and verifies stays."""
    known = run.state.get("conninfo", {}).get(follower.name) or run.request.replication_conninfo
    if not known:
        return libpq.between_members(
            primary.address, primary.port, application_name=follower.name, user=libpq.REPLICATION, dbname=None
        )
    values: dict[str, str] = libpq.parse(known)
    values.pop("hostaddr", None)
    values.setdefault("application_name", follower.name)
    password = values.pop("password", None)
    text = libpq.build({**values, "host": primary.address, "port": primary.port})
    # A password in it was the operator's choice, and the replica needs it.
    return text if password is None else f"{text} password={libpq.quote(password)}"


def recheck(run: Run) -> None:
    """The last look before there is no way back: where no host was proven to be off, the primary may have returned."""
    if run.state["fence"]["level"] == "host":
        return
    left = run.request.cut_seconds - (run.world.monotonic() - run.started)
    if run.state["fence"]["level"] == "clients" and left < run.request.budgets.promote:
        raise StepFailed(
            f"the poolers' timers may let clients go to {run.request.old.name} in {max(left, 0):.0f} s, and a "
            f"promotion may take {run.request.budgets.promote:.0f} s: set fleet_failover_pause_seconds higher"
        )
    life = run.world.primary_answers()
    if life:
        raise StepFailed(f"{run.request.old.name} answers again ({life})")


def make_slots(run: Run) -> dict[str, Any]:
    """Slots on the candidate for the other replicas and for the old primary's return; a standby may have them too."""
    candidate = run.world.replica(run.new.name)
    wanted = [member.slot for member in run.siblings() if member.slot]
    return {"made_slots": [slot for slot in wanted if candidate.create_slot(slot)]}


def drop_slots(run: Run) -> None:
    """Only those that this operation made."""
    for slot in run.state.get("made_slots", []):
        run.world.replica(run.new.name).drop_slot(slot)


def set_synchronous(run: Run) -> dict[str, Any] | None:
    """Ask for no more confirmations than the replicas that are left can give: commits would hang for ever."""
    diverged = run.state["election"]["diverged"]
    return _ask_for_less(
        run, [m.name for m in run.siblings() if m.name not in diverged and not has_full_disk(m.free_mb)]
    )


def _ask_for_less(run: Run, left: Sequence[str]) -> dict[str, Any] | None:
    """Have commits wait for no more than these replicas can confirm; None where they already do.

    The lower rule goes to every replica, so that the next failover knows the promise that was really kept.
    """
    text = run.world.replica(run.new.name).setting("synchronous_standby_names")
    rule = SyncRule.parse(text).without(run.new.name)
    if not rule.is_synchronous or rule.can_be_met(left):
        return None
    lowered = rule.for_standbys(rule.listed(left))
    members = [run.new, *run.siblings()]
    for name, result in run.each(
        members,
        lambda m: run.world.replica(m.name).configure({"synchronous_standby_names": str(lowered)}),
        5.0,
    ).items():
        if isinstance(result, Exception) and (name == run.new.name or name in left):
            raise StepFailed(f"synchronous_standby_names of {name} could not be set: {sentence(result)}")
    run.problems.append(
        f"commits wait for {lowered.required} instead of {rule.required} standbys, until others have rejoined"
    )
    return {"lowered_synchronous": str(lowered), "synchronous_before": run.state.get("synchronous_before", text)}


def reset_synchronous(run: Run) -> None:
    """Back to what the configuration files say."""
    if "lowered_synchronous" in run.state:
        members = [run.new, *run.siblings()]
        run.each(members, lambda m: run.world.replica(m.name).configure({"synchronous_standby_names": None}), 5.0)


def promote(run: Run) -> None:
    """Promote the candidate. From here on the old primary may never come back by itself."""
    candidate = run.world.replica(run.new.name)
    deadline = run.world.monotonic() + run.request.budgets.promote
    asked, problem = False, "it is still in recovery"
    while True:
        facts = candidate.facts()
        if facts.is_primary:
            return
        try:
            if facts.is_standby and not asked:
                candidate.promote()
                asked = True
            elif not facts.is_standby:
                # A standby that crashed and came back has forgotten that it was asked.
                asked, problem = False, facts.error or f"it is {facts.state}"
        except PortError as error:
            asked, problem = False, str(error)
        if run.world.monotonic() >= deadline:
            raise StepFailed(f"{run.new.name} was asked to promote, and {problem}")
        run.world.sleep(TICK)


def verify(run: Run) -> dict[str, Any]:
    """It is on a new timeline and takes a real write."""
    candidate = run.world.replica(run.new.name)
    facts = candidate.facts()
    before = run.state["election"]["timeline"]
    if facts.timeline is None or facts.timeline <= before:
        raise StepFailed(f"{run.new.name} is no new primary: it is on timeline {facts.timeline}, not beyond {before}")
    try:
        switchpoint = candidate.switchpoint(facts.timeline)
        candidate.write()
    except PortError as error:
        raise StepFailed(f"{run.new.name} cannot write: {error}") from error
    return {"new_timeline": facts.timeline, "switchpoint": str(switchpoint)}


def repoint(run: Run) -> dict[str, Any]:
    """Let the other replicas follow the new primary."""
    new, siblings = run.new, run.siblings()
    diverged = run.state["election"]["diverged"]
    movable = [member for member in siblings if member.name not in diverged]

    def follow(member: Member) -> None:
        settings = {"primary_conninfo": upstream(run, member, new), "wal_retrieve_retry_interval": None}
        run.world.replica(member.name).configure(settings)

    results = run.each(movable, follow, 5.0)
    failed = {name: sentence(result) for name, result in results.items() if isinstance(result, Exception)}
    run.problems.extend(f"{name} could not be pointed at {new.name}: {error}" for name, error in failed.items())
    run.problems.extend(f"{name} left {new.name}'s line and has to be rejoined" for name in diverged)
    not_asked = [m.name for m in run.request.replicas if m.name not in run.state["frozen"]]
    run.problems.extend(f"{name} was not asked and has to be rejoined" for name in not_asked)
    candidate = run.world.replica(new.name)
    candidate.configure({"wal_retrieve_retry_interval": None})
    return {"repointed": [name for name in results if name not in failed], "not_repointed": failed}


def attach(run: Run) -> dict[str, Any] | None:
    """Where commits wait for standbys, see enough of these confirm what the new primary has written by now.

    One that streams is not enough: a standby without the log or the disk that it needs begins to, again and again.
    Commits do not wait for such ones.
    """
    candidate = run.world.replica(run.new.name)
    rule = SyncRule.parse(candidate.setting("synchronous_standby_names")).without(run.new.name)
    written = candidate.facts().current_lsn
    if not rule.is_synchronous:
        return None
    if written is None:
        raise StepFailed(f"{run.new.name} does not say where it is; its standbys were not looked at")
    try:
        run.wait(lambda: rule.can_be_met(candidate.confirmed(written)), run.request.budgets.attach, "")
    except StepFailed:
        return _ask_for_less(run, candidate.confirmed(written))
    return None


def let_go(run: Run) -> dict[str, Any]:
    """Let clients go to the new primary, where the poolers' files name it already; elsewhere the playbook has to.

    A pooler that does not answer is no problem of the failover's yet: the playbook comes to each of them once more.
    """
    new = run.new
    if run.request.staged != new.name:
        return {"let_go": []}

    def release(name: str) -> Callable[[], None]:
        def act() -> None:
            pooler = run.world.pooler(name)
            pooler.retarget(new.address, new.port)
            pooler.resume()

        return act

    names = [place.name for place in run.request.poolers]
    results = dict(zip(names, run.world.gather([release(name) for name in names], 5.0), strict=True))
    failed = {name: sentence(result) for name, result in results.items() if isinstance(result, Exception)}
    return {"let_go": [name for name in names if name not in failed], "not_let_go": failed}


POINT_OF_NO_RETURN = "promote"

STEPS: tuple[Step, ...] = (
    Step("note", "Note whom the replicas follow", note),
    Step("freeze", "Switch every walreceiver off", freeze, unfreeze),
    Step("choose", "Choose the candidate", choose),
    Step("fence", "Prove that the old primary is out", fence),
    Step("catch_up", "Let the candidate get what another replica holds", catch_up, return_slot),
    Step("recheck", "Look for the old primary once more", recheck),
    Step("make_slots", "Make replication slots on the candidate", make_slots, drop_slots),
    Step("synchronous", "Set synchronous_standby_names to what is left", set_synchronous, reset_synchronous),
    Step("promote", "Promote the candidate (no way back from here)", promote),
    Step("verify", "Check the new timeline and write to it", verify),
    Step("repoint", "Let the other replicas follow", repoint),
    Step("attach", "See the synchronous standbys confirm", attach),
    Step("let_go", "Point every pooler at the new primary and let clients go", let_go),
)

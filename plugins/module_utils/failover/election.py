# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which standby becomes the primary after an unplanned loss, and what may be lost with that choice.

The order of the questions is the point: first the line of timelines (an older line is never "further" because its
number is higher), then what is really on disk, and only among equals the operator's preference.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.failover.synchronous import SyncRule
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import TimelineHistory
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts

DEFAULT_PRIORITY = 100
DEFAULT_MAXIMUM_LOSS_BYTES = 1 << 20
# A promotion writes a history file and begins a segment of 16 MiB; clients write at once.
MINIMUM_FREE_MB = 64

_FIRST = TimelineHistory.first()
_NOWHERE = Lsn(0)


def has_full_disk(free_mb: int | None) -> bool:
    """Whether so many free MiB (None: nobody looked) are too few to be promoted, and to receive for long."""
    return free_mb is not None and free_mb < MINIMUM_FREE_MB


@dataclass(frozen=True)
class Standing(Record):
    """What one replica brings to the election.

    Attributes:
        asked: it answered, and everything below was read. False: it may hold more than anybody knows, and what is below
            means nothing.
        error: why it was not asked.
        end: the end of the write-ahead log that it holds and can replay, on disk included.
        serves_end: the end that it would send to another standby. Less than `end` after a restart without upstream:
            a walsender on a standby sends what was received or replayed, not what merely lies on disk.
        priority: higher is preferred among equals; 0 means never without being named.
        free_mb: MiB free for its data directory; None where nobody looked.
        paused, delay_seconds: replay is paused, or delayed by recovery_min_apply_delay.
    """

    name: str
    asked: bool = True
    error: str | None = None
    timeline: int = 0
    history: TimelineHistory = _FIRST
    end: Lsn = _NOWHERE
    serves_end: Lsn = _NOWHERE
    priority: int = DEFAULT_PRIORITY
    free_mb: int | None = None
    paused: bool = False
    delay_seconds: float = 0.0

    @classmethod
    def of(
        cls,
        facts: MemberFacts,
        *,
        priority: int = DEFAULT_PRIORITY,
        on_disk_end: Lsn | None = None,
        free_mb: int | None = None,
    ) -> Standing:
        """The standing of a member.

        Args:
            facts: read after its walreceiver was switched off, so that the positions stand still.
            priority: from the inventory.
            on_disk_end: end of the last readable record in its pg_wal, where somebody looked. It matters when the
                standby was restarted after the primary's death: receive_lsn is NULL then.
            free_mb: MiB free for its data directory.
        """
        if not facts.is_standby:
            state = "it is not in recovery" if facts.state == "running" else f"it is {facts.state}"
            return cls(facts.name, asked=False, error=facts.error or state, priority=priority)
        known = [facts.receive_lsn, facts.replay_lsn]
        if facts.receiver is not None:
            known += [facts.receiver.flushed_lsn, facts.receiver.written_lsn]
        serves = max((lsn for lsn in known if lsn is not None), default=None)
        if serves is None or facts.timeline is None or facts.history is None:
            return cls(facts.name, asked=False, error="its position or timeline could not be read", priority=priority)
        return cls(
            facts.name,
            timeline=facts.timeline,
            history=facts.history,
            end=max(serves, on_disk_end or serves),
            serves_end=serves,
            priority=priority,
            free_mb=free_mb,
            paused=bool(facts.replay_paused),
            delay_seconds=facts.apply_delay_seconds or 0.0,
        )

    @property
    def reservation(self) -> str | None:
        """Why it is not promoted without being named; None where nothing speaks against it."""
        if self.priority <= 0:
            return "its priority is 0 (never promote)"
        if has_full_disk(self.free_mb):
            return f"its disk is full ({self.free_mb} MiB free): a promotion writes"
        if self.paused:
            return "its replay is paused"
        if self.delay_seconds > 0:
            return f"its replay is delayed by {self.delay_seconds:.0f} s"
        return None


@dataclass(frozen=True)
class Loss(Record):
    """What may be lost.

    Attributes:
        kind: "none": no acknowledged commit is lost. "exact": `bytes` of write-ahead log, read from the old primary's
            disk. "at_least": `bytes`, from what the old primary last told a standby. "unknown".
        bytes: None where unknown.
        text: a sentence for the record.
    """

    kind: str
    bytes: int | None
    text: str


@dataclass(frozen=True)
class Election(Record):
    """The result.

    Attributes:
        candidate: who is promoted.
        end: the end of its write-ahead log, after catching up.
        timeline: of that position; the promotion begins the next one.
        catch_up_from: another standby that holds more; the candidate first streams the rest from it.
        ranking: per replica one sentence, best first.
        diverged: replicas whose write-ahead log is not part of the candidate's line; they have to be rejoined.
        quorum: a sentence about R + W > N.
        consented: reasons to refuse that the operator's consent set aside.
    """

    candidate: str
    end: Lsn
    timeline: int
    catch_up_from: str | None
    ranking: tuple[tuple[str, str], ...]
    diverged: tuple[str, ...]
    quorum: str
    loss: Loss
    consented: tuple[str, ...] = field(default_factory=tuple)


@dataclass(frozen=True)
class Policy(Record):
    """What the operator decided beforehand or on the command line.

    Attributes:
        candidate: `fleet_failover_candidate`: promote this one and no other.
        accept_loss: the cluster was named in `fleet_failover_accept_data_loss`.
        maximum_loss_bytes: known loss up to this much needs no consent in an asynchronous cluster.
    """

    candidate: str | None = None
    accept_loss: bool = False
    maximum_loss_bytes: int = DEFAULT_MAXIMUM_LOSS_BYTES


def elect(
    standings: Iterable[Standing],
    rule: SyncRule | None,
    policy: Policy,
    *,
    cluster: str,
    last_known: Lsn | None = None,
    on_primary_disk: Lsn | None = None,
) -> Election:
    """Choose the candidate.

    Args:
        standings: of every replica of the cluster, also of those that could not be asked.
        rule: last known synchronous_standby_names of the old primary; None where nobody knows.
        policy: the operator's.
        cluster: for remedies.
        last_known: the furthest end of the old primary's write-ahead log that it told anybody.
        on_primary_disk: the end of the write-ahead log on the old primary's disk, where its host could be reached.

    Raises:
        Refused: nobody can be promoted, or it needs the operator's word.
    """
    standings = tuple(standings)
    asked = tuple(standing for standing in standings if standing.asked)
    if not asked:
        raise Refused(
            f"no replica of {cluster} can be promoted: {_reasons(standings)}",
            remedy="Bring a replica back, start the old primary again, or restore from a backup.",
            code="no_candidate",
        )
    head = _head_of_line(asked, policy.candidate, cluster)
    on_line = tuple(s for s in asked if _is_on_line(s, head))
    diverged = tuple(s.name for s in asked if s not in on_line)
    chosen = _choose(on_line, diverged, standings, policy, cluster)
    most = max(on_line, key=_rank)
    source = _source_to_catch_up(chosen, on_line, cluster)
    end = most.end if source else chosen.end
    complete, quorum = _completeness(rule, standings, on_line)
    loss = _loss(complete, rule, end, last_known, on_primary_disk)
    consented = _consent(complete, quorum, rule, loss, policy, cluster)
    return Election(
        chosen.name,
        end,
        head.timeline,
        source.name if source else None,
        _ranking(standings, on_line, chosen),
        diverged,
        quorum,
        loss,
        consented,
    )


def _rank(standing: Standing) -> tuple[int, int, int]:
    """Position decides; priority only among equals. Names break the remaining ties by order of the inventory."""
    return (standing.timeline, standing.end, standing.priority)


def _head_of_line(asked: tuple[Standing, ...], wanted: str | None, cluster: str) -> Standing:
    """The one on the newest timeline. Two different lines of one number mean that two were promoted before."""
    newest = max(asked, key=_rank)
    rivals = [other for other in asked if other.timeline == newest.timeline and other.history != newest.history]
    if not rivals:
        return newest
    for standing in (newest, *rivals):
        if standing.name == wanted:
            return standing
    names = [newest.name, *(rival.name for rival in rivals)]
    raise Refused(
        f"{' and '.join(names)} are on timeline {newest.timeline} with different histories: two members were promoted "
        "independently of each other",
        remedy="Decide whose data count and name that member; the others have to be rejoined afterwards: "
        f"-e fleet_failover_candidate={newest.name}.",
        code="two_lines",
        members=names,
        cluster=cluster,
    )


def _is_on_line(standing: Standing, head: Standing) -> bool:
    """Whether all that it has is part of the head's line. The number of a timeline alone does not tell."""
    return standing.history.is_ancestor_of(head.history) and head.history.contains(standing.timeline, standing.end)


def _choose(
    on_line: tuple[Standing, ...],
    diverged: tuple[str, ...],
    standings: tuple[Standing, ...],
    policy: Policy,
    cluster: str,
) -> Standing:
    if policy.candidate:
        for standing in on_line:
            if standing.name == policy.candidate:
                return standing
        raise Refused(
            f"{policy.candidate} cannot be promoted: {_why_not(policy.candidate, diverged, standings)}",
            remedy="Leave out -e fleet_failover_candidate to let the most advanced replica be chosen.",
            code="named_candidate",
        )
    free = tuple(standing for standing in on_line if standing.reservation is None)
    if not free:
        named = max(on_line, key=_rank).name
        raise Refused(
            f"every replica that could be promoted has something against it: {_reasons(on_line)}",
            remedy=f"To promote one all the same, name it: -e fleet_failover_candidate={named}.",
            code="only_reserved",
            cluster=cluster,
        )
    return max(free, key=_rank)


def _why_not(name: str, diverged: tuple[str, ...], standings: tuple[Standing, ...]) -> str:
    if name in diverged:
        return "its write-ahead log left the line of the most advanced timeline"
    for standing in standings:
        if standing.name == name:
            return standing.error or "it was not asked"
    return "it is no replica of this cluster"


def _source_to_catch_up(chosen: Standing, on_line: tuple[Standing, ...], cluster: str) -> Standing | None:
    """Somebody who holds more than the chosen one, and can send it.

    A newer timeline is more, even at the same position: promoted without knowing it, the chosen one would take the
    same number for a line of its own.
    """
    most = max(on_line, key=_rank)
    if most.timeline == chosen.timeline and most.end <= chosen.end:
        return None
    for source in sorted(on_line, key=_rank, reverse=True):
        if source.timeline == most.timeline and source.serves_end >= most.end:
            return source
    raise Refused(
        f"{most.name} holds {most.end - chosen.end} bytes more than {chosen.name}, on its disk only: "
        f"it cannot send them, because {most.reservation or 'it has not replayed them'}",
        remedy=f"Promote {most.name} itself: -e fleet_failover_candidate={most.name}. Or let it replay what it has and "
        "run again.",
        code="source_cannot_send",
        cluster=cluster,
    )


def _completeness(
    rule: SyncRule | None, standings: tuple[Standing, ...], on_line: tuple[Standing, ...]
) -> tuple[bool, str]:
    """Whether the asked ones together hold every acknowledged commit, and whether anybody was left unasked."""
    names = tuple(standing.name for standing in on_line)
    silent = tuple(standing.name for standing in standings if not standing.asked)
    if rule is None or not rule.is_synchronous:
        kind = "not known whether synchronous" if rule is None else "asynchronous"
        return False, f"{kind}; not asked: {', '.join(silent) or 'none'}"
    if rule.names_everyone:
        return not silent, f"{rule}: anybody may have confirmed; not asked: {', '.join(silent) or 'none'}"
    asked, listed = len(set(rule.listed(names))), len(rule.names)
    complete = rule.proves_complete(names)
    sign = ">" if complete else "<="
    return complete, f"R={asked} asked + W={rule.required} required {sign} N={listed} listed ({rule})"


def _loss(complete: bool, rule: SyncRule | None, end: Lsn, last_known: Lsn | None, on_primary_disk: Lsn | None) -> Loss:
    if complete:
        return Loss("none", 0, f"no acknowledged commit is lost: every one is on a standby that was asked ({rule})")
    if on_primary_disk is not None:
        missing = max(0, on_primary_disk - end)
        if missing == 0:
            return Loss("none", 0, "nothing is lost: the candidate has all that is on the old primary's disk")
        return Loss(
            "exact",
            missing,
            f"{missing} bytes of write-ahead log on the old primary's disk ({end} to {on_primary_disk})",
        )
    if last_known is not None and last_known > end:
        missing = last_known - end
        return Loss(
            "at_least", missing, f"at least {missing} bytes of write-ahead log ({end} to {last_known} and further)"
        )
    return Loss("unknown", None, f"unknown: whatever the old primary wrote after {end} and sent to nobody")


def _consent(
    complete: bool, quorum: str, rule: SyncRule | None, loss: Loss, policy: Policy, cluster: str
) -> tuple[str, ...]:
    """Reasons that need the operator's word. Raises without it."""
    reasons = []
    if not complete and loss.kind != "none":
        if rule is not None and rule.is_synchronous:
            reasons.append(f"acknowledged commits may be missing: {quorum}")
        elif not quorum.endswith("not asked: none"):
            reasons.append(f"a replica that could not be asked may hold more ({quorum})")
        if loss.bytes is not None and loss.bytes > policy.maximum_loss_bytes:
            reasons.append(f"more would be lost than the {policy.maximum_loss_bytes} bytes allowed: {loss.text}")
    if reasons and not policy.accept_loss:
        start = " or start PostgreSQL on the old primary again, which loses nothing" if loss.kind == "exact" else ""
        raise Refused(
            "; ".join(reasons),
            remedy=f"Bring the missing members back{start}. To go on and lose what is lost, add "
            f"-e fleet_failover_accept_data_loss={cluster}.",
            code="data_loss",
            loss=loss.to_dict(),
        )
    return tuple(reasons)


def _reasons(standings: Iterable[Standing]) -> str:
    return (
        "; ".join(f"{s.name}: {s.error or s.reservation or 'nothing against it'}" for s in standings) or "it has none"
    )


def _ranking(
    standings: tuple[Standing, ...], on_line: tuple[Standing, ...], chosen: Standing
) -> tuple[tuple[str, str], ...]:
    best = max(on_line, key=_rank).end
    lines = []
    for standing in sorted(on_line, key=_rank, reverse=True):
        behind = best - standing.end
        where = f"timeline {standing.timeline} to {standing.end}, " + (
            f"{behind} bytes behind" if behind else "most advanced"
        )
        note = "; chosen" if standing is chosen else ""
        against = f"; {standing.reservation}" if standing.reservation else ""
        lines.append((standing.name, f"{where}, priority {standing.priority}{against}{note}"))
    for standing in standings:
        if standing.asked and standing not in on_line:
            lines.append(
                (standing.name, f"timeline {standing.timeline} to {standing.end}: left the line, has to be rejoined")
            )
        elif not standing.asked:
            lines.append((standing.name, f"not asked: {standing.error or 'no answer'}"))
    return tuple(lines)

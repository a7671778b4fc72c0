# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is the primary really gone? Decided from what several hosts saw, never from one host's view of the network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts

# How far a connection got, from nothing to an answer of SQL.
ANSWERS = ("sql", "protocol", "accepts", "refused", "silent")

# A message younger than this was sent by a sender that lived a moment ago.
FRESH_SECONDS = 1.0


@dataclass(frozen=True)
class Probe(Record):
    """How the primary's PostgreSQL answered one vantage point.

    Attributes:
        vantage: the inventory name of the host that looked, or "controller".
        kind: "controller", "replica", "pooler".
        answer: one of ANSWERS. "sql": a query was answered. "protocol": a server process answered and let nobody in
            (error says why). "accepts": TCP is accepted and nothing answers, as of a frozen or overloaded server: its
            kernel accepts for it. "refused": the host answers and nothing listens. "silent": no answer at all.
        in_recovery: what the query said; None without one.
        error: the error of the connection.
    """

    vantage: str
    kind: str
    answer: str
    in_recovery: bool | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        if self.answer not in ANSWERS:
            raise ValueError(f"answer {self.answer!r} is not one of {', '.join(ANSWERS)}")


@dataclass(frozen=True)
class Stream(Record):
    """A replica's walreceiver, looked at twice with the probe of the primary in between.

    Attributes:
        replica: inventory name.
        status: of pg_stat_wal_receiver; None without a walreceiver.
        from_primary: its sender is the primary in question, not another replica.
        message_age_seconds: age of the last message at the second look.
        advanced: a message came between the two looks.
        latest_end_lsn: the end of the primary's write-ahead log as the last message told.
    """

    replica: str
    status: str | None = None
    from_primary: bool = True
    message_age_seconds: float | None = None
    advanced: bool = False
    latest_end_lsn: Lsn | None = None

    @property
    def proves_life(self) -> bool:
        """Whether the primary sent something during the look or just before it."""
        if self.status is None or not self.from_primary:
            return False
        young = self.message_age_seconds is not None and self.message_age_seconds < FRESH_SECONDS
        return self.advanced or young


@dataclass(frozen=True)
class Check(Record):
    """One line of the report: what was looked at, whether it allows going on, and what was seen."""

    name: str
    ok: bool
    found: str


@dataclass(frozen=True)
class Confirmation(Record):
    """What the vantage points say together.

    Attributes:
        verdict: "gone": nobody gets an answer. "crashed": its host is reachable and PostgreSQL does not run there.
            "alive": somebody does get an answer or write-ahead log. "unclear": too few could look.
        reason: a sentence.
        remedy: what to do where the verdict does not allow a failover.
        checks: every observation.
        hung: the server accepts connections and does not answer: it may wake up at any time.
        last_known_lsn: the furthest end of its write-ahead log that anybody knows of.
    """

    verdict: str
    reason: str
    remedy: str | None = None
    checks: tuple[Check, ...] = field(default_factory=tuple)
    hung: bool = False
    last_known_lsn: Lsn | None = None

    @property
    def allows_failover(self) -> bool:
        """Whether failing over may go on to fencing."""
        return self.verdict in ("gone", "crashed")


def confirm(
    primary: str,
    probes: Iterable[Probe],
    streams: Iterable[Stream],
    local: MemberFacts | None,
    *,
    cluster: str,
) -> Confirmation:
    """Judge whether the primary is gone.

    Args:
        primary: inventory name of the member that was the primary.
        probes: from the controller, from replicas and from pooler hosts.
        streams: of every replica that could be asked.
        local: facts read on the primary's own host; None where the host could not be reached.
        cluster: for the commands in remedies.
    """
    probes, streams = tuple(probes), tuple(streams)
    checks = (
        *(_probe_check(primary, probe) for probe in probes),
        *(_stream_check(primary, stream) for stream in streams),
        _host_check(primary, local),
    )
    known = _last_known(streams, local)
    hung = any(probe.answer == "accepts" for probe in probes) or (local is not None and local.state == "unreachable")

    def judged(verdict: str, reason: str, remedy: str | None = None) -> Confirmation:
        return Confirmation(verdict, reason, remedy, checks, hung, known)

    alive = _signs_of_life(primary, probes, streams, local)
    if alive:
        return judged(
            "alive",
            f"{primary} is alive: {'; '.join(alive)}",
            f"For a planned change of roles run: ansible-playbook dbops.fleet.switchover -e fleet_cluster={cluster}. "
            f"To stop {primary} and fail over although it answers, add -e fleet_failover_force={cluster}.",
        )
    if not any(probe.kind == "replica" for probe in probes):
        return judged(
            "unclear",
            f"no replica could be asked whether it still sees {primary}",
            "Make at least one replica reachable over SSH: without one there is nothing to promote either.",
        )
    if local is not None and local.state == "stopped":
        return judged("crashed", f"PostgreSQL on {primary} does not run; its host is reachable")
    if hung:
        return judged("gone", f"{primary} accepts connections but answers nobody: it may be frozen, and wake up again")
    return judged("gone", f"{primary} answers nobody: {len(probes)} vantage points asked")


def _signs_of_life(
    primary: str, probes: tuple[Probe, ...], streams: tuple[Stream, ...], local: MemberFacts | None
) -> list[str]:
    signs = []
    for probe in probes:
        if probe.answer == "sql":
            signs.append(f"{probe.vantage} got an answer from it")
        elif probe.answer == "protocol":
            signs.append(f"its server process answered {probe.vantage} ({probe.error or 'no reason given'})")
    signs += [f"{stream.replica} still receives write-ahead log from it" for stream in streams if stream.proves_life]
    if local is not None and local.state in ("running", "starting"):
        signs.append(f"PostgreSQL on its host is {local.state}")
    return signs


def _last_known(streams: tuple[Stream, ...], local: MemberFacts | None) -> Lsn | None:
    ends = [stream.latest_end_lsn for stream in streams if stream.latest_end_lsn is not None and stream.from_primary]
    if local is not None and local.current_lsn is not None:
        ends.append(local.current_lsn)
    return max(ends, default=None)


_PROBE_TEXT = {
    "sql": "answers queries",
    "protocol": "answers, but lets nobody in",
    "accepts": "accepts TCP and never answers",
    "refused": "nothing listens",
    "silent": "no answer",
}


def _probe_check(primary: str, probe: Probe) -> Check:
    found = _PROBE_TEXT[probe.answer] + (f" ({probe.error})" if probe.error else "")
    return Check(f"{probe.kind} {probe.vantage} asks {primary}", probe.answer not in ("sql", "protocol"), found)


def _stream_check(primary: str, stream: Stream) -> Check:
    name = f"replica {stream.replica} receives from {primary}"
    if stream.status is None:
        return Check(name, True, "no walreceiver")
    if not stream.from_primary:
        return Check(name, True, f"it receives from another member ({stream.status})")
    age = "unknown" if stream.message_age_seconds is None else f"{stream.message_age_seconds:.1f} s ago"
    came = ", one came while looking" if stream.advanced else ""
    return Check(name, not stream.proves_life, f"{stream.status}, last message {age}{came}")


def _host_check(primary: str, local: MemberFacts | None) -> Check:
    name = f"host {primary} over SSH"
    if local is None:
        return Check(name, True, "not reachable")
    error = f" ({local.error})" if local.error else ""
    return Check(name, local.state not in ("running", "starting"), f"PostgreSQL is {local.state}{error}")

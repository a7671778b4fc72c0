# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judges a cluster from the facts of its members: who is primary, who follows whom, and what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts, Slot, WalSender

# A replica is said to lag from here on: seconds of replay behind what it should be, or bytes behind the primary.
LAG_WARNING_SECONDS = 30.0
LAG_ERROR_SECONDS = 60.0
LAG_WARNING_BYTES = 1 << 30
# An unused slot that keeps more than this will fill the disk if nobody comes back for it.
SLOT_WARNING_BYTES = 1 << 30
CLOCK_WARNING_SECONDS = 5.0


@dataclass(frozen=True)
class Problem(Record):
    """One thing that is wrong.

    Attributes:
        code: a word for machines, such as "two_primaries".
        member: whom it concerns; None for the cluster as a whole.
        severity: "error" (service or data are in danger) or "warning".
        message: what was found, a sentence without the member's name.
        remedy: what to do, a sentence.
    """

    code: str
    member: str | None
    severity: str
    message: str
    remedy: str

    def __str__(self) -> str:
        who = f"{self.member}: " if self.member else ""
        return f"{self.severity}: {who}{self.message}. {self.remedy}"


@dataclass(frozen=True)
class MemberView(Record):
    """A member in its cluster.

    Attributes:
        role: "primary", "replica", or None for a server that is not running.
        lag_bytes: replay behind the primary's write position.
        lag_seconds: how old what queries see is; None where it cannot be known, as without streaming.
        upstream: the member it streams from; where that is no member, "host:port".
        sync_state: "async", "potential", "sync", "quorum", as its upstream says.
    """

    name: str
    address: str
    port: int
    state: str
    role: str | None = None
    timeline: int | None = None
    current_lsn: Lsn | None = None
    receive_lsn: Lsn | None = None
    replay_lsn: Lsn | None = None
    lag_bytes: int | None = None
    lag_seconds: float | None = None
    upstream: str | None = None
    streaming: bool = False
    sync_state: str | None = None
    apply_delay_seconds: float | None = None
    slots: tuple[Slot, ...] = ()


@dataclass(frozen=True)
class ClusterView(Record):
    """A cluster.

    Attributes:
        primary: the one member that takes writes; None where there is none, or more than one.
        primaries: all that do.
        readers: replicas that show what is there now: they stream, and replay without a delay.
        problems: errors first.
    """

    primary: str | None
    primaries: tuple[str, ...]
    readers: tuple[str, ...]
    timeline: int | None
    system_identifier: str | None
    members: tuple[MemberView, ...]
    problems: tuple[Problem, ...]

    @property
    def replicas(self) -> tuple[str, ...]:
        """The running standbys."""
        return tuple(member.name for member in self.members if member.role == "replica")

    @property
    def healthy(self) -> bool:
        """No errors; warnings may be there."""
        return not any(problem.severity == "error" for problem in self.problems)


def judge(members: Sequence[MemberFacts], system_identifier: str | None = None) -> ClusterView:
    """Look at all members together.

    Args:
        members: everyone whom the inventory names, the unreachable ones too.
        system_identifier: the cluster's, where it is known from elsewhere.
    """
    identifier = system_identifier or common_system_identifier(members)
    primaries = [member for member in members if member.is_primary and member.system_identifier == identifier]
    primary = primaries[0] if len(primaries) == 1 else None
    views = tuple(_view(member, members, primary) for member in members)
    problems = [
        *_about_the_cluster(members, primaries),
        *(problem for member in members for problem in _about_a_member(member, identifier)),
        *(problem for member in members for problem in _about_replication(member, primary)),
        *_about_loops(views),
    ]
    problems.sort(key=lambda problem: problem.severity != "error")
    return ClusterView(
        primary=primary.name if primary else None,
        primaries=tuple(member.name for member in primaries),
        readers=tuple(
            view.name for view in views if view.role == "replica" and view.streaming and not view.apply_delay_seconds
        ),
        timeline=primary.timeline if primary else max((member.timeline or 0 for member in members), default=0) or None,
        system_identifier=identifier,
        members=views,
        problems=tuple(problems),
    )


def common_system_identifier(members: Sequence[MemberFacts]) -> str | None:
    """The system identifier that most members have; of equally many, one that a running primary has."""
    counts = Counter(member.system_identifier for member in members if member.system_identifier)
    if not counts:
        return None
    most = max(counts.values())
    candidates = [identifier for identifier, count in counts.items() if count == most]
    writing = [member.system_identifier for member in members if member.is_primary]
    return next((identifier for identifier in candidates if identifier in writing), candidates[0])


def upstream_of(member: MemberFacts, members: Sequence[MemberFacts]) -> str | None:
    """Whom a standby streams from: a member's name, else "host:port"; None where it has no walreceiver."""
    receiver = member.receiver
    if receiver is None:
        return None
    for other in members:
        named = receiver.sender_host in (other.address, other.name)
        if other.name != member.name and named and receiver.sender_port == other.port:
            return other.name
    # An address that the inventory does not use for it: then the sender's list tells.
    for other in members:
        if other.name != member.name and _sender_for(member, other) is not None:
            return other.name
    return f"{receiver.sender_host}:{receiver.sender_port}" if receiver.sender_host else None


def _sender_for(member: MemberFacts, upstream: MemberFacts | None) -> WalSender | None:
    """The upstream's walsender that serves this member."""
    if upstream is None:
        return None
    return next((sender for sender in upstream.senders if sender.application_name == member.name), None)


def _view(member: MemberFacts, members: Sequence[MemberFacts], primary: MemberFacts | None) -> MemberView:
    upstream = upstream_of(member, members)
    sender = _sender_for(member, next((other for other in members if other.name == upstream), None))
    streaming = member.is_standby and _streams(member)
    lag_bytes = None
    if member.is_standby and primary and primary.current_lsn is not None and member.replay_lsn is not None:
        # The primary may have been read a moment before the replica.
        lag_bytes = max(0, primary.current_lsn - member.replay_lsn)
    return MemberView(
        name=member.name,
        address=member.address,
        port=member.port,
        state=member.state,
        role="primary" if member.is_primary else "replica" if member.is_standby else None,
        timeline=member.timeline,
        current_lsn=member.current_lsn,
        receive_lsn=member.receive_lsn,
        replay_lsn=member.replay_lsn,
        lag_bytes=lag_bytes,
        lag_seconds=member.replay_lag_seconds if streaming or lag_bytes == 0 else None,
        upstream=upstream,
        streaming=streaming,
        sync_state=sender.sync_state if sender else None,
        apply_delay_seconds=member.apply_delay_seconds or None,
        slots=member.slots,
    )


def _streams(member: MemberFacts) -> bool:
    return member.receiver is not None and member.receiver.status == "streaming"


def _about_the_cluster(members: Sequence[MemberFacts], primaries: Sequence[MemberFacts]) -> Iterator[Problem]:
    names = " and ".join(f"{member.name} (timeline {member.timeline})" for member in primaries)
    for member in primaries if len(primaries) > 1 else ():
        yield Problem(
            "two_primaries",
            member.name,
            "error",
            f"takes writes, and so does another: {names}",
            "Stop the one that applications should not write to (the lower timeline is the older one) and rejoin it.",
        )
    data = [member for member in members if member.state not in ("absent", "foreign", "unreachable")]
    if not primaries and data:
        stopped = [member.name for member in data if member.state == "stopped"]
        hint = f"Start the one of {', '.join(stopped)} that was primary, or fail over." if stopped else "Fail over."
        yield Problem("no_primary", None, "error", "no member takes writes", hint)
    versions = {member.name: member.major_version for member in members if member.major_version}
    if len(set(versions.values())) > 1:
        found = ", ".join(f"{name} {version}" for name, version in versions.items())
        yield Problem(
            "version_mismatch",
            None,
            "error",
            f"members run different major versions of PostgreSQL: {found}",
            "Physical replication needs one version; give the members of one cluster the same postgres_server_version.",
        )


def _about_a_member(member: MemberFacts, identifier: str | None) -> Iterator[Problem]:
    name = member.name
    if member.state in _STATE_PROBLEMS:
        message, remedy, severity = _STATE_PROBLEMS[member.state]
        detail = f": {member.error.rstrip('.')}" if member.error else ""
        yield Problem(member.state, name, severity, message + detail, remedy)
    if member.system_identifier and member.system_identifier != identifier:
        yield Problem(
            "foreign_system_identifier",
            name,
            "error",
            f"has system identifier {member.system_identifier}, the cluster has {identifier}",
            "These are the data of another database cluster: take the host out of this cluster's group.",
        )
    if member.orchestrators:
        yield Problem(
            "managed_elsewhere",
            name,
            "warning",
            f"is managed by {', '.join(member.orchestrators)}",
            "Change roles with that manager's own command.",
        )
    if member.pending_restart:
        yield Problem(
            "pending_restart",
            name,
            "warning",
            f"needs a restart for {', '.join(member.pending_restart)}",
            "Restart it when it suits; switch over first if it is the primary.",
        )
    if member.clock_offset_seconds is not None and abs(member.clock_offset_seconds) > CLOCK_WARNING_SECONDS:
        yield Problem(
            "clock_skew",
            name,
            "warning",
            f"its clock is {member.clock_offset_seconds:+.1f} s off",
            "Set up time synchronisation; recovery to a time and lag in seconds are wrong by as much.",
        )
    if member.archiver is not None and member.archiver.failing:
        yield Problem(
            "archiver_failing",
            name,
            "error",
            f"cannot archive {member.archiver.last_failed_wal}; {member.archiver.ready_count} segments wait",
            "Read PostgreSQL's log for the reason; pg_wal grows until it is mended.",
        )
    yield from _about_slots(member)


_STATE_PROBLEMS = {
    "unreachable": ("does not answer", "Look at the host, its network and its firewall.", "error"),
    "stopped": (
        "its server is stopped",
        "Start it if it was stopped on purpose as a replica; rejoin it if it was the primary.",
        "error",
    ),
    "starting": ("takes no sessions", "Read its log if that lasts; recovery after a crash takes a while.", "warning"),
    "absent": ("has no data yet", "Run setup.yml, which clones it.", "warning"),
    "foreign": (
        "holds data that are not of this cluster",
        "Move them away, or the host out of the group.",
        "error",
    ),
}


def _about_slots(member: MemberFacts) -> Iterator[Problem]:
    for slot in member.slots:
        if slot.wal_status == "lost" or slot.invalidation_reason:
            yield Problem(
                "slot_lost",
                member.name,
                "error",
                f"slot {slot.name} is lost: write-ahead log that it stands for has been removed",
                "Clone its replica anew (or resynchronise its subscriber), then drop the slot.",
            )
        elif not slot.active and (slot.wal_status == "unreserved" or (slot.retained_bytes or 0) > SLOT_WARNING_BYTES):
            yield Problem(
                "inactive_slot_retaining",
                member.name,
                "error" if slot.wal_status == "unreserved" else "warning",
                f"slot {slot.name} is not used and retains {byte_text(slot.retained_bytes)}",
                "Bring its replica back, or drop the slot if nobody will come for it.",
            )


def _about_replication(member: MemberFacts, primary: MemberFacts | None) -> Iterator[Problem]:
    if member.is_standby:
        if not _streams(member):
            target = (member.settings.get("primary_conninfo") or "").strip()
            status = member.receiver.status if member.receiver else "no walreceiver"
            yield Problem(
                "orphan_replica",
                member.name,
                "error",
                f"streams from nobody ({status}; primary_conninfo is {target or 'empty'})",
                "Point it to the primary (rejoin), or read its log for why it cannot connect.",
            )
        if member.replay_paused:
            yield Problem(
                "replay_paused",
                member.name,
                "warning",
                f"replay is paused at {member.replay_lsn}",
                "SELECT pg_wal_replay_resume() when whoever paused it is done. Its log says so if a setting did it.",
            )
        yield from _about_lag(member, primary)
    if primary is not None and member is not primary and member.system_identifier == primary.system_identifier:
        yield from _about_timelines(member, primary)
    if member is primary:
        yield from _about_synchronous(primary)


def _about_lag(member: MemberFacts, primary: MemberFacts | None) -> Iterator[Problem]:
    # A delayed replica is meant to be behind; a paused one and an orphan are told as such.
    if member.apply_delay_seconds or member.replay_paused or not _streams(member):
        return
    seconds = member.replay_lag_seconds or 0.0
    behind = 0
    if primary and primary.current_lsn is not None and member.replay_lsn is not None:
        behind = max(0, primary.current_lsn - member.replay_lsn)
    if seconds > LAG_WARNING_SECONDS or behind > LAG_WARNING_BYTES:
        yield Problem(
            "lagging",
            member.name,
            "error" if seconds > LAG_ERROR_SECONDS else "warning",
            f"is {seconds:.0f} s and {byte_text(behind)} behind",
            "Look for long queries on it, a slow disk or a slow network.",
        )


def _about_timelines(member: MemberFacts, primary: MemberFacts) -> Iterator[Problem]:
    if member.timeline is None or primary.timeline is None or member.is_primary:
        return
    reached = member.position or (member.control.checkpoint_lsn if member.control else None)
    # Two promotions from the same timeline give equal numbers; where each began tells them apart.
    other_branch = (
        member.timeline == primary.timeline
        and member.history is not None
        and primary.history is not None
        and member.history != primary.history
    )
    if member.timeline == primary.timeline and not other_branch:
        return
    if member.timeline > primary.timeline:
        yield Problem(
            "timeline_ahead",
            member.name,
            "error",
            f"is on timeline {member.timeline}, the primary {primary.name} only on {primary.timeline}",
            "Another server was promoted after this primary: find it before anything else is changed.",
        )
    elif other_branch or (
        primary.history is not None and reached is not None and not primary.history.contains(member.timeline, reached)
    ):
        yield Problem(
            "timeline_diverged",
            member.name,
            "error",
            f"has write-ahead log of timeline {member.timeline} (to {reached or '?'}) that {primary.name} has not",
            "Rejoin it: pg_rewind or a new clone. What only it has will be lost and can be dumped before.",
        )
    else:
        yield Problem(
            "timeline_behind",
            member.name,
            "warning",
            f"is on timeline {member.timeline}, the primary {primary.name} on {primary.timeline}",
            "It follows once it streams from the primary; rejoin it if it does not.",
        )


def _about_synchronous(primary: MemberFacts) -> Iterator[Problem]:
    names = primary.settings.get("synchronous_standby_names", "").strip()
    if names and not any(sender.sync_state in ("sync", "quorum") for sender in primary.senders):
        yield Problem(
            "no_synchronous_standby",
            primary.name,
            "error",
            f"commits wait for ever: none of synchronous_standby_names ({names}) streams",
            "Bring such a replica back, or take the names out of the setting if losing writes is acceptable.",
        )


def _about_loops(views: Sequence[MemberView]) -> Iterator[Problem]:
    """Replicas that stream from each other and from no primary."""
    upstream = {view.name: view.upstream for view in views}
    for view in views:
        seen, name = [view.name], upstream.get(view.name)
        while name is not None and name not in seen:
            seen.append(name)
            name = upstream.get(name)
        if name == view.name:
            yield Problem(
                "replication_loop",
                view.name,
                "error",
                f"streams in a circle: {' from '.join([*seen, view.name])}",
                "Point one of them to the primary (rejoin).",
            )


def byte_text(count: int | None) -> str:
    """A number of bytes for people: "3.2 GB"."""
    size = float(count or 0)
    if size < 1024:
        return f"{size:.0f} bytes"
    units = ["TB", "GB", "MB", "kB"]
    unit = units.pop()
    size /= 1024
    while size >= 1024 and units:
        unit = units.pop()
        size /= 1024
    return f"{size:.1f} {unit}"

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From "where to" to "which backup, along which timelines": decided before a disk is touched."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import TimelineHistory
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Backup, Listed, shown
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal import tail
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.gaps import missing, reachable_end
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import Segment, along

# Segments behind a missing one that can have been under way together with it when a host was lost: no reason to stop.
UNDER_WAY = 16
# A cluster whose newest WAL is younger may still be running.
LIVING_SECONDS = 900.0
KINDS = ("latest", "immediate", "time", "lsn", "xid", "name")


@dataclass(frozen=True)
class Target:
    """Where recovery is to end.

    Attributes:
        kind: one of KINDS; `immediate` is the end of the backup itself.
        value: the LSN, transaction id or restore point's name; for a time its ISO form with offset.
        time: with kind `time`, seconds since the epoch.
        lsn: with kind `lsn`.
        timeline: number, or None for the newest timeline (`current` is that of the backup).
        current: stay on the backup's own timeline.
        backup: id of the backup to start from; None lets us choose.
    """

    kind: str = "latest"
    value: str = ""
    time: float | None = None
    lsn: Lsn | None = None
    timeline: int | None = None
    current: bool = False
    backup: str | None = None


def parse_target(kind: str, value: str = "", timeline: str = "latest", backup: str | None = None) -> Target:
    """Read what an operator wrote.

    Args:
        kind: one of KINDS.
        value: for `time` an ISO 8601 time with its offset or `Z`, such as `2026-03-01 14:30:00+01:00`.
        timeline: `latest`, `current` or a number as PostgreSQL prints it (decimal).
        backup: id.

    Raises:
        Refused: it cannot be read, or a time lacks its zone.
    """
    if kind not in KINDS:
        raise Refused(f"{kind!r} is no recovery target", remedy=f"Use one of: {', '.join(KINDS)}.")
    if (kind in ("latest", "immediate")) == bool(value):
        raise Refused(f"The recovery target {kind} takes {'no' if value else 'a'} value")
    if timeline not in ("latest", "current") and not timeline.isdecimal():
        raise Refused(f"{timeline!r} is no timeline", remedy="Use latest, current or a number.")
    moment, lsn = None, None
    if kind == "time":
        moment, value = _moment(value)
    elif kind == "lsn":
        try:
            lsn = Lsn.parse(value)
        except ValueError:
            raise Refused(
                f"{value!r} is no LSN", remedy="Write it as PostgreSQL prints it, such as 1/4F000028."
            ) from None
    elif kind == "xid" and not value.isdecimal():
        raise Refused(f"{value!r} is no transaction id")
    number = int(timeline) if timeline.isdecimal() else None
    return Target(kind, value, moment, lsn, number, timeline == "current", backup)


def _moment(text: str) -> tuple[float, str]:
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise Refused(f"{text!r} is no time", remedy="Write it as 2026-03-01 14:30:00+01:00.") from None
    if when.tzinfo is None:
        raise Refused(
            f"The time {text!r} has no zone, and a wrong guess restores to the wrong hour",
            remedy=f"Add the offset or Z: {text}+00:00.",
        )
    return when.timestamp(), when.isoformat()


@dataclass(frozen=True)
class Archive:
    """What the repository offers beside backups.

    Attributes:
        held: every segment with the time of its arrival.
        histories: of all timelines that have a history file.
        horizon: timeline -> number of the first segment that retention keeps without holes.
        received: of segments that are not full yet, how many bytes there are and since when (wal/tail.py).
        begun: timeline -> when its history arrived.
    """

    held: Mapping[Segment, float]
    histories: Mapping[int, TimelineHistory]
    horizon: Mapping[int, int] = field(default_factory=dict)
    received: Mapping[Segment, tuple[int, float]] = field(default_factory=dict)
    begun: Mapping[int, float] = field(default_factory=dict)

    @property
    def arrived(self) -> dict[Segment, float]:
        """Every segment of which there is anything, with the time when the last of it came."""
        return {**{segment: since for segment, (_bytes, since) in self.received.items()}, **self.held}

    def history(self, timeline: int) -> TimelineHistory | None:
        """None where the file is missing; timeline 1 has none."""
        return TimelineHistory.first() if timeline == 1 else self.histories.get(timeline)


@dataclass(frozen=True)
class Choice:
    """How a target is reached.

    Attributes:
        backup: to restore.
        history: the line of timelines that replay follows.
        end: the end of the last segment that the archive can give along this line without a gap.
        last_time: when the last WAL of it arrived, seconds since the epoch.
        behind_gap: segments of this line that are in the archive, but behind a missing one.
        received: the end of what was received behind `end` before its segment was full; None for nothing.
    """

    backup: Backup
    history: TimelineHistory
    end: Lsn
    last_time: float
    behind_gap: int = 0
    received: Lsn | None = None

    @property
    def reach(self) -> Lsn:
        """The end of all WAL that there is."""
        return self.received or self.end


@dataclass(frozen=True)
class Offer(Record):
    """What can be restored from one backup.

    Attributes:
        backup: id.
        from_lsn, from_time: the end of the backup; nothing before it.
        to_lsn, to_time, to_time_seconds: the end of the last segment that is there without a gap, and when it arrived.
        timeline: that the end lies on.
    """

    backup: str
    from_lsn: Lsn
    from_time: str
    to_lsn: Lsn
    to_time: str
    to_time_seconds: float
    timeline: int

    @property
    def told(self) -> str:
        """As a sentence's part."""
        return (
            f"from {self.backup} any position from {self.from_lsn} ({self.from_time}) to {self.to_lsn} "
            f"(archived {self.to_time}) on timeline {self.timeline}"
        )


def choose(listed: Iterable[Listed], archive: Archive, target: Target) -> Choice:
    """The newest sound backup from which the target can be reached.

    Raises:
        Refused: it cannot be reached (`details["reachable"]` says per backup what can), or `latest` could mean two
            timelines.
    """
    candidates = sorted((item for item in listed), key=lambda item: item.backup.stop_time, reverse=True)
    if target.backup is not None:
        candidates = [item for item in candidates if item.backup.id == target.backup]
        if not candidates:
            raise Refused(f"There is no backup {target.backup} in the repository", remedy="See `dbops list`.")
    else:
        candidates = [item for item in candidates if not item.bad]
    if not candidates:
        raise Refused("The repository has no usable backup", remedy="See `dbops list`, also on other repositories.")
    reasons = []
    for item in candidates:
        answer = _reach(item.backup, archive, target)
        if isinstance(answer, Choice):
            if target.kind != "latest" or answer.behind_gap <= UNDER_WAY:
                if target.kind == "latest" and target.timeline is None and not target.current:
                    _refuse_two_newest(answer, archive)
                return answer
            answer = (
                f"its WAL ends at {answer.end} with a gap, behind which {answer.behind_gap} more segments lie; the "
                "newest moment before the gap has to be asked for as a time"
            )
        reasons.append(f"{item.backup.id}: {answer}")
    offered = [offer.told for item in candidates if (offer := _offer(item.backup, archive)) is not None]
    raise Refused(
        f"The target {target.kind} {target.value}".rstrip() + " cannot be reached: " + "; ".join(reasons[:5]),
        remedy="What can be reached: " + ("; ".join(offered[:5]) or "nothing") + ".",
        reachable=offered,
        reasons=reasons,
    )


def _refuse_two_newest(choice: Choice, archive: Archive) -> None:
    """The newest backup may lie on a timeline that was left since, and the highest timeline be one that nobody uses.

    Both show in something off the chosen line that came after the newest WAL on it. A timeline that has no WAL yet and
    left this line in its last segment is none of that: the line has everything that it has.
    """
    history, size = choice.history, choice.backup.segment_size
    arrived = archive.arrived
    newest = max([choice.last_time, *(when for segment, when in arrived.items() if _on_line(history, segment))])
    later: dict[int, float] = {}
    for segment, when in arrived.items():
        if not _on_line(history, segment):
            later[segment.timeline] = max(later.get(segment.timeline, when), when)
    for timeline, when in archive.begun.items():
        fork = archive.histories[timeline].fork_from(history)
        if timeline not in history.timelines and (fork is None or (fork[1] or choice.end) <= choice.end - size):
            later[timeline] = max(later.get(timeline, when), when)
    rivals = {timeline: when for timeline, when in later.items() if when > newest}
    if rivals:
        rival, when = max(rivals.items(), key=lambda item: item[1])
        raise Refused(
            f"Which state is the newest cannot be told: {choice.backup.id} leads along timeline {history.timeline} to "
            f"{choice.reach}, archived {shown(choice.last_time)}, but what came later, {shown(when)}, is of timeline "
            f"{rival} and does not go on from there",
            remedy=f"Find out which of them was the real primary's, and name it: timeline {rival} or "
            f"{history.timeline} (--timeline). If the cluster runs, a new backup of it settles this.",
            timelines=sorted({rival, history.timeline}),
        )


def _on_line(history: TimelineHistory, segment: Segment) -> bool:
    """Whether a line goes through all of the segment; where it left the timeline before, that went on without it."""
    if segment.timeline not in history.timelines:
        return False
    end = history.end_of(segment.timeline)
    return end is None or segment.end <= end


def _reach(backup: Backup, archive: Archive, target: Target) -> Choice | str:
    """How this backup reaches the target, or the reason why it does not."""
    history = _line(backup, archive, target)
    if isinstance(history, str):
        return history
    size = backup.segment_size
    lost = missing(archive.held, history, backup.start_lsn, backup.stop_lsn, size)
    if lost:
        return f"its own WAL is missing, first {lost[0].name}"
    end = reachable_end(archive.held, history, backup.start_lsn, size)
    if end is None:
        return "its first WAL segment is missing"
    last = archive.held[_last(archive, history, end, size)]
    behind = _behind(archive, history, end, size)
    received = None if behind else tail.reach(archive.received, history.timeline, end, size)
    if received is not None:
        last = received[1]
    choice = Choice(backup, history, end, last, behind, received[0] if received else None)
    if target.kind == "time" and target.time is not None:
        if target.time < backup.stop_time:
            return f"it ended at {shown(backup.stop_time)}, after the target"
        if target.time > last:
            return f"its WAL ends at {choice.reach}, archived at {shown(last)}, before the target"
    if target.kind == "lsn" and target.lsn is not None:
        if target.lsn < backup.stop_lsn:
            return f"it is consistent only from {backup.stop_lsn} on, after the target"
        if target.lsn > choice.reach:
            return f"its WAL ends at {choice.reach}, before the target"
    return choice


def _behind(archive: Archive, history: TimelineHistory, end: Lsn, size: int) -> int:
    highest = max(
        (segment.end for segment in archive.held if segment.timeline == history.timeline and segment.end > end),
        default=end,
    )
    return sum(segment in archive.held for segment in along(history, end, highest, size)) if highest > end else 0


def _last(archive: Archive, history: TimelineHistory, end: Lsn, size: int) -> Segment:
    number = int(end) // size - 1
    return max(
        segment for segment in archive.held if segment.number == number and segment.timeline in history.timelines
    )


def _line(backup: Backup, archive: Archive, target: Target) -> TimelineHistory | str:
    if target.current or target.kind == "immediate":
        wanted = backup.timeline
    elif target.timeline is not None:
        wanted = target.timeline
    else:
        wanted = _newest_descendant(backup, archive)
    history = archive.history(wanted)
    if history is None:
        if wanted != backup.timeline:
            return f"the history of timeline {wanted} is not in the archive"
        history = TimelineHistory(wanted)
    if not history.contains(backup.timeline, backup.stop_lsn):
        place = f"timeline {backup.timeline} at {backup.stop_lsn}"
        return f"it was taken on {place}, which timeline {wanted} did not grow from"
    return history


def _newest_descendant(backup: Backup, archive: Archive) -> int:
    """The newest timeline that grew from where the backup was taken. One that forked off before has other data.

    One without WAL has nothing that the one it left does not have: a promotion that nobody has written to.
    """
    written = {segment.timeline for segment in archive.arrived}
    lines = (archive.history(number) for number in sorted(written & set(archive.histories), reverse=True))
    for history in lines:
        if history is not None and history.contains(backup.timeline, backup.stop_lsn):
            return history.timeline
    return backup.timeline


def refuse_promotion(archive: Archive, now: float, cluster: str, confirm: str | None) -> None:
    """A restore that promotes writes a timeline into the repository, which nobody means beside a cluster that lives.

    Args:
        archive: of the cluster.
        now: seconds since the epoch.
        cluster: its name.
        confirm: the name that the operator gave; None for none.

    Raises:
        Refused: WAL came minutes ago and the cluster is not named, or another one is.
    """
    if confirm is not None and confirm != cluster:
        raise Refused(f"{confirm} was confirmed, but the repository is that of cluster {cluster}")
    age = now - max(archive.arrived.values(), default=0.0)
    if confirm is None and age < LIVING_SECONDS:
        raise Refused(
            f"The newest WAL of cluster {cluster} arrived {max(age, 0):.0f} s ago, so it may be running, and a "
            "promotion would write a timeline of its own into its repository",
            remedy=f"For a copy use the action scratch. If {cluster} is lost, confirm that with its name: "
            f"--confirm {cluster}, or confirm: {cluster} for the module.",
        )


def offers(listed: Iterable[Listed], archive: Archive) -> tuple[Offer, ...]:
    """What can be restored from each sound backup, newest first."""
    newest_first = sorted(
        (item for item in listed if not item.bad), key=lambda item: item.backup.stop_time, reverse=True
    )
    return tuple(offer for item in newest_first if (offer := _offer(item.backup, archive)) is not None)


def _offer(backup: Backup, archive: Archive) -> Offer | None:
    choice = _reach(backup, archive, Target())
    if isinstance(choice, str):
        return None
    return Offer(
        backup=backup.id,
        from_lsn=backup.stop_lsn,
        from_time=shown(backup.stop_time),
        to_lsn=choice.reach,
        to_time=shown(choice.last_time),
        to_time_seconds=choice.last_time,
        timeline=choice.history.timeline,
    )


def replay_limits(settings: Sequence[Mapping[str, str]]) -> dict[str, int]:
    """The settings that a hot standby must not have lower than the primary had while it wrote the WAL that is replayed.

    Args:
        settings: those recorded with the chosen backup and with every later one.

    Returns:
        The largest value of each.
    """
    limits: dict[str, int] = {}
    for recorded in settings:
        for name in REPLAY_LIMITS:
            if name in recorded:
                limits[name] = max(limits.get(name, 0), int(recorded[name]))
    return limits


# https://www.postgresql.org/docs/15/hot-standby.html#HOT-STANDBY-ADMIN
REPLAY_LIMITS = (
    "max_connections",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "max_wal_senders",
    "max_worker_processes",
)

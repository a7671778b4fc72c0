# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is the WAL archive what it should be? Decided from the server's view and from what the repositories really hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import shown
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.gaps import TimelineReport
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import Segment

# A segment begins with a page header; a position no further than this holds no change yet.
HEADER_BYTES = 40


@dataclass(frozen=True)
class ServerView(Record):
    """What the server says.

    Attributes:
        in_recovery: a standby archives nothing with `archive_mode=on`.
        timeline: current one.
        current_lsn: write position of a primary, replay position of a standby.
        segment_size: bytes.
        archive_mode: `off`, `on` or `always`.
        archive_command: as set.
        archived_count, failed_count, last_archived_wal, last_archived_time, last_failed_wal, last_failed_time: of
            pg_stat_archiver; times in seconds since the epoch.
    """

    in_recovery: bool
    timeline: int
    current_lsn: Lsn
    segment_size: int
    archive_mode: str
    archive_command: str
    archived_count: int = 0
    failed_count: int = 0
    last_archived_wal: str | None = None
    last_archived_time: float | None = None
    last_failed_wal: str | None = None
    last_failed_time: float | None = None

    @property
    def archives(self) -> bool:
        """Whether it is this server's turn to archive. What a standby's statistics say is of the time before."""
        return not self.in_recovery or self.archive_mode == "always"

    @property
    def failing(self) -> bool:
        """Whether the last try failed."""
        if not self.archives or self.last_failed_time is None:
            return False
        return self.last_failed_time > (self.last_archived_time or 0)


@dataclass(frozen=True)
class Problem(Record):
    """Something that is not as it should be.

    Attributes:
        code: for machines.
        severity: `critical` when commits could be lost now, else `warning`.
        message: a sentence.
        remedy: another.
    """

    code: str
    severity: str
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class RepositoryView(Record):
    """What one repository holds.

    Attributes:
        name: of the repository.
        address: where it is.
        error: why it could not be read; None when it could.
        timelines: reports, oldest timeline first.
        received_lsn: the end of what was received before its segment was full; None where nothing was.
        received_time: when that arrived, seconds since the epoch.
        received_timeline: of that.
        horizon: timeline, as text -> number of the first segment that retention keeps without holes.
    """

    name: str
    address: str = ""
    error: str | None = None
    timelines: tuple[TimelineReport, ...] = ()
    received_lsn: Lsn | None = None
    received_time: float | None = None
    received_timeline: int | None = None
    horizon: Mapping[str, int] = field(default_factory=dict)

    def timeline(self, number: int) -> TimelineReport | None:
        return next((report for report in self.timelines if report.timeline == number), None)


@dataclass(frozen=True)
class ArchiveState(Record):
    """The archive as an object.

    Attributes:
        configured: the server is set to archive, with our command.
        archiving: configured, every repository answers, and the last try did not fail.
        archived_lsn: up to which every repository holds the current timeline without a gap; None where one holds
            nothing.
        archived_time: when that last segment arrived, seconds since the epoch.
        received_lsn: up to which every repository has the WAL, with what was received before its segment was full; None
            where nothing was received behind the archive.
        rpo_seconds: how old the oldest change can be that is in no archive; 0 when there is none, None when not known.
        server: its view; None when it does not answer.
        repositories: their views.
        problems: worst first.
    """

    configured: bool
    archiving: bool
    archived_lsn: Lsn | None
    archived_time: float | None
    rpo_seconds: float | None
    server: ServerView | None
    repositories: tuple[RepositoryView, ...]
    problems: tuple[Problem, ...]
    received_lsn: Lsn | None = None


@dataclass(frozen=True)
class Limits(Record):
    """When an unarchived change is too old: seconds."""

    rpo_warning: float = 300
    rpo_critical: float = 900


def judge(
    server: ServerView | None,
    repositories: tuple[RepositoryView, ...],
    *,
    expected_command: str,
    limits: Limits,
    now: float,
) -> ArchiveState:
    """Put both views together.

    Args:
        server: None when it does not answer.
        repositories: at least one.
        expected_command: our `archive_command`.
        limits: for the age of unarchived changes.
        now: seconds since the epoch.
    """
    problems = [problem for view in repositories for problem in _repository_problems(view)]
    configured = False
    archived_lsn, archived_time, rpo, received_lsn = None, None, None, None
    if server is not None:
        configured = server.archive_mode in ("on", "always") and server.archive_command == expected_command
        archived_lsn, archived_time = _archived(server.timeline, repositories)
        received_lsn, received_time = _received(server.timeline, archived_lsn, repositories)
        rpo = _rpo(server, received_lsn or archived_lsn, received_time or archived_time, now)
        problems += _server_problems(server, repositories, configured)
        problems += _age_problems(rpo, limits)
    else:
        problems.append(Problem("server_silent", "warning", "The server does not answer, so its view is not known"))
    healthy = all(view.error is None for view in repositories)
    return ArchiveState(
        configured=configured,
        archiving=configured and healthy and server is not None and not server.failing,
        archived_lsn=archived_lsn,
        archived_time=archived_time,
        rpo_seconds=rpo,
        server=server,
        repositories=repositories,
        problems=tuple(sorted(problems, key=lambda problem: problem.severity)),
        received_lsn=received_lsn,
    )


def _archived(timeline: int, repositories: tuple[RepositoryView, ...]) -> tuple[Lsn | None, float | None]:
    """The position that the worst repository has reached without a gap."""
    reports = [view.timeline(timeline) for view in repositories if view.error is None]
    held = [report for report in reports if report is not None]
    if not held or len(held) < len(repositories):
        return None, None
    worst = min(held, key=lambda report: report.frontier)
    return worst.frontier, worst.last_time


def _received(
    timeline: int, archived: Lsn | None, repositories: tuple[RepositoryView, ...]
) -> tuple[Lsn | None, float | None]:
    """The position behind the archive that the worst repository has received.

    Just after a promotion the archive has nothing of the timeline yet, and the tail begins with its first segment.
    """
    mine = [view for view in repositories if view.received_timeline == timeline]
    found = [(view.received_lsn, view.received_time) for view in mine if view.received_lsn is not None]
    if not found or len(found) < len(repositories):
        return None, None
    lsn, arrived = min(found, key=lambda one: one[0])
    return (lsn, arrived) if archived is None or lsn > archived else (None, None)


def _rpo(server: ServerView, archived: Lsn | None, archived_time: float | None, now: float) -> float | None:
    if archived is None or archived_time is None:
        return None
    if server.current_lsn <= archived + HEADER_BYTES:
        return 0.0
    return max(now - archived_time, 0.0)


def _repository_problems(view: RepositoryView) -> list[Problem]:
    if view.error is not None:
        return [Problem("repository_unavailable", "critical", f"Repository {view.name}: {view.error}")]
    return [
        Problem(
            "archive_gap",
            "critical",
            f"Repository {view.name} lacks {gap.count} segment(s) of timeline {report.timeline}, {gap.first} to "
            f"{gap.last}",
            "Copy them from another repository or from a server's pg_wal with `dbops wal push`; else take a new "
            "backup now.",
        )
        for report in view.timelines
        for gap in report.gaps
        if gap.status == "lost"
    ]


def _server_problems(server: ServerView, repositories: tuple[RepositoryView, ...], configured: bool) -> list[Problem]:
    problems = []
    if not configured:
        problems.append(
            Problem(
                "not_configured",
                "critical",
                f"The server does not archive with our command: archive_mode is {server.archive_mode}, "
                f"archive_command is {server.archive_command or 'empty'!r}",
                "Apply the role `backup`, or set it with dbops.fleet.wal_archive.",
            )
        )
    if server.failing:
        problems.append(
            Problem(
                "archive_failing",
                "critical",
                f"The last try to archive failed: {server.last_failed_wal} at {shown(server.last_failed_time or 0)}",
                "The reason is in PostgreSQL's log and in `journalctl -u dbops-archiver@*`.",
            )
        )
    for view in repositories:
        if view.error is None and _lied(server, view):
            problems.append(
                Problem(
                    "archive_lies",
                    "critical",
                    f"PostgreSQL was told that {server.last_archived_wal} is archived, but repository "
                    f"{view.name} lacks it",
                    "Look whether archive_command was replaced for a while, and take a new backup now.",
                )
            )
    return problems


def _lied(server: ServerView, view: RepositoryView) -> bool:
    """Whether the last segment that PostgreSQL believes to be archived lies outside what the repository holds.

    What retention has removed since is no lie: a server that was a standby for long still has its old statistics.
    """
    name = server.last_archived_wal
    if not server.archives or name is None or len(name) != 24:
        return False
    segment = Segment.parse(name, server.segment_size)
    if segment.number < view.horizon.get(str(segment.timeline), 0):
        return False
    report = view.timeline(segment.timeline)
    return report is None or report.last < name


def _age_problems(rpo: float | None, limits: Limits) -> list[Problem]:
    if rpo is None or rpo <= limits.rpo_warning:
        return []
    severity = "critical" if rpo > limits.rpo_critical else "warning"
    message = (
        f"The newest archived WAL is {rpo:.0f} s old and there are changes since; they would be lost with this host"
    )
    return [Problem("archive_late", severity, message, "Set archive_timeout, and see whether the archiver keeps up.")]

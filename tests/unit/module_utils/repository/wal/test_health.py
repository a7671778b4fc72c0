# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The archive's state: what is a problem, and how bad."""

from __future__ import annotations

from dataclasses import replace

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.gaps import report
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.health import (
    ArchiveState,
    Limits,
    RepositoryView,
    ServerView,
    judge,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import Segment

SIZE = 16 * 1024 * 1024
NOW = 10000.0


def view(*numbers: int, name: str = "local", arrived: float = NOW - 50) -> RepositoryView:
    return RepositoryView(name, "/srv", None, report({Segment(1, n, SIZE): arrived for n in numbers}, NOW))


SERVER = ServerView(
    in_recovery=False,
    timeline=1,
    current_lsn=Lsn(4 * SIZE + 5000),
    segment_size=SIZE,
    archive_mode="on",
    archive_command="ours",
    last_archived_wal=Segment(1, 3, SIZE).name,
    last_archived_time=NOW - 50,
)


def judged(server: ServerView | None, *views: RepositoryView) -> ArchiveState:
    return judge(server, views, expected_command="ours", limits=Limits(), now=NOW)


def codes(state: ArchiveState) -> list[str]:
    return [problem.code for problem in state.problems]


def test_a_healthy_archive_says_how_much_could_be_lost() -> None:
    state = judged(SERVER, view(1, 2, 3))
    assert state.configured
    assert state.archiving
    assert state.archived_lsn == 4 * SIZE
    assert state.rpo_seconds == 50
    assert state.problems == ()


def test_an_idle_server_has_nothing_to_lose() -> None:
    idle = replace(SERVER, current_lsn=Lsn(4 * SIZE))
    assert judged(idle, view(1, 2, 3, arrived=0)).rpo_seconds == 0


def test_an_old_archive_of_a_busy_server_is_critical() -> None:
    state = judged(SERVER, view(1, 2, 3, arrived=NOW - 1000))
    assert [(p.code, p.severity) for p in state.problems] == [("archive_late", "critical")]


def test_the_worst_repository_counts() -> None:
    state = judged(SERVER, view(1, 2, 3), view(1, 2, name="second"))
    assert state.archived_lsn == 3 * SIZE
    assert codes(state) == ["archive_lies"]


def test_an_unreachable_repository_is_critical_and_nothing_is_promised() -> None:
    state = judged(SERVER, view(1, 2, 3), RepositoryView("s3", error="no route"))
    assert not state.archiving
    assert state.archived_lsn is None
    assert state.rpo_seconds is None
    assert codes(state) == ["repository_unavailable"]


def test_another_archive_command_is_found() -> None:
    state = judged(replace(SERVER, archive_command="/bin/true"), view(1, 2, 3))
    assert not state.configured
    assert codes(state) == ["not_configured"]


def test_a_failed_last_try_is_found() -> None:
    failed = replace(SERVER, last_failed_wal=Segment(1, 4, SIZE).name, last_failed_time=NOW - 1)
    state = judged(failed, view(1, 2, 3))
    assert not state.archiving
    assert codes(state) == ["archive_failing"]


def test_what_a_former_primary_did_long_ago_is_no_alarm() -> None:
    """Its pg_stat_archiver keeps what it said when it was demoted."""
    standby = replace(
        SERVER, in_recovery=True, timeline=2, last_failed_wal=Segment(1, 4, SIZE).name, last_failed_time=NOW
    )
    state = judged(standby, view(1, 2))
    assert state.archiving
    assert [code for code in codes(state) if code.startswith("archive_")] == []
    always = judged(replace(standby, archive_mode="always"), view(1, 2))
    assert set(codes(always)) >= {"archive_failing", "archive_lies"}


def test_what_retention_removed_since_is_no_lie() -> None:
    promoted_again = replace(SERVER, timeline=3)
    removed = replace(view(), horizon={"1": 4})
    assert "archive_lies" not in codes(judged(promoted_again, removed))
    assert "archive_lies" in codes(judged(promoted_again, replace(removed, horizon={"1": 3})))
    assert ArchiveState.from_dict(judged(SERVER, removed).to_dict()) == judged(SERVER, removed)


def test_a_gap_is_critical() -> None:
    state = judged(SERVER, view(1, 3, arrived=NOW - 400))
    assert codes(state)[0] == "archive_gap"


def test_a_silent_server_is_a_warning_and_the_repositories_are_still_read() -> None:
    state = judged(None, view(1, 2, 3))
    assert codes(state) == ["server_silent"]
    assert not state.archiving
    assert ArchiveState.from_dict(state.to_dict()) == state


def test_what_was_received_before_its_segment_was_full_counts_and_the_worst_repository_decides() -> None:
    lsn = Lsn(4 * SIZE + 4900)
    first = replace(view(1, 2, 3), received_lsn=Lsn(4 * SIZE + 5000), received_time=NOW - 1, received_timeline=1)
    second = replace(view(1, 2, 3, name="s3"), received_lsn=lsn, received_time=NOW - 3, received_timeline=1)
    assert judged(SERVER, first).rpo_seconds == 0
    state = judged(SERVER, first, second)
    assert (state.received_lsn, state.rpo_seconds) == (lsn, 3)
    # One that received nothing, or only what is archived by now, is as good as its archive.
    assert judged(SERVER, first, view(1, 2, 3, name="s3")).rpo_seconds == 50
    old = replace(view(1, 2, 3), received_lsn=Lsn(3 * SIZE), received_time=NOW - 1, received_timeline=1)
    assert judged(SERVER, old).received_lsn is None


def test_just_after_a_promotion_what_was_received_is_all_that_there_is_of_the_timeline() -> None:
    promoted = replace(SERVER, timeline=2)
    received = replace(view(1, 2, 3), received_lsn=Lsn(4 * SIZE + 4900), received_time=NOW - 2, received_timeline=2)
    state = judged(promoted, received)
    assert (state.archived_lsn, state.received_lsn, state.rpo_seconds) == (None, 4 * SIZE + 4900, 2)
    assert judged(promoted, replace(received, received_timeline=1)).rpo_seconds is None

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is remembered of jobs, who is told, and what Prometheus reads."""

from __future__ import annotations

from ansible_collections.dbops.fleet.plugins.module_utils.repository.jobs.ages import too_old
from ansible_collections.dbops.fleet.plugins.module_utils.repository.jobs.records import (
    DONE,
    ELSEWHERE,
    FAILED,
    REPEAT_SECONDS,
    JobRecord,
    figures,
    is_untold,
    killed,
    merged,
    must_be_told,
    next_record,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.jobs.settings import Limits

NOW = 1_800_000_000.0


def record(outcome: str, time: float = NOW, **others: object) -> JobRecord:
    return JobRecord.from_dict({"job": "backup", "outcome": outcome, "message": "said", "time": time, **others})


def test_a_failure_keeps_when_it_last_went_well() -> None:
    assert next_record(record(DONE, done_time=NOW), record(FAILED, NOW + 60)).done_time == NOW


def test_a_turn_of_another_member_keeps_when_it_last_went_well() -> None:
    assert next_record(record(DONE, done_time=NOW), record(ELSEWHERE, NOW + 60)).done_time == NOW


def test_a_success_forgets_what_was_told() -> None:
    before = record(FAILED, told="said", told_time=NOW)
    assert next_record(before, record(DONE, NOW + 60)).told is None


def test_a_job_that_was_killed_is_recorded_as_failed() -> None:
    after = killed(record(DONE, NOW - 86400, done_time=NOW - 86400), "backup", "oom-kill", NOW - 60, NOW)
    assert after.outcome == FAILED
    assert "oom-kill" in after.message
    assert after.done_time == NOW - 86400


def test_a_job_that_could_say_why_it_failed_keeps_its_reason() -> None:
    own = record(FAILED, NOW - 1)
    assert killed(own, "backup", "exit-code", NOW - 60, NOW) == own


def test_the_same_failure_is_told_once_and_again_after_hours() -> None:
    failed = record(FAILED)
    assert must_be_told(failed, NOW)
    told = record(FAILED, told="said", told_time=NOW)
    assert not must_be_told(told, NOW + 300)
    assert must_be_told(told, NOW + REPEAT_SECONDS + 1)
    assert not must_be_told(record(DONE), NOW)


def test_nobody_knows_of_a_failure_that_was_not_told_or_of_another_one_since() -> None:
    assert is_untold(record(FAILED))
    assert is_untold(record(FAILED, told="something else", told_time=NOW))
    assert not is_untold(record(FAILED, told="said", told_time=NOW))
    assert not is_untold(record(DONE))
    assert not is_untold(record(ELSEWHERE))


def test_metrics_of_two_repositories_name_each_metric_once() -> None:
    one = '# HELP a told\n# TYPE a gauge\na{repository="x"} 1\n'
    other = '# HELP a told\n# TYPE a gauge\na{repository="y"} 2\n'
    assert merged([one, other]) == '# HELP a told\n# TYPE a gauge\na{repository="x"} 1\na{repository="y"} 2\n'


def test_metrics_tell_which_job_failed() -> None:
    text = figures("orders", [record(FAILED)])
    assert 'dbops_job_failed{cluster="orders",job="backup"} 1' in text
    assert "dbops_job_last_done_time_seconds{" not in text


def test_a_repository_without_backups_is_critical() -> None:
    assert [problem.code for problem in too_old("main", (), None, Limits(), NOW)] == ["no_backup"]

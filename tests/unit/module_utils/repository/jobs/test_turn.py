# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose turn a timed job is."""

from __future__ import annotations

import itertools

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.repository.jobs.settings import (
    JOBS,
    JobSettings,
    parse,
    rule_of,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.jobs.turn import (
    PRIMARY,
    REPLICA,
    Done,
    Here,
    Rule,
    decide,
)

NOW = 1_800_000_000.0
HOUR = 3600.0
LONE_PRIMARY = Here(in_recovery=False)
PRIMARY_OF_TWO = Here(in_recovery=False, standbys=2)
STANDBY = Here(in_recovery=True, connected=True)
LOST_STANDBY = Here(in_recovery=True)


@pytest.mark.parametrize("here", [LONE_PRIMARY, PRIMARY_OF_TWO, STANDBY, LOST_STANDBY])
def test_only_the_primary_does_what_is_the_primarys(here: Here) -> None:
    assert decide(Rule(PRIMARY), here, Done(), NOW).here is not here.in_recovery


def test_a_connected_standby_does_what_is_the_replicas() -> None:
    assert decide(Rule(REPLICA), STANDBY, Done(), NOW).here


def test_a_standby_that_follows_nobody_does_nothing() -> None:
    assert not decide(Rule(REPLICA), LOST_STANDBY, Done(), NOW).here


def test_a_primary_without_standbys_does_it_itself() -> None:
    assert decide(Rule(REPLICA), LONE_PRIMARY, Done(), NOW).here


def test_a_primary_with_standbys_leaves_it_to_them() -> None:
    recent = Done(newest=NOW - 24 * HOUR)
    assert not decide(Rule(REPLICA, overdue_seconds=26 * HOUR), PRIMARY_OF_TWO, recent, NOW).here


@pytest.mark.parametrize("newest", [None, NOW - 27 * HOUR])
def test_a_primary_does_what_its_standbys_left_undone(newest: float | None) -> None:
    assert decide(Rule(REPLICA, overdue_seconds=26 * HOUR), PRIMARY_OF_TWO, Done(newest), NOW).here


def test_after_a_switchover_the_new_primary_does_not_do_it_again() -> None:
    rule = Rule(PRIMARY, apart_seconds=6 * HOUR)
    assert not decide(rule, LONE_PRIMARY, Done(newest=NOW - HOUR), NOW).here
    assert decide(rule, LONE_PRIMARY, Done(newest=NOW - 7 * HOUR), NOW).here


@pytest.mark.parametrize("here", [LONE_PRIMARY, PRIMARY_OF_TWO, STANDBY, LOST_STANDBY])
@pytest.mark.parametrize("member", [PRIMARY, REPLICA])
def test_nobody_begins_while_another_one_runs(member: str, here: Here) -> None:
    turn = decide(Rule(member), here, Done(running=NOW - 60), NOW)
    assert not turn.here
    assert "running since 60 s" in turn.reason


def test_of_a_cluster_exactly_one_kind_of_member_does_a_due_job() -> None:
    """Whatever the rule: the primary or the standbys, never both and never nobody, while they are connected."""
    for member, newest in itertools.product((PRIMARY, REPLICA), (NOW - 24 * HOUR, NOW - 7 * HOUR)):
        rule = Rule(member, 6 * HOUR, 26 * HOUR)
        answers = [decide(rule, here, Done(newest), NOW).here for here in (PRIMARY_OF_TWO, STANDBY)]
        assert sorted(answers) == [False, True]


@pytest.mark.parametrize("job", JOBS)
def test_every_job_has_a_rule(job: str) -> None:
    assert rule_of(job, JobSettings()).member in (PRIMARY, REPLICA)


def test_settings_are_read_as_the_role_writes_them() -> None:
    settings = parse(
        {
            "backup_from": "replica",
            "drill_checks": [{"database": "orders", "query": "select true"}],
            "metrics_file": None,
            "notify_command": ["/usr/local/bin/tell"],
            "limits": {"backup_hours": 13.0},
        }
    )
    assert settings.drill_checks == (("orders", "select true"),)
    assert settings.limits.backup_hours == 13
    assert rule_of("backup", settings) == Rule(REPLICA, 6 * HOUR, 13 * HOUR)


@pytest.mark.parametrize("wrong", [{"backup_from": "anybody"}, {"backup_form": "primary"}, {"limits": {"hours": 1}}])
def test_settings_that_cannot_be_understood_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(Refused):
        parse(wrong)

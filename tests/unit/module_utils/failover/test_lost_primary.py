# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who was the primary, and what did it promise? Told from the replicas that are left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.failover.lost_primary import (
    identify_primary,
    last_known_rule,
)
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.control import ControlData
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts

CONTROL = ControlData.parse((Path(__file__).parents[2] / "fixtures" / "pg_controldata" / "15.txt").read_text())


def member(name: str, **values: object) -> MemberFacts:
    """An unreachable one, at 192.0.2.<number>."""
    return MemberFacts(name, f"192.0.2.{name[-1]}", **values)  # type: ignore[arg-type]


def standby(name: str, follows: str | None = None, **settings: str) -> MemberFacts:
    """Running in recovery; `follows` is a host of its primary_conninfo."""
    known = {"primary_conninfo": f"host={follows} user=fleet_replication"} if follows else {}
    return member(name, state="running", in_recovery=True, settings={**known, **settings})


def primary(name: str) -> MemberFacts:
    return member(name, state="running", in_recovery=False)


def found(*members: MemberFacts, **options: str) -> str:
    return identify_primary(members, cluster="orders", **options)  # type: ignore[arg-type]


def refusal(*members: MemberFacts, **options: str) -> str:
    with pytest.raises(Refused) as refused:
        found(*members, **options)
    return str(refused.value.details["code"])


def test_the_one_that_replicas_follow_is_it() -> None:
    assert found(member("n1"), standby("n2", "192.0.2.1"), standby("n3", "192.0.2.1")) == "n1"


def test_a_primary_is_also_known_by_its_name() -> None:
    assert found(member("n1"), standby("n2", "n1"), member("n3")) == "n1"


def test_an_upstream_that_runs_as_a_standby_is_none() -> None:
    """n3 cascades from n2."""
    assert found(member("n1"), standby("n2", "192.0.2.1"), standby("n3", "192.0.2.2")) == "n1"


def test_a_running_primary_is_it_whatever_replicas_follow() -> None:
    assert found(primary("n2"), member("n1"), standby("n3", "192.0.2.1")) == "n2"


def test_two_primaries_are_refused_and_both_are_named() -> None:
    with pytest.raises(Refused, match="n1 and n2 both take writes") as refused:
        found(primary("n1"), primary("n2"), standby("n3", "n1"))
    assert refused.value.details == {"code": "two_primaries", "members": ["n1", "n2"]}


def test_the_only_member_that_is_no_standby_is_it_when_replicas_were_frozen_already() -> None:
    """A failover that was interrupted has emptied primary_conninfo."""
    assert found(member("n1"), standby("n2"), standby("n3")) == "n1"


def test_a_candidate_whose_promotion_was_begun_is_looked_for_first() -> None:
    assert found(member("n1"), member("n2"), standby("n3", "192.0.2.1"), promoting="n2") == "n2"
    assert found(member("n1"), standby("n2", "192.0.2.1"), promoting="n2") == "n1"


def test_nobody_guesses_between_two_that_are_followed() -> None:
    members = (member("n1"), member("n2"), standby("n3", "192.0.2.1"), standby("n4", "192.0.2.2"))
    assert refusal(*members) == "no_lost_primary"
    assert found(*members, named="n2") == "n2"


def test_the_operators_word_does_not_stand_against_what_replicas_say() -> None:
    assert found(member("n1"), member("n2"), standby("n3", "192.0.2.1"), named="n2") == "n1"


def test_with_every_member_in_recovery_it_cannot_be_told() -> None:
    assert refusal(standby("n1", "n2"), standby("n2", "n1")) == "no_lost_primary"


def stopped(name: str, state: str) -> MemberFacts:
    return member(name, state="stopped", control=replace(CONTROL, state=state))


def test_a_replica_that_stopped_is_not_the_primary_even_where_others_cascade_from_it() -> None:
    """n1's host does not answer, but its PostgreSQL may well."""
    cascade = (stopped("n2", "shut down in recovery"), standby("n3", "192.0.2.2"))
    assert found(member("n1"), *cascade) == "n1"
    assert found(member("n1"), *cascade, named="n2") == "n1"
    assert found(stopped("n1", "in production"), *cascade) == "n1"


def test_the_operator_may_name_a_replica_where_every_member_is_one() -> None:
    members = (stopped("n1", "shut down in recovery"), standby("n2"), standby("n3"))
    assert refusal(*members) == "no_lost_primary"
    assert found(*members, named="n1") == "n1"


def test_a_candidate_that_died_in_its_promotion_is_the_one() -> None:
    assert found(member("n1"), stopped("n2", "in archive recovery"), standby("n3"), promoting="n2") == "n2"


def test_a_connection_string_that_cannot_be_read_tells_nothing() -> None:
    assert found(member("n1"), standby("n2", "'"), standby("n3", "192.0.2.1")) == "n1"


@pytest.mark.parametrize(
    ("settings", "rule", "commit"),
    [
        ([("ANY 1 (n1, n2, n3)", "on")] * 2, "ANY 1 (n2, n3)", "on"),
        ([("", "on")] * 2, "", "on"),
        ([("ANY 1 (n1, n2, n3)", "on"), ("", "local")], None, None),
        ([("ANY (", "on")] * 2, None, "on"),
    ],
    ids=["alike", "asynchronous", "not alike", "unreadable"],
)
def test_the_promise_is_known_where_replicas_agree(
    settings: list[tuple[str, str]], rule: str | None, commit: str | None
) -> None:
    replicas = [
        standby(f"n{number}", "n1", synchronous_standby_names=names, synchronous_commit=level)
        for number, (names, level) in enumerate(settings, 2)
    ]
    known, level = last_known_rule("n1", [member("n1"), *replicas])
    assert (None if known is None else str(known), level) == (rule, commit)


def test_without_any_replica_nothing_is_known_of_the_promise() -> None:
    assert last_known_rule("n1", [member("n1"), member("n2")]) == (None, None)

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of an unplanned failover, from what every host saw. All reasons to refuse are collected."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.failover.confirm import Probe, Stream
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_plan import (
    FailoverPlan,
    Orders,
    plan_failover,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_report import report
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_request import Member
from ansible_collections.dbops.fleet.plugins.module_utils.failover.vantage import Sight
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import TimelineHistory
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts

NOW = 1_000_000.0
MEMBERS = [Member(name, f"192.0.2.{name[-1]}", slot=name) for name in ("n1", "n2", "n3")]
QUORUM = "ANY 1 (n1, n2, n3)"


def standby(name: str, end: int = 5000, rule: str = QUORUM, **values: object) -> MemberFacts:
    plain = MemberFacts(
        name,
        f"192.0.2.{name[-1]}",
        state="running",
        system_identifier="7",
        version_num=170000,
        timeline=1,
        in_recovery=True,
        receive_lsn=Lsn(end),
        replay_lsn=Lsn(end),
        replay_paused=False,
        apply_delay_seconds=0.0,
        settings={
            "primary_conninfo": "host=192.0.2.1",
            "synchronous_standby_names": rule,
            "synchronous_commit": "on",
        },
        history=TimelineHistory.first(),
    )
    return replace(plain, **values)  # type: ignore[arg-type]


def sight(facts: MemberFacts, answer: str = "silent", **values: object) -> Sight:
    """A replica's: what it hears of n1, and itself. Its walreceiver has heard nothing for a minute."""
    stream = Stream(facts.name, "streaming", message_age_seconds=60.0, latest_end_lsn=facts.position)
    return Sight(
        facts.name,
        "replica",
        (("n1", Probe(facts.name, "replica", answer)),),
        facts,
        stream,
        **values,  # type: ignore[arg-type]
    )


CONTROLLER = Sight("controller", "controller", (("n1", Probe("controller", "controller", "silent")),))


def plan(*sights: Sight, **orders: object) -> FailoverPlan:
    return plan_failover("orders", MEMBERS, [CONTROLLER, *sights], Orders(**orders), now=NOW)  # type: ignore[arg-type]


def codes(found: FailoverPlan) -> list[str]:
    return [refusal.code for refusal in found.refusals]


def gone(**orders: object) -> FailoverPlan:
    return plan(sight(standby("n2")), sight(standby("n3")), **orders)


def test_a_primary_that_nobody_hears_is_failed_over_without_loss() -> None:
    found = gone(drivers=("command",))
    assert (found.action, found.primary, found.worker) == ("fail_over", "n1", "n2")
    assert found.fences == ("command",)
    assert found.request is not None
    assert found.request.synchronous == "ANY 1 (n2, n3)"
    assert [member.name for member in found.request.replicas] == ["n2", "n3"]
    assert found.election is not None
    assert found.election.loss.kind == "none"


def test_the_host_is_fenced_over_ssh_first_where_it_answers() -> None:
    crashed = MemberFacts("n1", "192.0.2.1", state="stopped")
    host = Sight("n1", "replica", (), crashed)
    found = plan(sight(standby("n2")), sight(standby("n3")), host, restart_crashed=False, drivers=("command",))
    assert found.action == "fail_over"
    assert found.fences == ("ssh", "command")


def test_the_most_advanced_takes_over() -> None:
    found = plan(sight(standby("n2", 5000)), sight(standby("n3", 5008)))
    assert found.worker == "n3"


def test_anybody_who_hears_it_refuses() -> None:
    found = plan(sight(standby("n2"), "sql"), sight(standby("n3")))
    assert (found.action, codes(found)) == ("refuse", ["alive"])


def test_force_fails_over_a_primary_that_lives_and_only_for_the_cluster_that_is_named() -> None:
    sights = (sight(standby("n2"), "protocol"), sight(standby("n3")))
    assert codes(plan(*sights, force="billing")) == ["alive"]
    assert plan(*sights, force="orders").action == "fail_over"


def test_a_crash_on_a_host_that_answers_is_a_restart() -> None:
    host = Sight("n1", "replica", (), MemberFacts("n1", "192.0.2.1", state="stopped"))
    found = plan(sight(standby("n2")), sight(standby("n3")), host)
    assert (found.action, found.worker) == ("restart", "n1")


def test_a_member_that_was_fenced_is_never_started_again() -> None:
    host = Sight("n1", "replica", (), MemberFacts("n1", "192.0.2.1", state="stopped"), fenced=True)
    assert plan(sight(standby("n2")), sight(standby("n3")), host).action == "fail_over"


def test_a_member_that_would_start_as_a_standby_is_not_started_again() -> None:
    """A switchover that needs the operator has left standby.signal there."""
    host = Sight("n1", "replica", (), MemberFacts("n1", "192.0.2.1", state="stopped"), standby_signal=True)
    found = plan(sight(standby("n2")), sight(standby("n3")), host)
    assert (found.action, found.primary, found.worker) == ("fail_over", "n1", "n2")


def test_a_primary_that_runs_as_a_replica_is_failed_over_when_it_is_named_and_forced() -> None:
    nobody = {"primary_conninfo": "", "synchronous_standby_names": QUORUM, "synchronous_commit": "on"}
    sights = (
        sight(standby("n1", settings=nobody)),
        *(sight(standby(name), "sql") for name in ("n2", "n3")),
    )
    found = plan(*sights)
    assert codes(found) == ["no_lost_primary"]
    assert found.refusals[0].remedy is not None
    assert "-e fleet_failover_force=orders" in found.refusals[0].remedy
    assert codes(plan(*sights, primary="n1")) == ["alive"]
    found = plan(*sights, primary="n1", force="orders")
    assert (found.action, found.primary, found.worker) == ("fail_over", "n1", "n2")
    assert found.fences == ("ssh",)


def test_within_the_cooldown_it_refuses_until_the_cluster_is_named() -> None:
    sights = (sight(standby("n2"), last_failover=NOW - 60), sight(standby("n3")))
    assert codes(plan(*sights)) == ["cooldown"]
    assert plan(*sights, ignore_cooldown="orders").action == "fail_over"
    assert plan(*sights, cooldown_seconds=30).action == "fail_over"


def test_all_reasons_to_refuse_are_told_at_once() -> None:
    managed = standby("n2", orchestrators=("patroni",))
    found = plan(sight(managed, "sql", last_failover=NOW - 60), sight(standby("n3")))
    assert set(codes(found)) == {"managed_by_others", "alive", "cooldown"}
    text = "\n".join(report("orders", found))
    assert "patronictl failover" in text
    assert text.count("REFUSED") == 3


def test_two_primaries_end_the_planning() -> None:
    first, second = (standby(name, in_recovery=False, current_lsn=Lsn(1)) for name in ("n1", "n2"))
    found = plan(sight(first), sight(second), sight(standby("n3")))
    assert codes(found) == ["two_primaries"]


def test_f09_a_silent_member_of_the_quorum_needs_consent() -> None:
    rule = "ANY 1 (n1, n2, n3)"
    found = plan(sight(standby("n2", rule=rule)))
    assert codes(found) == ["data_loss"]
    assert plan(sight(standby("n2", rule=rule)), accept_data_loss="orders").action == "fail_over"
    assert codes(plan(sight(standby("n2", rule=rule)), accept_data_loss="billing")) == ["data_loss"]


def test_what_a_person_saw_is_a_fence_of_that_member_only() -> None:
    seen = gone(operator_fenced="n1").request
    other = gone(operator_fenced="n2").request
    assert seen is not None
    assert other is not None
    assert [rung.driver for rung in seen.rungs] == ["operator"]
    assert other.rungs == ()


def test_an_interrupted_failover_whose_candidate_is_the_primary_is_finished() -> None:
    new = standby("n2", in_recovery=False, current_lsn=Lsn(9000), timeline=2)
    found = plan(sight(new, promoting="n2", promoting_from="n1"), sight(standby("n3")))
    assert (found.action, found.primary, found.worker) == ("finish", "n1", "n2")
    assert found.request is not None
    assert found.request.old.name == "n1"


def test_a_candidate_that_died_while_it_was_promoted_is_the_one_that_is_lost() -> None:
    """The cool-down does not hold it up: it is the same failover, which has not ended."""
    seen = sight(standby("n3"), promoting="n2", promoting_from="n1", last_failover=NOW - 60)
    probed = replace(seen, probes=(("n2", Probe("n3", "replica", "silent")), ("n1", Probe("n3", "replica", "silent"))))
    found = plan(probed, accept_data_loss="orders")
    assert (found.action, found.primary, found.worker) == ("fail_over", "n2", "n3")


def test_without_any_replica_that_answers_it_is_unclear() -> None:
    assert "unclear" in codes(plan(primary="n1"))


FROZEN = {"primary_conninfo": "", "synchronous_standby_names": QUORUM, "synchronous_commit": "on"}


def came_back(settings: dict[str, str], unfinished: str = "n1", **orders: object) -> FailoverPlan:
    """n1 answers again; by a journal on n3, a failover away from `unfinished` was interrupted."""
    n1 = Sight("n1", "replica", (), MemberFacts("n1", "192.0.2.1", state="running", in_recovery=False, timeline=1))
    n2, n3 = (sight(standby(name, settings=settings), "sql") for name in ("n2", "n3"))
    return plan(n1, n2, replace(n3, unfinished=unfinished), **orders)


def test_an_interrupted_failover_whose_primary_answers_again_is_put_back_where_its_journal_is() -> None:
    found = came_back(FROZEN)
    assert (found.action, found.primary, found.worker) == ("put_back", "n1", "n3")
    assert found.request is not None
    assert found.request.put_back
    assert [member.name for member in found.request.replicas] == ["n2", "n3"]
    assert not found.refusals


def test_an_old_journal_is_no_reason_to_put_anything_back() -> None:
    following = {**FROZEN, "primary_conninfo": "host=192.0.2.1"}
    assert codes(came_back(following)) == ["alive"]
    assert codes(came_back(FROZEN, unfinished="n2")) == ["alive"]


def test_an_interrupted_failover_that_is_forced_goes_on() -> None:
    assert came_back(FROZEN, force="orders").action == "fail_over"


@pytest.mark.parametrize("state", ["refuse", "restart", "finish", "fail_over", "put_back"])
def test_every_plan_goes_through_json_and_back(state: str) -> None:
    host = Sight("n1", "replica", (), MemberFacts("n1", "192.0.2.1", state="stopped"))
    new = standby("n2", in_recovery=False, current_lsn=Lsn(9000), timeline=2)
    plans = {
        "refuse": lambda: plan(sight(standby("n2"), "sql")),
        "restart": lambda: plan(sight(standby("n2")), sight(standby("n3")), host),
        "finish": lambda: plan(sight(new, promoting="n2", promoting_from="n1"), sight(standby("n3"))),
        "fail_over": gone,
        "put_back": lambda: came_back(FROZEN),
    }
    found = plans[state]()
    assert found.action == state
    assert FailoverPlan.from_dict(found.to_dict()) == found
    assert report("orders", found)[0].startswith("Failover of cluster orders: ")


def test_a_worker_that_ended_without_its_playbook_is_finished_not_refused_as_alive() -> None:
    primary = MemberFacts("n2", "192.0.2.2", state="running", in_recovery=False, timeline=2)
    found = plan(Sight("n2", "replica", (), primary, promoting="n2", promoting_from="n1"), sight(standby("n3")))
    assert (found.action, found.primary, found.worker) == ("finish", "n1", "n2")
    assert found.request is not None
    assert found.request.finish


def test_a_replica_whose_disk_is_full_is_not_promoted_without_being_named() -> None:
    full = replace(sight(standby("n2")), free_mb=3)
    room = replace(sight(standby("n3")), free_mb=5000)
    found = plan(full, room)
    assert found.election is not None
    assert found.election.candidate == "n3"
    assert "its disk is full (3 MiB free)" in dict(found.election.ranking)["n2"]
    assert codes(plan(full, replace(room, free_mb=0))) == ["only_reserved"]

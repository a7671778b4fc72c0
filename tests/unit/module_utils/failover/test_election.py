# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who becomes the primary: ancestry, then what is on disk, then preference; and what may be lost with it."""

from __future__ import annotations

from itertools import product

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.failover.election import (
    Election,
    Policy,
    Standing,
    elect,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.synchronous import SyncRule
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import TimelineHistory
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts, WalReceiver

FIRST = TimelineHistory.first()
SECOND = TimelineHistory(2, ((1, Lsn(500)),))
ANY_1 = SyncRule("ANY", 1, ("n2", "n3", "n4"))


def standing(
    name: str,
    end: int,
    *,
    history: TimelineHistory = FIRST,
    serves: int | None = None,
    priority: int = 100,
    paused: bool = False,
    delay: float = 0.0,
) -> Standing:
    return Standing(
        name,
        timeline=history.timeline,
        history=history,
        end=Lsn(end),
        serves_end=Lsn(end if serves is None else serves),
        priority=priority,
        paused=paused,
        delay_seconds=delay,
    )


def silent(name: str) -> Standing:
    return Standing(name, asked=False, error="no answer")


def run(*standings: Standing, rule: SyncRule | None = None, **options: object) -> Election:
    policy = Policy(
        candidate=options.pop("candidate", None),  # type: ignore[arg-type]
        accept_loss=bool(options.pop("accept_loss", False)),
        maximum_loss_bytes=int(options.pop("maximum_loss_bytes", 1 << 20)),  # type: ignore[call-overload]
    )
    return elect(standings, rule or SyncRule(), policy, cluster="orders", **options)  # type: ignore[arg-type]


def refused(*standings: Standing, **options: object) -> Refused:
    with pytest.raises(Refused) as error:
        run(*standings, **options)  # type: ignore[arg-type]
    return error.value


def test_the_most_advanced_one_wins_over_the_preferred_one() -> None:
    """F07."""
    result = run(standing("n2", 100, priority=200), standing("n3", 101))
    assert result.candidate == "n3"
    assert result.catch_up_from is None


def test_priority_decides_among_equals() -> None:
    assert run(standing("n2", 100), standing("n3", 100, priority=150)).candidate == "n3"


def test_the_first_of_the_inventory_wins_a_tie() -> None:
    assert run(standing("n2", 100), standing("n3", 100)).candidate == "n2"


def test_a_higher_position_on_an_older_timeline_does_not_win() -> None:
    """F10: n3 went on along timeline 1 beyond the point where timeline 2 began."""
    result = run(standing("n2", 600, history=SECOND), standing("n3", 900))
    assert result.candidate == "n2"
    assert result.diverged == ("n3",)


def test_an_older_timeline_within_its_line_is_only_behind() -> None:
    result = run(standing("n2", 600, history=SECOND), standing("n3", 500))
    assert result.diverged == ()


def test_two_lines_of_one_number_are_refused_until_one_is_named() -> None:
    other = TimelineHistory(2, ((1, Lsn(400)),))
    pair = (standing("n2", 600, history=SECOND), standing("n3", 700, history=other))
    error = refused(*pair)
    assert error.details["code"] == "two_lines"
    assert "n2" in str(error)
    assert "n3" in str(error)
    result = run(*pair, candidate="n2")
    assert (result.candidate, result.diverged) == ("n2", ("n3",))


@pytest.mark.parametrize("against", [{"priority": 0}, {"paused": True}, {"delay": 3600.0}])
def test_a_reserved_replica_is_never_promoted_silently_but_its_log_is_used(against: dict[str, object]) -> None:
    """F12, F15: paused, delayed and priority 0."""
    result = run(standing("n2", 100), standing("n4", 300, **against))  # type: ignore[arg-type]
    assert result.candidate == "n2"
    assert result.catch_up_from == "n4"
    assert result.end == Lsn(300)
    error = refused(standing("n4", 300, **against))  # type: ignore[arg-type]
    assert error.details["code"] == "only_reserved"
    assert "fleet_failover_candidate=n4" in str(error)
    assert run(standing("n4", 300, **against), candidate="n4").candidate == "n4"  # type: ignore[arg-type]


def test_a_delayed_replica_that_cannot_send_what_it_has_on_disk_stops_the_failover() -> None:
    """Restarted without upstream: receive is NULL, a walsender sends only up to what was replayed."""
    error = refused(standing("n2", 100), standing("n4", 300, serves=50, delay=3600.0))
    assert error.details["code"] == "source_cannot_send"
    assert "200 bytes more" in str(error)


def test_another_replica_may_send_what_the_most_advanced_one_cannot() -> None:
    result = run(standing("n2", 100), standing("n3", 300, priority=0), standing("n4", 300, serves=50, delay=3600.0))
    assert result.catch_up_from == "n3"


def test_a_named_candidate_that_is_behind_catches_up_first() -> None:
    result = run(standing("n2", 100), standing("n3", 300), candidate="n2")
    assert (result.candidate, result.catch_up_from, result.end) == ("n2", "n3", Lsn(300))


@pytest.mark.parametrize("name", ["n3", "n4", "n9"])
def test_a_named_candidate_that_cannot_be_one_is_refused_with_the_reason(name: str) -> None:
    members = (standing("n2", 600, history=SECOND), standing("n3", 900), silent("n4"))
    error = refused(*members, candidate=name, accept_loss=True)
    assert error.details["code"] == "named_candidate"
    assert name in str(error)


def test_nobody_left_is_refused() -> None:
    assert refused(silent("n2"), silent("n3")).details["code"] == "no_candidate"
    assert refused().details["code"] == "no_candidate"


def test_quorum_commit_with_a_silent_member_is_refused_unless_consented() -> None:
    """F09: N=3, W=1: two asked are not enough."""
    pair = (standing("n2", 100), standing("n3", 200), silent("n4"))
    error = refused(*pair, rule=ANY_1)
    assert error.details["code"] == "data_loss"
    assert "fleet_failover_accept_data_loss=orders" in str(error)
    result = run(*pair, rule=ANY_1, accept_loss=True)
    assert result.candidate == "n3"
    assert result.consented


def test_quorum_commit_with_enough_asked_loses_nothing() -> None:
    """F08: the preferred one is behind."""
    result = run(standing("n2", 100, priority=200), standing("n3", 900), standing("n4", 50), rule=ANY_1)
    assert result.candidate == "n3"
    assert result.loss.kind == "none"
    result = run(standing("n2", 100), standing("n3", 900), silent("n4"), rule=SyncRule("ANY", 2, ("n2", "n3", "n4")))
    assert result.loss.kind == "none"


def test_a_diverged_member_does_not_count_as_asked() -> None:
    members = (standing("n2", 600, history=SECOND), standing("n3", 900), standing("n4", 600, history=SECOND))
    assert refused(*members, rule=ANY_1).details["code"] == "data_loss"


def test_an_unknown_rule_is_no_obstacle_when_everybody_was_asked() -> None:
    everybody = (standing("n2", 100), standing("n3", 200))
    assert elect(everybody, None, Policy(), cluster="orders").candidate == "n3"
    with pytest.raises(Refused):
        elect((*everybody, silent("n4")), None, Policy(), cluster="orders")


def test_an_asynchronous_cluster_with_a_silent_replica_is_refused_unless_consented() -> None:
    assert refused(standing("n2", 100), silent("n3")).details["code"] == "data_loss"
    assert run(standing("n2", 100), silent("n3"), accept_loss=True).candidate == "n2"


@pytest.mark.parametrize(
    ("options", "kind", "size"),
    [
        ({}, "unknown", None),
        ({"last_known": Lsn(50)}, "unknown", None),
        ({"last_known": Lsn(150)}, "at_least", 50),
        ({"on_primary_disk": Lsn(170)}, "exact", 70),
        ({"on_primary_disk": Lsn(170), "last_known": Lsn(150)}, "exact", 70),
        ({"on_primary_disk": Lsn(100), "last_known": Lsn(90)}, "none", 0),
    ],
)
def test_the_loss_is_named_as_exactly_as_it_is_known(options: dict[str, object], kind: str, size: int | None) -> None:
    result = run(standing("n2", 100), **options)  # type: ignore[arg-type]
    assert (result.loss.kind, result.loss.bytes) == (kind, size)


def test_a_known_loss_beyond_the_limit_needs_consent() -> None:
    error = refused(standing("n2", 100), on_primary_disk=Lsn(5000), maximum_loss_bytes=1000)
    assert "4900" in str(error)
    assert "start PostgreSQL on the old primary again" in str(error)
    assert run(standing("n2", 100), on_primary_disk=Lsn(5000), maximum_loss_bytes=1000, accept_loss=True).consented
    assert not run(standing("n2", 100), on_primary_disk=Lsn(5000), maximum_loss_bytes=4900).consented


def test_the_result_survives_json() -> None:
    result = run(standing("n2", 100), standing("n4", 300, priority=0), silent("n5"), accept_loss=True)
    assert Election.from_dict(result.to_dict()) == result
    assert [name for name, _why in result.ranking] == ["n4", "n2", "n5"]


def test_in_every_mixture_nobody_is_promoted_who_lacks_what_an_asked_member_of_the_line_has() -> None:
    """Three replicas, each silent, reserved or free, at three positions and on two lines."""
    kinds = ("silent", "free", "reserved")
    lines = (FIRST, SECOND)
    choices = [
        silent_or(kind, history, end)
        for kind, history, end in product(kinds, lines, (400, 500, 700))
        if not (history is SECOND and end < 500) and not (kind == "silent" and (history, end) != (FIRST, 400))
    ]
    elected = 0
    for trio in product(choices, repeat=3):
        members = [made(f"n{number}") for number, made in enumerate(trio, 2)]
        rule = SyncRule("ANY", 1, ("n2", "n3", "n4"))
        try:
            result = elect(members, rule, Policy(), cluster="orders")
        except Refused:
            continue
        elected += 1
        candidate = next(member for member in members if member.name == result.candidate)
        assert candidate.asked
        assert candidate.reservation is None
        assert candidate.history is not None
        newest = max(member.timeline or 0 for member in members if member.asked)
        assert candidate.timeline == newest or result.catch_up_from is not None
        for member in members:
            if member.asked and member.name not in result.diverged:
                assert member.end is not None
                assert member.end <= result.end
        if result.loss.kind == "none":
            assert rule.proves_complete([m.name for m in members if m.asked and m.name not in result.diverged])
    assert elected > 100


def silent_or(kind: str, history: TimelineHistory, end: int):  # type: ignore[no-untyped-def]
    if kind == "silent":
        return silent
    return lambda name: standing(name, end, history=history, priority=0 if kind == "reserved" else 100)


def standby(**values: object) -> MemberFacts:
    fixed: dict[str, object] = {"state": "running", "in_recovery": True, "timeline": 1, "history": FIRST}
    return MemberFacts("n2", "192.0.2.2", **(fixed | values))  # type: ignore[arg-type]


def test_what_lies_on_disk_counts_when_nothing_was_received_since_the_restart() -> None:
    """F11."""
    facts = standby(receive_lsn=None, replay_lsn=Lsn(100))
    assert Standing.of(facts).end == Lsn(100)
    restarted = Standing.of(facts, on_disk_end=Lsn(700))
    assert (restarted.end, restarted.serves_end) == (Lsn(700), Lsn(100))


def test_the_furthest_of_received_flushed_and_replayed_counts() -> None:
    facts = standby(
        receive_lsn=Lsn(200),
        replay_lsn=Lsn(100),
        receiver=WalReceiver("streaming", written_lsn=Lsn(260), flushed_lsn=Lsn(250)),
    )
    assert Standing.of(facts).end == Lsn(260)


@pytest.mark.parametrize(
    "values",
    [
        {"state": "stopped", "in_recovery": None},
        {"in_recovery": False},
        {"replay_lsn": None},
        {"replay_lsn": Lsn(1), "history": None},
        {"replay_lsn": Lsn(1), "timeline": None},
        {"state": "unreachable", "in_recovery": None, "error": "no route to host"},
    ],
)
def test_a_member_whose_position_is_not_known_counts_as_not_asked(values: dict[str, object]) -> None:
    result = Standing.of(standby(**values))
    assert not result.asked
    assert result.error


def test_reservations_come_from_the_facts() -> None:
    assert Standing.of(standby(replay_lsn=Lsn(1), replay_paused=True)).paused
    assert "3600 s" in (Standing.of(standby(replay_lsn=Lsn(1), apply_delay_seconds=3600.0)).reservation or "")
    assert "priority" in (Standing.of(standby(replay_lsn=Lsn(1)), priority=0).reservation or "")

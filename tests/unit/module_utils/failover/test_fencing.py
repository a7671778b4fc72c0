# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ladder of fences: only what was read back counts."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.failover.fencing import (
    CONFIRMED,
    DRIVERS,
    NOT_APPLICABLE,
    STATUSES,
    UNCONFIRMED,
    Fence,
    PoolerCut,
    Rung,
    command_says_off,
    cut_of,
    judge_ladder,
    pooler_cut,
    quorum,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.synchronous import SyncRule


def test_the_ladder_is_confirmed_exactly_when_a_rung_is() -> None:
    for statuses in product(STATUSES, repeat=len(DRIVERS)):
        rungs = [Rung(driver, status, ("seen",)) for driver, status in zip(DRIVERS, statuses, strict=True)]
        fence = judge_ladder("n1", "192.0.2.1", rungs, cluster="orders")
        assert fence.confirmed == (CONFIRMED in statuses)
        assert bool(fence.manual) != fence.confirmed
        if fence.confirmed:
            assert fence.driver == DRIVERS[statuses.index(CONFIRMED)]


def test_without_any_rung_nothing_is_confirmed_and_the_operator_is_told_what_to_do() -> None:
    fence = judge_ladder("n1", "192.0.2.1", [], cluster="orders")
    assert not fence.confirmed
    text = " ".join(fence.manual)
    assert "192.0.2.1" in text
    assert "fleet_failover_operator_fenced=n1" in text
    assert "fleet_failover_without_fence=orders" in text
    assert Fence.from_dict(fence.to_dict()) == fence


def test_a_confirmation_without_evidence_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="evidence"):
        Rung("ssh", CONFIRMED)


@pytest.mark.parametrize(
    ("output", "pattern", "off"),
    [
        ("Chassis Power is off\n", "is off", True),
        ("Chassis Power is on\n", "is off", False),
        ("SHUT OFF", "shut off", True),
        ("", "off", False),
        ("Chassis Power is off", "", False),
        ("Chassis Power is off", "  ", False),
    ],
)
def test_the_state_command_has_to_say_the_declared_words(output: str, pattern: str, off: bool) -> None:
    assert command_says_off(output, pattern) is off


CUT = PoolerCut("p1", paused=True, servers=0)


@pytest.mark.parametrize(
    "uncut",
    [
        PoolerCut("p2", error="no answer"),
        PoolerCut("p2", paused=False, servers=0),
        PoolerCut("p2", paused=True, servers=1),
        PoolerCut("p2", paused=True, servers=None),
    ],
)
def test_one_pooler_that_is_not_seen_cut_spoils_the_fence(uncut: PoolerCut) -> None:
    assert pooler_cut(True, [CUT, CUT]).status == CONFIRMED
    assert pooler_cut(True, [CUT, uncut]).status == UNCONFIRMED


def process(host: str | None, *, paused: bool, active: int = 0, **more: Any) -> dict[str, Any]:
    """One of PgBouncer's, as `pgbouncer_pool_info` tells: an entry that is written to, and one for readers."""
    entries = {
        "orders": {"host": host, "paused": paused},
        "orders_ro": {"host": "192.0.2.2,192.0.2.3", "paused": False},
        "pgbouncer": {"host": None, "paused": False},
    }
    pools = [{"database": "orders", "sv_active": active}, {"database": "orders_ro", "sv_active": 7}]
    return {"error": None, "globally_paused": False, "databases": entries, "pools": pools, **more}


def test_a_pooler_is_cut_when_every_entry_of_every_process_that_leads_there_is_paused() -> None:
    old = ("n1", "192.0.2.1")
    cut, open_, elsewhere = (
        process("192.0.2.1", paused=True),
        process("192.0.2.1", paused=False),
        process("192.0.2.2", paused=False),
    )
    assert cut_of("p1", [cut, cut], old) == PoolerCut("p1", paused=True, servers=0)
    assert cut_of("p1", [elsewhere], old).cut
    assert cut_of("p1", [process("192.0.2.1", paused=False, globally_paused=True)], old).cut
    for uncut in (
        [cut, open_],
        [process("n1", paused=False)],
        [process("192.0.2.3,192.0.2.1", paused=False)],
        [process(None, paused=False)],
        [process("192.0.2.1", paused=True, active=1)],
        [cut, {"error": "no answer"}],
    ):
        assert not cut_of("p1", uncut, old).cut


def test_the_poolers_are_a_fence_only_where_declared_to_be_the_only_way_in() -> None:
    assert pooler_cut(False, [CUT]).status == NOT_APPLICABLE
    assert pooler_cut(True, []).status == NOT_APPLICABLE


@pytest.mark.parametrize("method", ["ANY", "FIRST"])
def test_the_quorum_fence_holds_exactly_when_too_few_are_left_to_confirm(method: str) -> None:
    names = ("n2", "n3", "n4")
    for required in (1, 2, 3):
        for count in range(4):
            for off in combinations(names, count):
                rung = quorum(SyncRule(method, required, names), "on", dict.fromkeys(off, True))
                assert (rung.status == CONFIRMED) == (len(names) - count < required)


def test_a_standby_that_was_not_seen_disconnected_can_still_confirm() -> None:
    assert quorum(SyncRule("ANY", 1, ("n2", "n3")), "on", {"n2": True, "n3": False}).status == UNCONFIRMED
    assert quorum(SyncRule("ANY", 1, ("n2", "n3")), "on", {"n2": True}).status == UNCONFIRMED


@pytest.mark.parametrize(
    ("rule", "commit"),
    [
        (None, "on"),
        (SyncRule(), "on"),
        (SyncRule("ANY", 1, ("*",)), "on"),
        (SyncRule("ANY", 1, ("n2",)), "local"),
        (SyncRule("ANY", 1, ("n2",)), "off"),
        (SyncRule("ANY", 1, ("n2",)), None),
    ],
)
def test_the_quorum_fence_does_not_apply_where_commits_can_be_acknowledged_otherwise(
    rule: SyncRule | None, commit: str | None
) -> None:
    assert quorum(rule, commit, {"n2": True}).status == NOT_APPLICABLE

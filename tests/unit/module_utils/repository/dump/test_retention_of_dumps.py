# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Retention of dumps: each series by itself, bad ones in nobody's way; and how old they may be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.entry import ListedDump, Origin
from ansible_collections.dbops.fleet.plugins.module_utils.repository.jobs.ages import dumps_too_old
from ansible_collections.dbops.fleet.plugins.module_utils.repository.jobs.settings import Limits
from ansible_collections.dbops.fleet.plugins.module_utils.repository.retention import EXTRACT_DAYS, Policy, plan_dumps
from ansible_collections.dbops.fleet.tests.unit.module_utils.repository.dump.dumps import NOW, dump, listed

NOTHING = Policy(daily=0, weekly=0, monthly=0, window_days=0, verified=0)
ORIGIN = Origin("20260301-020000F", "0/9000000", None, "shop.invoice of orders")

SERIES = st.sampled_from([("orders",), ("stock",), ()])
MADE = st.lists(
    st.tuples(
        st.integers(0, 800),
        SERIES,
        st.sampled_from([None, True, False]),
        st.booleans(),
        st.sampled_from([None, "audit"]),
    ),
    unique_by=lambda one: one[0],
    max_size=40,
)


def test_two_years_of_daily_dumps_become_seven_daily_four_weekly_twelve_monthly() -> None:
    decided = plan_dumps([listed(dump("orders", days_ago=days)) for days in range(730)], Policy(), NOW)
    reasons = [reason for why in decided.keep.values() for reason in why]
    assert [reasons.count(rule) for rule in ("daily", "weekly", "monthly")] == [7, 4, 12]


def test_a_dump_of_one_database_does_not_push_out_those_of_all() -> None:
    everything = listed(dump("orders", "stock", days_ago=2, everything=True))
    one = listed(dump("orders", days_ago=1))
    assert plan_dumps([everything, one], NOTHING, NOW).remove == ()


def test_a_series_whose_newest_dump_is_bad_stays_while_the_others_go_on() -> None:
    orders = [listed(dump("orders", days_ago=3)), listed(dump("orders", days_ago=2), good=False)]
    stock = [listed(dump("stock", days_ago=days)) for days in (5, 4)]
    assert plan_dumps([*orders, *stock], NOTHING, NOW).remove == (stock[0].id,)


def test_what_was_taken_out_of_backups_goes_after_a_week_unless_it_is_pinned() -> None:
    old = listed(dump("orders", days_ago=EXTRACT_DAYS + 1, origin=ORIGIN))
    pinned = listed(dump("orders", days_ago=EXTRACT_DAYS + 2, origin=ORIGIN), pinned="lawyers")
    young = listed(dump("orders", days_ago=EXTRACT_DAYS - 1, origin=ORIGIN))
    assert plan_dumps([old, pinned, young], Policy(), NOW).remove == (old.id,)


def test_a_dump_from_the_future_stops_everything() -> None:
    with pytest.raises(Refused, match="nothing is deleted"):
        plan_dumps([listed(dump("orders", days_ago=-1))], NOTHING, NOW)


@settings(max_examples=200)
@given(made=MADE)
def test_the_newest_sound_dump_of_every_series_stays_and_pinned_ones_too(
    made: list[tuple[int, tuple[str, ...], bool | None, bool, str | None]],
) -> None:
    items = [
        listed(dump(*names, days_ago=days, origin=ORIGIN if taken else None), good=good, pinned=pinned)
        for days, names, good, taken, pinned in made
    ]
    decided = plan_dumps(items, NOTHING, NOW)
    kept = set(decided.keep)
    assert kept | set(decided.remove) == {item.id for item in items}
    assert not kept & set(decided.remove)
    newest: dict[str, ListedDump] = {}
    for item in sorted(items, key=lambda one: one.stop_time):
        assert item.pinned is None or item.id in kept
        if not item.bad and item.dump.origin is None:
            newest[item.dump.series] = item
    assert {item.id for item in newest.values()} <= kept


def test_ages_are_watched_only_where_dumps_are_wanted() -> None:
    assert dumps_too_old("main", (), Limits(), NOW) == ()
    limits = Limits(dump_hours=26)
    assert [problem.code for problem in dumps_too_old("main", (), limits, NOW)] == ["no_dump"]
    assert dumps_too_old("main", (listed(dump("orders", days_ago=1)),), limits, NOW) == ()
    old = listed(dump("orders", days_ago=2), good=False)
    problems = dumps_too_old("main", (old,), limits, NOW)
    assert [problem.code for problem in problems] == ["dump_too_old", "dump_bad"]
    assert {problem.severity for problem in problems} == {"warning"}

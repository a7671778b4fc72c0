# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""synchronous_standby_names: what PostgreSQL takes is read, and R + W > N agrees with enumeration."""

from __future__ import annotations

from itertools import combinations

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.failover.synchronous import SyncRule


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", SyncRule("FIRST", 0, ())),
        ("n1", SyncRule("FIRST", 1, ("n1",))),
        ("n1, n2", SyncRule("FIRST", 1, ("n1", "n2"))),
        ("2 (n1, n2, n3)", SyncRule("FIRST", 2, ("n1", "n2", "n3"))),
        ("FIRST 1 (n1,n2)", SyncRule("FIRST", 1, ("n1", "n2"))),
        ("any 2 ( n1 , n2,n3 )", SyncRule("ANY", 2, ("n1", "n2", "n3"))),
        ('ANY 1 ("db-1.example", "a""b")', SyncRule("ANY", 1, ("db-1.example", 'a"b'))),
        ("*", SyncRule("FIRST", 1, ("*",))),
        ("ANY 1 (*)", SyncRule("ANY", 1, ("*",))),
    ],
)
def test_reads_what_postgresql_takes(text: str, expected: SyncRule) -> None:
    assert SyncRule.parse(text) == expected
    assert SyncRule.parse(str(expected)) == expected


@pytest.mark.parametrize("text", ["ANY 1 ()", "ANY (n1)", "0 (n1)", "n1,", "n1 n2", "FIRST 1 (n1", '"n1'])
def test_refuses_what_postgresql_refuses(text: str) -> None:
    with pytest.raises(ValueError):
        SyncRule.parse(text)


@pytest.mark.parametrize("method", ["ANY", "FIRST"])
def test_overlap_agrees_with_every_way_a_commit_can_be_confirmed(method: str) -> None:
    names = ("n1", "n2", "n3", "n4")
    for size in range(1, 5):
        listed = names[:size]
        for required in range(1, size + 1):
            rule = SyncRule(method, required, listed)
            for count in range(5):
                for asked in combinations(names, count):
                    always_found = all(set(confirmed) & set(asked) for confirmed in combinations(listed, required))
                    assert rule.proves_complete(asked) == always_found, (rule, asked)


def test_nothing_is_proven_for_asynchronous_clusters_or_an_asterisk() -> None:
    assert not SyncRule().proves_complete(["n1", "n2"])
    assert not SyncRule("ANY", 1, ("*",)).proves_complete(["n1", "n2"])


def test_names_are_compared_without_case() -> None:
    assert SyncRule("ANY", 1, ("N1",)).proves_complete(["n1"])


def test_a_new_primary_asks_for_no_more_confirmations_than_it_has_standbys() -> None:
    rule = SyncRule("ANY", 2, ("n1", "n2", "n3"))
    assert rule.for_standbys(["n2", "n3"]) == SyncRule("ANY", 2, ("n2", "n3"))
    assert rule.for_standbys(["n3"]) == SyncRule("ANY", 1, ("n3",))
    assert rule.for_standbys([]) == SyncRule()
    assert SyncRule().for_standbys(["n2"]) == SyncRule()


def test_knows_when_commits_would_hang() -> None:
    rule = SyncRule("ANY", 2, ("n1", "n2", "n3"))
    assert rule.can_be_met(["n1", "n3"])
    assert not rule.can_be_met(["n1", "other"])


def test_the_primary_itself_is_not_counted_where_all_members_are_listed() -> None:
    rule = SyncRule("ANY", 1, ("n1", "n2", "n3")).without("N1")
    assert rule == SyncRule("ANY", 1, ("n2", "n3"))
    assert rule.proves_complete(["n2", "n3"])
    assert not rule.proves_complete(["n2"])

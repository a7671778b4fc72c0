# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which databases are dumped, and where a dump may be loaded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.entry import (
    EXTRACTS,
    Definition,
    Dump,
    Origin,
    series_of,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.plan import (
    NAME_BYTES,
    Wanted,
    choose,
    find,
    is_list_setting,
    load,
    locale_options,
    mark,
    new_schema,
)
from ansible_collections.dbops.fleet.tests.unit.module_utils.repository.dump.dumps import database, dump, listed

THERE = [database("orders"), database("stock")]
ORIGIN = Origin("20260301-020000F", "0/9000000", None, "shop.invoice of orders", mark="Taken out of a backup")


def part() -> Dump:
    """Of schema shop, as base_backup_extract makes it."""
    entry = dump("orders", origin=ORIGIN)
    return replace(entry, databases=(database("orders", schema="shop_restored"),))


def test_all_databases_are_dumped_by_name_when_none_is_named() -> None:
    assert [one.name for one in choose(Wanted(), list(reversed(THERE)))] == ["orders", "stock"]


def test_a_database_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(Refused, match=r"There is no database order\. There are: orders, stock"):
        choose(Wanted(("order", "stock")), THERE)


def test_globals_alone_need_no_database() -> None:
    assert choose(Wanted(nothing_but_globals=True), THERE) == ()


@pytest.mark.parametrize("wanted", [Wanted(("orders",), nothing_but_globals=True), Wanted((), False, False, True)])
def test_globals_alone_with_something_else_is_refused(wanted: Wanted) -> None:
    with pytest.raises(Refused, match="Only globals"):
        choose(wanted, THERE)


def test_a_dump_goes_into_a_new_database_by_default() -> None:
    assert load(dump("orders"), None, None, {"orders": None}).into == "orders_restored"


@given(name=st.sampled_from(["orders", "stock", "orders_restored", "other"]), replacing=st.booleans())
def test_no_database_that_exists_is_ever_loaded_into(name: str, replacing: bool) -> None:
    existing = {"orders": None, "stock": "kept", "orders_restored": None}
    try:
        decided = load(dump("orders"), "orders", name, existing, replace=replacing)
    except Refused:
        assert name in existing
        assert not replacing
        return
    assert decided.loading not in existing
    assert (decided.aside is not None) == (name in existing)
    assert decided.aside not in existing


def test_a_name_for_moving_aside_that_is_taken_is_refused() -> None:
    entry = dump("orders")
    existing = {"orders": None, f"orders_before_{entry.id}": None}
    with pytest.raises(Refused, match="cannot be moved aside"):
        load(entry, None, "orders", existing, replace=True)


def test_what_was_loaded_from_this_dump_before_is_known_again_but_not_when_it_is_to_be_replaced() -> None:
    entry = dump("orders")
    existing: dict[str, str | None] = {"orders_restored": mark(entry)}
    assert load(entry, None, None, existing).loaded
    assert not load(entry, None, None, existing, replace=True).loaded
    with pytest.raises(Refused, match="exists already"):
        load(dump("orders", days_ago=1), None, None, existing)


@pytest.mark.parametrize("name", ["", "x" * (NAME_BYTES + 1), "ü" * 32])
def test_a_name_that_postgresql_would_cut_is_refused(name: str) -> None:
    with pytest.raises(Refused):
        load(dump("orders"), None, name or "\0", {})


def test_a_dump_of_several_databases_needs_to_know_which() -> None:
    with pytest.raises(Refused, match="which one is meant"):
        load(dump("orders", "stock"), None, None, {})
    with pytest.raises(Refused, match="It has: orders, stock"):
        load(dump("orders", "stock"), "other", None, {})


def test_a_part_goes_into_the_database_that_it_came_from_and_is_never_replaced() -> None:
    decided = load(part(), None, None, {"orders": None})
    assert (decided.into, decided.schema, decided.loading) == ("orders", "shop_restored", "")
    with pytest.raises(Refused, match="no database orders that"):
        load(part(), None, None, {"stock": None})
    with pytest.raises(Refused, match="not replaced"):
        load(part(), None, None, {"orders": None}, replace=True)


def test_a_part_is_known_by_the_comment_that_came_with_it() -> None:
    assert mark(part()) == "Taken out of a backup"


def test_the_newest_sound_dump_of_a_database_is_found_and_what_came_out_of_backups_only_by_its_id() -> None:
    old, bad, other = dump("orders", days_ago=3), dump("orders", days_ago=2), dump("stock", days_ago=1)
    known = [listed(old), listed(bad, good=False), listed(other), listed(part())]
    assert find(known, None, "orders") == old
    assert find(known, None, None) == other
    assert find(known, part().id, None) == part()
    assert find(known, bad.id, None) == bad
    with pytest.raises(Refused, match="no sound dump of database other"):
        find(known, None, "other")


def test_a_new_schema_has_a_new_name() -> None:
    assert new_schema("public", None) == "public_restored"
    for name in ("public", "pg_other", "x" * 64):
        with pytest.raises(Refused):
            new_schema("public", name)


@pytest.mark.parametrize(
    ("provider", "options"),
    [
        ("c", {"LOCALE_PROVIDER": "libc"}),
        ("i", {"LOCALE_PROVIDER": "icu", "ICU_LOCALE": "de"}),
        ("b", {"LOCALE_PROVIDER": "builtin", "BUILTIN_LOCALE": "de"}),
    ],
)
def test_a_new_database_has_the_locale_of_the_old_one(provider: str, options: dict[str, str]) -> None:
    told = dict(locale_options(Definition("seller", "UTF8", provider, "C", "C", "de")))
    assert told == {"ENCODING": "UTF8", "LC_COLLATE": "C", "LC_CTYPE": "C", **options}


def test_the_value_of_a_list_is_not_quoted_as_one_word() -> None:
    assert is_list_setting("search_path")
    assert is_list_setting("Search_Path")
    assert not is_list_setting("work_mem")


def test_the_series_of_a_dump_says_what_was_chosen() -> None:
    assert dump("stock", "orders").series == series_of(("orders", "stock"), all_databases=False) == "orders, stock"
    assert dump("orders", everything=True).series == "all databases"
    assert dump().series == "globals"
    assert part().series == EXTRACTS


def test_an_entry_of_the_catalogue_comes_back_as_it_was_written() -> None:
    definition = Definition("o", "UTF8", "c", "C", "C", None, ("work_mem=7MB",), (("PUBLIC", "CONNECT", False),))
    entry = replace(part(), databases=(database("orders", definition=definition),))
    assert Dump.from_dict(entry.to_dict()) == entry
    assert Dump.from_dict({**entry.to_dict(), "new": 1}) == entry

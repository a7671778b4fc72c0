# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names for the console and for the files."""

from __future__ import annotations

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.names import entry_name, identifier, literal


@pytest.mark.parametrize(
    ("name", "quoted"),
    [("orders", '"orders"'), ('we"ird db', '"we""ird db"'), ("ALL", '"ALL"'), ("a;b", '"a;b"'), ("ä", '"ä"')],
)
def test_quotes_every_database_name(name: str, quoted: str) -> None:
    assert identifier(name) == quoted


def test_refuses_a_zero_byte() -> None:
    with pytest.raises(Refused):
        identifier("a\0b")


def test_doubles_quotes_in_values() -> None:
    assert literal("it's") == "'it''s'"


@pytest.mark.parametrize("name", ["orders", "orders_ro", "a.b-c", "*"])
def test_takes_names_that_files_can_hold(name: str) -> None:
    assert entry_name(name) == name


@pytest.mark.parametrize("name", ["", "two words", 'quo"te', "ä", "a=b", "[x]"])
def test_refuses_names_that_files_cannot_hold(name: str) -> None:
    with pytest.raises(Refused, match="cannot be written") as caught:
        entry_name(name)
    assert "dbname" in str(caught.value)

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The userlist: quoting, rewriting, and never showing a password."""

from __future__ import annotations

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.userlist import format_line, masked, parse, rewrite

TEXT = """\
; people
"ann" "s3cret"
"bo""b" "pa""ss" ""
"""


def test_reads_users_with_doubled_quotes() -> None:
    assert parse(TEXT) == {"ann": "s3cret", 'bo"b': 'pa"ss'}


def test_changes_adds_and_removes() -> None:
    text = rewrite(TEXT, {"ann": "new", "eve": "x"}, frozenset({'bo"b'}))
    assert text == '; people\n"ann" "new"\n"eve" "x"\n'


def test_leaves_the_text_alone_when_nothing_changes() -> None:
    assert rewrite(TEXT, {"ann": "s3cret"}) == TEXT


def test_purges_users_that_are_not_wanted() -> None:
    assert parse(rewrite(TEXT, {"eve": "x"}, purge=True)) == {"eve": "x"}


def test_shows_that_a_password_changed_but_not_what_it_is() -> None:
    after = rewrite(TEXT, {"ann": "new"})
    shown = masked(after, than=TEXT)
    assert '"ann" "********" (changed)' in shown
    assert shown.count("changed") == 1
    assert not [secret for secret in ("s3cret", "new", "pa") if secret in shown]


def test_an_unreadable_line_is_named_but_not_shown() -> None:
    with pytest.raises(FleetError, match="line 1") as caught:
        parse("ann s3cret\n")
    assert "s3cret" not in str(caught.value)


def test_quotes_user_and_password() -> None:
    assert format_line('a"b', 'c"d') == '"a""b" "c""d"'

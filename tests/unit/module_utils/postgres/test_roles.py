# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Statements for roles that differ in anything; passwords against verifiers that PostgreSQL's own library made."""

from __future__ import annotations

import base64
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.roles import password_matches, statements, verifier

# RFC 7677, section 3: user "user", password "pencil".
RFC = (
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ=="
    "$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
)
FLAGS = "LOGIN,NOSUPERUSER,NOREPLICATION,CONNECTION LIMIT -1"
ROW: dict[str, Any] = {
    "rolname": "app",
    "rolpassword": RFC,
    "rolcanlogin": True,
    "rolsuper": False,
    "rolreplication": False,
    "rolconnlimit": -1,
}


def salt() -> bytes:
    return b"sixteen bytes..!"


def test_knows_the_password_of_the_standards_example() -> None:
    assert password_matches("pencil", RFC)
    assert not password_matches("pen", RFC)


@pytest.mark.parametrize("verifier", [None, "", "md5a3556571e93b0d20722ba62be61e8c2d", "SCRAM-SHA-256$1:x$y", "pencil"])
def test_what_is_no_scram_verifier_never_matches(verifier: str | None) -> None:
    assert not password_matches("pencil", verifier)


def test_a_password_beyond_ascii_counts_as_one_that_differs() -> None:
    assert not password_matches("passwört", RFC)


def test_a_role_that_is_as_it_should_be_is_left_alone() -> None:
    assert statements([ROW], {"app": FLAGS}, {"app": "pencil"}, salt) == []


@pytest.mark.parametrize(
    "change",
    [{"rolpassword": None}, {"rolcanlogin": False}, {"rolsuper": True}, {"rolreplication": True}, {"rolconnlimit": 7}],
    ids=str,
)
def test_a_role_that_differs_in_anything_is_altered(change: dict[str, Any]) -> None:
    (statement,) = statements([{**ROW, **change}], {"app": FLAGS}, {"app": "pencil"}, salt)
    assert statement.startswith(
        """ALTER ROLE "app" LOGIN NOSUPERUSER NOREPLICATION CONNECTION LIMIT -1 PASSWORD 'SCRAM-SHA-256$4096:"""
    )


def test_roles_that_are_missing_are_made_in_the_order_they_are_wanted_in() -> None:
    made = statements([{**ROW, "rolname": "other"}], {"b": FLAGS, "a": FLAGS}, {"a": "x", "b": "y"}, salt)
    assert [statement.split(" LOGIN")[0] for statement in made] == ['CREATE ROLE "b"', 'CREATE ROLE "a"']


def test_no_statement_holds_a_password_that_a_server_could_log() -> None:
    (statement,) = statements([], {"app": FLAGS}, {"app": "pencil"}, salt)
    assert "pencil" not in statement
    assert password_matches("pencil", statement.split("'")[1])


def test_names_and_passwords_beyond_ascii_are_quoted() -> None:
    (statement,) = statements([], {'o"dd': "LOGIN"}, {'o"dd': "wört's"}, salt)
    assert statement == """CREATE ROLE "o""dd" LOGIN PASSWORD 'wört''s'"""


def test_refuses_an_attribute_that_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="NOSUCH is no attribute"):
        statements([ROW], {"app": "NOSUCH"}, {"app": "pencil"}, salt)


def test_a_verifier_of_ours_has_the_form_of_libpqs() -> None:
    ours = verifier("pencil", salt())
    assert password_matches("pencil", ours)
    assert not password_matches("pen", ours)
    assert len(ours) == len(RFC)


def test_a_verifier_of_ours_with_the_standards_salt_is_the_standards() -> None:
    assert verifier("pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")) == RFC


@settings(derandomize=True, max_examples=20, deadline=None)
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40))
def test_agrees_with_the_verifiers_of_libpq(password: str) -> None:
    encrypted = psycopg.pq.PGconn.connect_start(b"").encrypt_password(
        password.encode(), b"app", algorithm=b"scram-sha-256"
    )
    assert password_matches(password, encrypted.decode())
    assert not password_matches(password + "x", encrypted.decode())

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which roles have to be set: every attribute and limit, and passwords against verifiers that libpq made."""

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
OPTIONS = "LOGIN NOSUPERUSER NOREPLICATION"
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


def wrong(row: dict[str, Any], options: str = OPTIONS, limit: int = -1) -> list[str]:
    return statements([row], {"app": options}, {"app": limit}, {"app": "pencil"}, salt)


def test_a_role_that_is_as_it_should_be_is_left_alone() -> None:
    assert wrong(ROW) == []
    assert statements([{**ROW, "rolconnlimit": 7}], {"app": OPTIONS}, {}, {"app": "pencil"}, salt) == []


@pytest.mark.parametrize(
    "change",
    [
        {"rolpassword": None},
        {"rolcanlogin": False},
        {"rolreplication": True},
        {"rolconnlimit": 7},
    ],
    ids=str,
)
def test_a_role_that_differs_in_anything_is_set(change: dict[str, Any]) -> None:
    assert wrong({**ROW, **change}) == [
        f"ALTER ROLE \"app\" {OPTIONS} CONNECTION LIMIT -1 PASSWORD '{verifier('pencil', salt())}'"
    ]


def test_a_superuser_is_never_altered_unless_it_is_one_of_the_fleets_own() -> None:
    superuser = {**ROW, "rolsuper": True}
    with pytest.raises(ValueError, match="role app is never altered: it is a superuser"):
        wrong(superuser)
    ours = {"fleet_monitor": OPTIONS}
    (statement,) = statements([{**superuser, "rolname": "fleet_monitor"}], ours, {}, {"fleet_monitor": "pencil"}, salt)
    assert statement.startswith(f'ALTER ROLE "fleet_monitor" {OPTIONS} ')


@pytest.mark.parametrize("role", ["postgres", "pg_monitor", "pg_new", "public", "none"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_role_of_postgresql_itself_is_neither_altered_nor_made(role: str, exists: bool) -> None:
    found = [{**ROW, "rolname": role}] if exists else []
    with pytest.raises(ValueError, match=f"role {role} is never altered"):
        statements(found, {role: OPTIONS}, {}, {role: "pencil"}, salt)


def test_a_role_that_is_missing_is_made() -> None:
    (statement,) = wrong({**ROW, "rolname": "other"})
    assert statement.startswith(f'CREATE ROLE "app" {OPTIONS} CONNECTION LIMIT -1 PASSWORD ')


def test_roles_come_in_the_order_they_are_wanted_in() -> None:
    first, second = statements([], {"b": OPTIONS, "a": OPTIONS}, {}, {"a": "x", "b": "y"}, salt)
    assert first.startswith('CREATE ROLE "b" ')
    assert second.startswith('CREATE ROLE "a" ')
    assert "LIMIT" not in first + second


def test_names_and_passwords_with_quotes_mean_themselves() -> None:
    (statement,) = statements([], {'o"r': OPTIONS}, {}, {'o"r': "wört's"}, salt)
    assert statement == f"CREATE ROLE \"o\"\"r\" {OPTIONS} PASSWORD 'wört''s'"


def test_a_server_gets_no_password_that_it_could_log_unless_it_is_beyond_ascii() -> None:
    (statement,) = wrong({**ROW, "rolpassword": None})
    assert "pencil" not in statement
    (statement,) = statements([], {"app": OPTIONS}, {}, {"app": "wört"}, salt)
    assert "'wört'" in statement


def test_refuses_a_flag_that_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="NOSUCH is no attribute"):
        wrong(ROW, options="NOSUCH")


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

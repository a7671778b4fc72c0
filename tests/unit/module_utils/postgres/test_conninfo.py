# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connection strings: quoting, reading as libpq reads, no secrets."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.dbops.fleet.plugins.module_utils.postgres import conninfo

VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)


@settings(derandomize=True)
@given(st.dictionaries(st.sampled_from(["host", "user", "application_name", "dbname", "options"]), VALUES, min_size=1))
def test_what_is_built_is_read_alike_by_us_and_by_libpq(parameters: dict[str, str]) -> None:
    text = conninfo.build(dict(parameters))
    assert conninfo.parse(text) == parameters
    assert psycopg.conninfo.conninfo_to_dict(text) == parameters


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("host = 'a b'  port=1", {"host": "a b", "port": "1"}),
        (r"user=it\'s", {"user": "it's"}),
        ("port=1 port=2", {"port": "2"}),
        ("postgresql://me:x%40y@db1:5433/app?sslmode=require", None),
        ("postgresql://db1,db2:5433/app", {"host": "db1,db2", "port": ",5433", "dbname": "app"}),
        ("postgres://[::1]:5432", {"host": "::1", "port": "5432"}),
    ],
)
def test_reads_every_form(text: str, expected: dict[str, str] | None) -> None:
    wanted = expected if expected is not None else psycopg.conninfo.conninfo_to_dict(text)
    found = conninfo.parse(text)
    assert {**found, "port": found.get("port", "").strip(",")} == {
        **wanted,
        "port": str(wanted.get("port", "")).strip(","),
    }


@pytest.mark.parametrize("text", ["host", "host='a", "a b=c"])
def test_refuses_what_libpq_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="connection string"):
        conninfo.parse(text)
    with pytest.raises(psycopg.ProgrammingError):
        psycopg.conninfo.conninfo_to_dict(text)


def test_a_password_is_neither_built_nor_shown() -> None:
    with pytest.raises(ValueError, match="use passfile"):
        conninfo.build({"host": "db1", "password": "hunter2"})
    for text in ("host=db1 password='hunter2' user=me", "postgresql://me:hunter2@db1/"):
        shown = conninfo.without_secrets(text)
        assert "hunter2" not in shown
        assert conninfo.parse(shown) == {"host": "db1", "user": "me"}
    assert conninfo.without_secrets("password=hunter2 '") == "(unreadable)"


def test_members_reach_each_other_with_verified_tls_and_the_passfile() -> None:
    text = conninfo.between_members("10.0.0.1", 5432, application_name="db2", user=conninfo.REPLICATION, dbname=None)
    assert conninfo.parse(text) == {
        "host": "10.0.0.1",
        "port": "5432",
        "user": "fleet_replication",
        "application_name": "db2",
        "sslmode": "verify-full",
        "sslrootcert": "/etc/dbops-fleet/ca.crt",
        "passfile": "/etc/dbops-fleet/pgpass",
    }

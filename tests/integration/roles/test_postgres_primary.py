# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Role postgres_primary by Ansible itself, with a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from ansible_collections.dbops.fleet.tests.integration.servers import Server, Servers
from ansible_collections.dbops.fleet.tests.support.role import Played, play

ROLES = ("fleet_replication", "fleet_operator", "fleet_monitor", "fleet_pooler")


def run(directory: Path, server: Server, *databases: dict[str, Any], check_mode: bool = False) -> Played:
    names = {
        database.get(right, f"{database['name']}_{ending}")
        for database in databases
        for right, ending in (("owner", "app"), ("readonly", "read"))
    }
    variables = {
        "postgres_primary_databases": list(databases),
        "postgres_primary_passwords": {name: f"secret of {name}" for name in (*ROLES, *names)},
        "postgres_primary_socket_directory": str(server.socket_directory),
        "postgres_primary_port": server.port,
        "postgres_primary_version": server.version,
    }
    directory.mkdir()
    return play(directory, "postgres_primary", variables, check_mode=check_mode)


def roles_of(server: Server) -> list[Any]:
    return server.sql("SELECT rolname, rolsuper, rolpassword FROM pg_authid ORDER BY rolname")


@pytest.mark.parametrize(
    ("database", "refused", "check_mode"),
    [
        ({"name": "orders", "owner": "postgres"}, "Role postgres cannot be owner of database orders", False),
        ({"name": "orders", "owner": "postgres"}, "Role postgres cannot be owner of database orders", True),
        ({"name": "orders", "readonly": "fleet_operator"}, "Role fleet_operator cannot be readonly of database", False),
        ({"name": "template1"}, "Database template1 is PostgreSQL's own", False),
        ({"name": "orders", "readonly": "dba"}, "Role dba cannot be readonly of database orders: it is a", False),
    ],
    ids=["superuser", "superuser in check mode", "role of the fleet", "system database", "superuser by another name"],
)
def test_what_no_application_can_have_is_refused_and_nothing_is_changed(
    tmp_path: Path, servers: Servers, database: dict[str, Any], refused: str, check_mode: bool
) -> None:
    server = servers.primary("db1")
    server.sql("CREATE ROLE dba SUPERUSER")
    before = roles_of(server)
    played = run(tmp_path / "run", server, database, check_mode=check_mode)
    assert refused in played.failures[0]
    assert "Nothing was changed" in played.failures[0]
    assert played.changed == []
    assert roles_of(server) == before
    assert server.value("SELECT count(*) FROM pg_database WHERE datname = 'orders'") == 0


def test_a_second_run_changes_nothing(tmp_path: Path, servers: Servers) -> None:
    server = servers.primary("db1")
    databases = ({"name": "orders", "extensions": ["pg_trgm"]}, {"name": "billing", "owner": "bill's", "readonly": "R"})
    first = run(tmp_path / "first", server, *databases)
    assert first.failures == []
    assert first.changed
    second = run(tmp_path / "second", server, *databases)
    assert (second.failures, second.changed) == ([], [])
    checked = run(tmp_path / "third", server, *databases, check_mode=True)
    assert (checked.failures, checked.changed) == ([], [])


def as_role(server: Server, role: str, statement: str) -> list[Any]:
    """What the statement gives in a session of the role."""
    with psycopg.connect(server.conninfo("orders", role), autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


@pytest.mark.parametrize(
    ("owner", "readonly"),
    [("shop", "orders_read"), ("orders_app", "auditor")],
    ids=["owner", "readonly"],
)
def test_another_owner_or_reader_gets_everything_that_the_one_before_had(
    tmp_path: Path, servers: Servers, owner: str, readonly: str
) -> None:
    server = servers.primary("db1")
    assert run(tmp_path / "first", server, {"name": "orders"}).failures == []
    wanted = {"name": "orders", "owner": owner, "readonly": readonly}
    checked = run(tmp_path / "check", server, wanted, check_mode=True)
    assert checked.failures == []
    assert "dbops.fleet.postgres_primary : Database | Make what is missing in orders" in checked.changed

    assert run(tmp_path / "second", server, wanted).failures == []

    as_role(server, owner, "CREATE TABLE sold (what text)")
    as_role(server, owner, "INSERT INTO sold VALUES ('a lamp')")
    assert as_role(server, readonly, "SELECT what FROM sold") == [("a lamp",)]
    # What setup's proof does.
    write = "INSERT INTO fleet.proof VALUES ('pool1', 'x') ON CONFLICT (pooler) DO UPDATE SET token = excluded.token"
    as_role(server, owner, write)
    assert as_role(server, readonly, "SELECT token FROM fleet.proof") == [("x",)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        as_role(server, readonly, write)
    third = run(tmp_path / "third", server, wanted)
    assert (third.failures, third.changed) == ([], [])

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What no application can have, in every place where it could be asked for."""

from __future__ import annotations

import itertools

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.databases import SYSTEM_DATABASES, refusals

FINE = {"name": "orders", "owner": "orders_app", "readonly": "orders_read"}
# What is no application's, and a word of the reason.
REFUSED = {
    "postgres": "log in as",
    "pg_monitor": "reserves",
    "pg_orders": "reserves",
    "public": "reserves",
    "none": "reserves",
    "fleet_replication": "fleet's own",
    "fleet_operator": "fleet's own",
    "fleet_orders_app": "fleet's own",
    "dba": "it is a superuser",
}


def test_an_applications_own_database_and_roles_are_fine() -> None:
    billing = {"name": "billing", "owner": "pgadmin", "readonly": "Postgres"}
    assert refusals([FINE, billing], ["postgres", "dba"]) == []
    assert refusals([]) == []


@pytest.mark.parametrize("name", SYSTEM_DATABASES)
def test_a_database_of_postgresql_itself_is_refused_by_name(name: str) -> None:
    (text,) = refusals([FINE, {**FINE, "name": name}])
    assert text.startswith(f"Database {name} is PostgreSQL's own. ")
    assert "postgres_primary_databases" in text


@pytest.mark.parametrize("right", ["owner", "readonly"])
@pytest.mark.parametrize("role", REFUSED)
def test_a_role_that_is_no_applications_is_refused_by_name(role: str, right: str) -> None:
    (text,) = refusals([FINE, {**FINE, "name": "billing", right: role}], ["dba"])
    assert text.startswith(f"Role {role} cannot be {right} of database billing: ")
    assert REFUSED[role] in text


def test_the_role_that_owns_a_database_cannot_be_its_reader() -> None:
    (text,) = refusals([{**FINE, "readonly": "orders_app"}])
    assert "orders_app is owner and readonly of database orders" in text


def test_every_wrong_name_of_every_combination_is_told() -> None:
    names = ("orders", *SYSTEM_DATABASES)
    roles = ("app", *REFUSED)
    for name, owner, readonly in itertools.product(names, roles, roles):
        wrong = [name in SYSTEM_DATABASES, owner in REFUSED, readonly in REFUSED, owner == readonly]
        assert len(refusals([{"name": name, "owner": owner, "readonly": readonly}], ["dba"])) == sum(wrong)

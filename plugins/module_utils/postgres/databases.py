# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which databases and roles no application can have: PostgreSQL's own, the fleet's, superusers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# What every server has from the beginning.
SYSTEM_DATABASES = ("postgres", "template0", "template1")


def is_fleet_role(role: str) -> bool:
    """Whether a role is one that the fleet makes for itself."""
    return role.startswith("fleet_")


def reserved(role: str) -> str | None:
    """Why PostgreSQL needs this role for itself; None where it does not."""
    if role == "postgres":
        return "it is the superuser whom the host and these playbooks log in as"
    if role.startswith("pg_") or role in ("public", "none"):
        return "PostgreSQL reserves that name"
    return None


def refusals(databases: Sequence[Mapping[str, Any]], superusers: Sequence[str] = ()) -> list[str]:
    """What cannot be made as it is asked for, each as a sentence with its remedy.

    A role of an application is altered until it has an application's attributes. Done to a superuser, that locks
    everybody out of the server.

    Args:
        databases: name, owner and readonly of each.
        superusers: of the server, where they are known.
    """
    return [text for database in databases for text in _refusals(database, superusers)]


def _refusals(database: Mapping[str, Any], superusers: Sequence[str]) -> Iterator[str]:
    name = database["name"]
    if name in SYSTEM_DATABASES:
        yield f"Database {name} is PostgreSQL's own. Give the application's another name in postgres_primary_databases."
    for right in ("owner", "readonly"):
        role = database[right]
        why = reserved(role)
        if is_fleet_role(role):
            why = "roles that begin with fleet_ are the fleet's own"
        elif role in superusers:
            why = "it is a superuser"
        if why:
            yield f"Role {role} cannot be {right} of database {name}: {why}. Name one of the application's own."
    if database["owner"] == database["readonly"]:
        yield f"Role {database['owner']} is owner and readonly of database {name}. Name two roles: the owner writes."

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and strings as PgBouncer wants them quoted, in three places with three different rules."""

from __future__ import annotations

import re

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused

# What PgBouncer 1.18 and 1.24 read as the name before `=` in a file. Anything else, a quoted name too, is a syntax
# error there (tried on both), whatever the manual says of quoting.
ENTRY_NAME = re.compile(r"[A-Za-z0-9_.*-]+")


def identifier(name: str) -> str:
    """A database's name for the admin console: ``PAUSE "we""ird db"``.

    Always quoted, so that names which are words of the console (``all``) or have capitals mean themselves.
    """
    if "\0" in name:
        raise Refused(f"The database name {name!r} holds a zero byte", remedy="No database can be called that.")
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A value for ``SET key = 'value'`` at the admin console."""
    return "'" + value.replace("'", "''") + "'"


def entry_name(name: str, what: str = "database") -> str:
    """A name for the left side of a line in PgBouncer's files, unchanged.

    Raises:
        Refused: PgBouncer's files cannot hold this name.
    """
    if ENTRY_NAME.fullmatch(name):
        return name
    remedy = "PgBouncer's files take letters, digits and _ . - in names, and nothing else, quoted or not."
    if what == "database":
        remedy += " Give the entry a plain name and the database's own name as `dbname`."
    raise Refused(f"The {what} name {name!r} cannot be written to PgBouncer's files", remedy=remedy)

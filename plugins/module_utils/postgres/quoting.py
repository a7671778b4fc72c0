# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and strings in SQL (PostgreSQL documentation, section 4.1), for statements that take no parameters."""

from __future__ import annotations


def identifier(name: str) -> str:
    """A name, always quoted: ``"we""ird"``."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A string constant that does not depend on standard_conforming_strings."""
    escaped = value.replace("'", "''")
    return f"'{escaped}'" if "\\" not in escaped else " E'" + escaped.replace("\\", "\\\\") + "'"

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PgBouncer's userlist (`auth_file`): lines of ``"user" "password or SCRAM secret"``, quotes inside doubled."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError

_LINE = re.compile(r'\s*"((?:[^"]|"")*)"\s+"((?:[^"]|"")*)".*')


def parse(text: str, path: str = "the userlist") -> dict[str, str]:
    """Users and their passwords.

    Raises:
        FleetError: a line is not readable; its text is not shown, as it may hold a password.
    """
    users = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith((";", "#")):
            continue
        found = _LINE.fullmatch(line)
        if not found:
            raise FleetError(f'{path}, line {number} is not of the form "user" "password"', remedy="Correct it.")
        users[found[1].replace('""', '"')] = found[2].replace('""', '"')
    return users


def rewrite(text: str, wanted: Mapping[str, str], remove: frozenset[str] = frozenset(), *, purge: bool = False) -> str:
    """The text with these users, everything else as it was.

    Args:
        text: of the file, empty for a new one.
        wanted: user to password (plain, or a SCRAM secret as in ``pg_authid``).
        remove: users to take out.
        purge: take out every user that is not in `wanted`.
    """
    present = parse(text)
    lines = []
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        name = found[1].replace('""', '"') if found else None
        if name is None:
            lines.append(line)
        elif name in wanted:
            lines.append(line if present[name] == wanted[name] else format_line(name, wanted[name]))
        elif not purge and name not in remove:
            lines.append(line)
    lines += [format_line(name, password) for name, password in wanted.items() if name not in present]
    return "".join(f"{line}\n" for line in lines)


def format_line(user: str, password: str) -> str:
    """One line of the file."""
    for value in (user, password):
        if "\n" in value or "\0" in value:
            raise FleetError(f"The name or password of {user!r} holds a line break", remedy="Choose another one.")
    return f"{_quoted(user)} {_quoted(password)}"


def masked(text: str, than: str | None = None) -> str:
    """The text without passwords, for ``--diff``. Passwords that differ from those of the text `than` say so."""
    other = parse(than) if than is not None else {}
    lines = []
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found:
            name = found[1].replace('""', '"')
            changed = name in other and other[name] != parse(line)[name]
            lines.append(f'"{found[1]}" "********"' + (" (changed)" if changed else ""))
        elif not line.strip() or line.lstrip().startswith((";", "#")):
            lines.append(line)
    return "".join(f"{line}\n" for line in lines)


def _quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'

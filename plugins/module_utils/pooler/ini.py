# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PgBouncer's ini files: read, and changed line by line, so that comments and order stay as they were.

How PgBouncer reads them (tried on 1.18 and 1.24): a comment is a whole line that starts with ``;`` or ``#``, never the
end of a line; of two equal names in a section the later one counts; behind ``%include FILE`` it goes on in whatever
section that file ended with; and each line ``[pgbouncer]`` sets everything back to its default, so there must be one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.names import ENTRY_NAME

_SECTION = re.compile(r"\s*\[([^\]]+)\]\s*")
_INCLUDE = re.compile(r"\s*%include\s+(\S.*?)\s*")
_ENTRY = re.compile(rf"\s*({ENTRY_NAME.pattern})\s*=\s*(.*?)\s*")
_COMMENTED_ENTRY = re.compile(rf"\s*[;#]+\s*({ENTRY_NAME.pattern})\s*=.*")


@dataclass(frozen=True)
class Line:
    """One line: its text, the section it is in ("" before the first) and, for an entry, its name and value."""

    text: str
    section: str
    name: str | None = None
    value: str | None = None
    include: str | None = None


@dataclass(frozen=True)
class Ini:
    """A file, as immutable lines. Every change gives a new one; without a change the text comes back as it was."""

    lines: tuple[Line, ...]

    @classmethod
    def parse(cls, text: str, path: str = "the file", behind_include: str = "") -> Ini:
        """Read a file's text.

        Args:
            text: of the file.
            path: for messages.
            behind_include: the section that included files end with, if that is known.

        Raises:
            FleetError: a line that PgBouncer would not take, with its number.
        """
        section = ""
        lines: list[Line] = []
        for number, line in enumerate(text.splitlines(), start=1):
            if found := _SECTION.fullmatch(line):
                section = found[1].strip()
                if section == "pgbouncer" and any(one.section == section for one in lines):
                    raise FleetError(
                        f"{path}, line {number}: a second [pgbouncer]; PgBouncer forgets what it read in the first",
                        remedy="Put both together.",
                    )
                lines.append(Line(line, section))
            elif not line.strip() or line.lstrip().startswith((";", "#")):
                lines.append(Line(line, section))
            elif found := _INCLUDE.fullmatch(line):
                lines.append(Line(line, section, include=found[1]))
                section = behind_include
            elif (found := _ENTRY.fullmatch(line)) and section:
                lines.append(Line(line, section, found[1], found[2]))
            else:
                raise FleetError(
                    f"{path}, line {number}: PgBouncer cannot read this, or not as part of a known section",
                    remedy="Entries are name = value, below a [section] line, also behind an %include. Correct it.",
                )
        return cls(tuple(lines))

    def text(self) -> str:
        """The whole file."""
        return "".join(f"{line.text}\n" for line in self.lines)

    def entries(self, section: str) -> dict[str, str]:
        """The entries of a section by name; includes are not followed."""
        return {line.name: line.value or "" for line in self.lines if line.section == section and line.name is not None}

    def includes(self) -> tuple[str, ...]:
        """The files named by %include lines."""
        return tuple(line.include for line in self.lines if line.include is not None)

    def with_entries(self, section: str, wanted: Mapping[str, str], *, purge: bool = False) -> Ini:
        """The file with these entries in this section.

        A new entry goes behind its own commented-out line (``;max_client_conn = 100``) if there is one, otherwise to
        the end of the section.

        Args:
            section: is added if it is missing.
            wanted: name to value; an entry that has this value already keeps its line.
            purge: take out the entries that are not in `wanted`.
        """
        present = self.entries(section)
        remove = set(present) - set(wanted) if purge else set()
        ini = self.without_entries(section, remove)
        changed = {name: value for name, value in wanted.items() if present.get(name) != value}
        lines = []
        for line in ini.lines:
            if line.section == section and line.name in changed:
                value = changed[line.name]
                line = replace(line, text=f"{line.name} = {value}".rstrip(), value=value)
            lines.append(line)
        ini = Ini(tuple(lines))
        for name, value in changed.items():
            if name not in present:
                ini = ini._added(section, name, value)
        return ini

    def without_entries(self, section: str, names: Iterable[str]) -> Ini:
        """The file without these entries of this section."""
        remove = set(names)
        return Ini(tuple(line for line in self.lines if line.section != section or line.name not in remove))

    def with_include(self, path: str) -> Ini:
        """The file with ``%include path`` above its [pgbouncer], unless it is included somewhere already.

        Above, so that the file goes on ending with that section, and another that includes it can add settings.
        """
        if path in self.includes():
            return self
        place = self._above_settings()
        return Ini((*self.lines[:place], Line(f"%include {path}", "", include=path), *self.lines[place:]))

    def _above_settings(self) -> int:
        """Where something can be put that is no part of [pgbouncer]: above its header and what comments on it."""
        header = next((n for n, line in enumerate(self.lines) if line.section == "pgbouncer"), len(self.lines))
        while header and self.lines[header - 1].name is None and self.lines[header - 1].text.lstrip()[:1] in (";", "#"):
            header -= 1
        return header

    def _added(self, section: str, name: str, value: str) -> Ini:
        new = Line(f"{name} = {value}".rstrip(), section, name, value)
        inside = [number for number, line in enumerate(self.lines) if line.section == section]
        if not inside:
            end = len(self.lines) if section == "pgbouncer" else self._above_settings()
            return Ini((*self.lines[:end], Line(f"[{section}]", section), new, *self.lines[end:]))
        place = self._commented_out(inside, name)
        if place is None:
            place = next((n for n in reversed(inside) if self._holds_something(n)), inside[0])
        return Ini((*self.lines[: place + 1], new, *self.lines[place + 1 :]))

    def _commented_out(self, inside: list[int], name: str) -> int | None:
        for number in inside:
            found = _COMMENTED_ENTRY.fullmatch(self.lines[number].text)
            if found and found[1] == name:
                return number
        return None

    def _holds_something(self, number: int) -> bool:
        return self.lines[number].name is not None or _SECTION.fullmatch(self.lines[number].text) is not None


def parse_target(value: str) -> dict[str, str]:
    """The value of a line in [databases] or [users]: ``host=10.0.0.1 connect_query='set x to ''y'''``.

    Raises:
        FleetError: PgBouncer would not take it.
    """
    pairs: dict[str, str] = {}
    position = 0
    pattern = re.compile(r"\s*([A-Za-z0-9_]+)\s*=\s*(?:'((?:[^']|'')*)'(?=\s|$)|([^'\s]\S*|(?=\s|$)))\s*")
    while position < len(value):
        found = pattern.match(value, position)
        if not found:
            raise FleetError(f"PgBouncer cannot read the connection string {value!r}", remedy="Correct the line.")
        pairs[found[1]] = found[2].replace("''", "'") if found[2] is not None else found[3]
        position = found.end()
    return pairs


def format_target(pairs: Mapping[str, str]) -> str:
    """The reverse: values are put in single quotes where they need them, with quotes inside doubled."""
    return " ".join(f"{name}={_quoted(value)}" for name, value in pairs.items())


def _quoted(value: str) -> str:
    if "\n" in value or "\r" in value:
        raise FleetError(f"A value in PgBouncer's files cannot hold a line break: {value!r}", remedy="Write one line.")
    if value and not re.search(r"[\s']", value):
        return value
    return "'" + value.replace("'", "''") + "'"

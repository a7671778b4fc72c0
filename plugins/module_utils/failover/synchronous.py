# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`synchronous_standby_names`: reading it, writing it, and what it promises about acknowledged commits."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.quoting import identifier
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record

_WITH_METHOD = re.compile(r"^(?:(FIRST|ANY)\s+)?(\d+)\s*\((.*)\)$", re.IGNORECASE | re.DOTALL)
_NAME = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([^\s,"()]+))\s*(,|$)')
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")


@dataclass(frozen=True)
class SyncRule(Record):
    """Which standbys have to confirm a commit before the client is told.

    Attributes:
        method: "FIRST" (by priority) or "ANY" (quorum).
        required: how many must confirm; 0 means that nobody is waited for.
        names: application names, in order; "*" stands for every standby.
    """

    method: str = "FIRST"
    required: int = 0
    names: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> SyncRule:
        """Read the setting's value.

        Raises:
            ValueError: PostgreSQL would not take it either.

        >>> SyncRule.parse('ANY 1 (n1, "n-2")')
        SyncRule(method='ANY', required=1, names=('n1', 'n-2'))
        >>> SyncRule.parse("").required
        0
        """
        text = text.strip()
        if not text:
            return cls()
        match = _WITH_METHOD.match(text)
        method, count, listed = (
            ((match[1] or "FIRST").upper(), int(match[2]), match[3]) if match else ("FIRST", 1, text)
        )
        names = _names(listed)
        if not names or count < 1:
            raise ValueError(f"not a value of synchronous_standby_names: {text!r}")
        return cls(method, count, names)

    def __str__(self) -> str:
        if not self.required:
            return ""
        return f"{self.method} {self.required} ({', '.join(_quoted(name) for name in self.names)})"

    @property
    def is_synchronous(self) -> bool:
        """Whether commits wait for any standby."""
        return self.required > 0

    @property
    def names_everyone(self) -> bool:
        """Whether a standby that nobody listed may confirm."""
        return "*" in self.names

    def without(self, member: str | None) -> SyncRule:
        """The rule as it works while this member is the primary: nobody confirms its own commits.

        The fleet lists every member, so that the setting need not change when roles do.
        """
        return SyncRule(self.method, self.required, tuple(n for n in self.names if n.lower() != (member or "").lower()))

    def listed(self, members: Iterable[str]) -> tuple[str, ...]:
        """The members whose confirmation may count. Application names are compared without case, as PostgreSQL does."""
        if self.names_everyone:
            return tuple(members)
        names = {name.lower() for name in self.names}
        return tuple(member for member in members if member.lower() in names)

    def proves_complete(self, asked: Collection[str]) -> bool:
        """Whether at least one of the standbys that were asked must have every acknowledged commit: R + W > N.

        An acknowledged commit is on at least W (`required`) of the N listed standbys. When R of them were asked and
        R + W > N, the two sets overlap, so the most advanced one of the asked has it. It holds for FIRST as well:
        which of the listed ones were the first ones changes with every connection that comes and goes.
        """
        if not self.is_synchronous or self.names_everyone:
            return False
        return len(set(self.listed(asked))) + self.required > len(self.names)

    def can_be_met(self, attachable: Collection[str]) -> bool:
        """Whether commits can be confirmed when only these standbys stream; otherwise they hang."""
        return len(self.listed(attachable)) >= self.required

    def for_standbys(self, standbys: Iterable[str]) -> SyncRule:
        """The same promise on a primary whose standbys are these: as many confirmations as they can give.

        An asynchronous rule stays asynchronous. Without any standby nothing can be waited for.
        """
        names = tuple(standbys)
        if not self.is_synchronous or not names:
            return SyncRule()
        return SyncRule(self.method, min(self.required, len(names)), names)


def _names(listed: str) -> tuple[str, ...]:
    names: list[str] = []
    position = 0
    while position < len(listed):
        match = _NAME.match(listed, position)
        if match is None or (match[3] == "," and match.end() == len(listed)):
            raise ValueError(f"not a list of standby names: {listed!r}")
        names.append(match[1].replace('""', '"') if match[1] else match[2])
        position = match.end()
    return tuple(names)


def _quoted(name: str) -> str:
    """Names that are no plain identifiers have to be quoted; * must not be."""
    if name == "*" or (_PLAIN.fullmatch(name) and name not in ("first", "any")):
        return name
    return identifier(name)

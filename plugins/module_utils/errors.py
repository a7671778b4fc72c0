# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The errors that every room raises, and that ``adapter.py`` alone turns into a module's failure."""

from __future__ import annotations

from typing import Any


class FleetError(Exception):
    """Something that the operator has to know about.

    Args:
        message: what was found or went wrong, as a full sentence without the closing stop.
        host: the host or cluster member that it was found on, where there is one.
        remedy: what the operator can do about it, as a full sentence.
        details: further JSON-able facts for machines; they become return values of the failed module.
    """

    def __init__(self, message: str, *, host: str | None = None, remedy: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.host = host
        self.remedy = remedy
        self.details = details

    def __str__(self) -> str:
        where = f"{self.host}: " if self.host else ""
        what = self.message.rstrip(".")
        return f"{where}{what}. {self.remedy}" if self.remedy else f"{where}{what}."

    def to_dict(self) -> dict[str, Any]:
        """The error as return values: ``msg``, ``error`` (class), ``host``, ``remedy`` and the details."""
        kind = type(self).__name__
        return {"msg": str(self), "error": kind, "host": self.host, "remedy": self.remedy, **self.details}


class Refused(FleetError):
    """A plan said no before anything was changed: going on could lose data or interrupt service."""


class OperationFailed(FleetError):
    """An act did not succeed. The message says what state was left behind, the remedy the next command."""

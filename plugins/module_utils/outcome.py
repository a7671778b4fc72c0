# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every operation returns to its door, be it a module or the ``dbops`` command."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """The end of an operation.

    Attributes:
        changed: whether something was changed, or in check mode would have been.
        result: JSON-able return values.
        before: the state that was found, for ``--diff``: text or JSON-able; None where there is no diff.
        after: the state that was left or, in check mode, predicted.
        warnings: sentences for the operator that do not make the operation fail.
        diff: instead of before and after, Ansible's list form for several files: dicts of ``before_header``,
            ``after_header``, ``before`` and ``after``.
    """

    changed: bool
    result: dict[str, Any] = field(default_factory=dict)
    before: Any = None
    after: Any = None
    warnings: tuple[str, ...] = ()
    diff: list[dict[str, str]] | None = None

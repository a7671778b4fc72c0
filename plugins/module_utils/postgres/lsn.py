# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A position in the write-ahead log (log sequence number)."""

from __future__ import annotations

import re

_PRINTED = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


class Lsn(int):
    """A byte position in the write-ahead log, printed as PostgreSQL prints it.

    It is an int: comparisons work, and the difference of two positions is a plain number of bytes.

    >>> Lsn.parse("0/3000060") - Lsn.parse("0/3000000")
    96
    >>> str(Lsn(0x1_0000_0001))
    '1/1'
    """

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """Read PostgreSQL's form.

        Raises:
            ValueError: the text is not two hexadecimal numbers with a slash between.
        """
        match = _PRINTED.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"not an LSN: {text!r}")
        return cls((int(match[1], 16) << 32) | int(match[2], 16))

    def __str__(self) -> str:
        return f"{int(self) >> 32:X}/{int(self) & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn({str(self)!r})"

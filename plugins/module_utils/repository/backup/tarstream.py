# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a tar archive while it arrives, in the form that PostgreSQL sends it (ustar, no extensions)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

BLOCK = 512
_TYPES = {b"0": "file", b"\0": "file", b"2": "link", b"5": "directory"}


@dataclass(frozen=True)
class Header:
    """A member of the archive.

    Attributes:
        path: as in the archive, without a leading `./` or closing slash.
        type: `file`, `link` or `directory`.
        mode: permission bits.
        size: bytes of a file.
        mtime: seconds since the epoch.
        target: of a link.
    """

    path: str
    type: str
    mode: int
    size: int
    mtime: int
    target: str


class TarStream:
    """Feed it the archive in pieces of any size; it gives headers, and the bytes of the files behind their header."""

    def __init__(self) -> None:
        self._rest = b""
        self._left = 0
        self._padding = 0

    def feed(self, data: bytes | memoryview) -> Iterator[Header | memoryview]:
        """What this piece contains: a Header begins a member, every memoryview continues the last file.

        Raises:
            ValueError: this is no tar archive, or has a kind of member that PostgreSQL does not send.
        """
        view = memoryview(self._rest + bytes(data)) if self._rest else memoryview(data)
        self._rest = b""
        while view:
            if self._left:
                part = view[: self._left]
                self._left -= len(part)
                view = view[len(part) :]
                yield part
            elif self._padding:
                skipped = min(self._padding, len(view))
                self._padding -= skipped
                view = view[skipped:]
            elif len(view) < BLOCK:
                self._rest = bytes(view)
                return
            else:
                block, view = bytes(view[:BLOCK]), view[BLOCK:]
                if block.strip(b"\0"):
                    header = _header(block)
                    self._left = header.size
                    self._padding = -header.size % BLOCK
                    yield header

    @property
    def complete(self) -> bool:
        """Whether the archive may end here."""
        return not (self._left or self._padding or self._rest)


def _header(block: bytes) -> Header:
    if block[257:262] != b"ustar":
        raise ValueError("not a tar header")
    checksum = sum(block[:148]) + 8 * 32 + sum(block[156:])
    if _number(block[148:156]) != checksum:
        raise ValueError("a tar header with a wrong checksum")
    kind = _TYPES.get(block[156:157])
    if kind is None:
        raise ValueError(f"a tar member of type {block[156:157]!r}")
    name, prefix = _text(block[:100]), _text(block[345:500])
    path = f"{prefix}/{name}" if prefix else name
    return Header(
        path=path.removeprefix("./").rstrip("/"),
        type=kind,
        mode=_number(block[100:108]) & 0o7777,
        size=_number(block[124:136]) if kind == "file" else 0,
        mtime=_number(block[136:148]),
        target=_text(block[157:257]),
    )


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # base 256, for files of 8 GiB and more
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return int(field.split(b"\0")[0].strip() or b"0", 8)


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "surrogateescape")

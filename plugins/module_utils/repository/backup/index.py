# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The index of a backup: one line of JSON per file, saying in which frames its content lies."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple

# Raw bytes per frame. Small enough that a few changed pages do not send much, large enough to compress well.
FRAME_BYTES = 1 << 20

DATA = "data/"
CONFIGURATION = "configuration/"
DUMP = "dump/"


class Frame(NamedTuple):
    """A piece of a file, compressed (and sealed) by itself, in a pack.

    Attributes:
        backup: id of the backup whose pack it is.
        pack: number of the pack.
        offset: first byte in the pack.
        length: stored bytes.
        raw: bytes of the content.
        sha256: of the content, hexadecimal.
    """

    backup: str
    pack: int
    offset: int
    length: int
    raw: int
    sha256: str


@dataclass(frozen=True)
class Member:
    """One file, link or directory.

    Attributes:
        path: below `data/` (the data directory; tablespaces as `data/pg_tblspc/<oid>/...`) or `configuration/`;
            of a dump below `dump/`.
        type: `file`, `link` or `directory`.
        mode: permission bits.
        size: bytes of a file.
        mtime: seconds since the epoch.
        target: of a link.
        frames: of a file, in order.
    """

    path: str
    type: str
    mode: int
    size: int
    mtime: int
    target: str = ""
    frames: tuple[Frame, ...] = ()

    def line(self) -> str:
        """As a line of the index."""
        data = {
            "path": self.path,
            "type": self.type,
            "mode": f"{self.mode:04o}",
            "size": self.size,
            "mtime": self.mtime,
        }
        if self.target:
            data["target"] = self.target
        if self.type == "file":
            data["frames"] = [list(frame) for frame in self.frames]
        return json.dumps(data, separators=(",", ":")) + "\n"

    @classmethod
    def parse(cls, line: str) -> Member:
        """Raises ValueError when the line is not one of an index, or leads out of the backup's own directories."""
        try:
            data = json.loads(line)
            member = cls(
                path=data["path"],
                type=data["type"],
                mode=int(data["mode"], 8),
                size=data["size"],
                mtime=data["mtime"],
                target=data.get("target", ""),
                frames=tuple(Frame(*frame) for frame in data.get("frames", ())),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a line of an index: {error}") from None
        if not member.path.startswith((DATA, CONFIGURATION, DUMP)) or ".." in member.path.split("/"):
            raise ValueError(f"an index that writes to {member.path!r}")
        if sum(frame.raw for frame in member.frames) != member.size:
            raise ValueError(f"the frames of {member.path} do not add up to its size")
        return member

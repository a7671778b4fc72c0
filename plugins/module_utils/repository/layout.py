# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The names of objects in a repository (docs/repository-format.md). Everything is written once; nothing is renamed.

`<system>` is the system identifier: after a major upgrade or a new initdb the repository has another one beside the
old, so that neither names nor timelines of two clusters can meet.
"""

from __future__ import annotations

import re

FORMAT = 1
REPOSITORY = "repository.json"

_WAL_OBJECT = re.compile(r"(?P<name>[0-9A-Za-z.]{1,64})-(?P<sha256>[0-9a-f]{64})\.zst(?P<sealed>\.sealed)?")


def key_object(key_id: str) -> str:
    """A data key, encrypted for the repository's recipients."""
    return f"keys/{key_id}.gpg"


def system_object(system: int) -> str:
    return f"{system}/system.json"


def wal_prefix(system: int) -> str:
    return f"{system}/wal/"


def timeline_prefix(system: int, timeline: int) -> str:
    return f"{system}/wal/{timeline:08X}/"


def wal_directory(system: int, name: str) -> str:
    """Segments, partial segments and labels lie below timeline and log file; histories below `history/`."""
    if name.endswith(".history"):
        return f"{system}/wal/history/"
    return f"{system}/wal/{name[:8]}/{name[8:16]}/"


def wal_object(system: int, name: str, sha256: str, *, sealed: bool) -> str:
    """The content's hash is part of the name: two contents can never overwrite each other.

    Args:
        name: as PostgreSQL calls the file.
        sha256: of the raw content, hexadecimal.
        sealed: whether it is encrypted.
    """
    return f"{wal_directory(system, name)}{name}-{sha256}.zst{'.sealed' if sealed else ''}"


def wal_claim(system: int, name: str) -> str:
    """The object that says which content owns a name; whoever creates it first, wins."""
    return f"{wal_directory(system, name)}{name}-claim"


def parse_wal_object(key: str) -> tuple[str, str] | None:
    """(name, sha256) of a WAL object's key; None for a claim or anything else."""
    match = _WAL_OBJECT.fullmatch(key.rpartition("/")[2])
    return (match["name"], match["sha256"]) if match else None


def catalog_prefix(system: int) -> str:
    return f"{system}/catalog/"


def catalog_object(system: int, backup: str) -> str:
    """Written last: what is not in the catalogue is no backup."""
    return f"{system}/catalog/{backup}.json"


def backup_prefix(system: int, backup: str) -> str:
    """Everything that a backup wrote itself, but for its catalogue entry."""
    return f"{system}/backup/{backup}/"


def begun_object(system: int, backup: str) -> str:
    """Written first: says that a backup runs and which other one it uses. Removed together with the catalogue entry."""
    return f"{system}/backup/{backup}/begun.json"


def entry_object(system: int, backup: str) -> str:
    """A copy of the catalogue entry, written just before it: from it a lost one is made again."""
    return f"{system}/backup/{backup}/entry.json"


def pack_object(system: int, backup: str, number: int) -> str:
    return f"{system}/backup/{backup}/pack-{number:06d}"


def index_object(system: int, backup: str, number: int) -> str:
    return f"{system}/backup/{backup}/index-{number:06d}"


def pin_object(system: int, backup: str) -> str:
    return f"{system}/pin/{backup}.json"


def record_prefix(system: int, what: str) -> str:
    """Records of `verification` or `drill` runs."""
    return f"{system}/{what}/"


def record_object(system: int, what: str, backup: str, moment: str) -> str:
    return f"{system}/{what}/{backup}/{moment}.json"


def horizon_prefix(system: int) -> str:
    """Marks that retention leaves: before a timeline's highest one its WAL may be missing on purpose."""
    return f"{system}/horizon/"


def horizon_object(system: int, timeline: int, number: int) -> str:
    """Args: number: of the segment, counted from the beginning of the write-ahead log."""
    return f"{system}/horizon/{timeline:08X}/{number:020d}"

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the repository says about each backup: the entry in its catalogue, and records about it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record


@dataclass(frozen=True)
class Tablespace(Record):
    """A tablespace outside the data directory.

    Attributes:
        oid: its object id, also the name of its link below pg_tblspc.
        location: directory on the host that was backed up.
        size: estimated bytes.
    """

    oid: int
    location: str
    size: int = 0


@dataclass(frozen=True)
class Backup(Record):
    """A complete base backup.

    Attributes:
        id: `YYYYMMDD-HHMMSS` (UTC, when it began) and `F` or `I`.
        system: system identifier, as text because JSON readers round large numbers.
        major: PostgreSQL's major version.
        timeline: it was taken on.
        start_lsn: where replay begins.
        stop_lsn: replay must pass this before the copy is consistent.
        start_time: seconds since the epoch, by the database host's clock.
        stop_time: likewise.
        incremental: whether frames of earlier backups were used.
        source: `primary` or `standby`.
        host: name of the host it was taken on.
        segment_size: bytes of a WAL segment.
        size: bytes of all files.
        sent: bytes that this backup added to the repository.
        files: number of files.
        index: SHA-256 of each part of the index, in order.
        packs: backup id -> numbers of its packs that this backup needs (its own and earlier ones').
        tablespaces: outside the data directory.
        settings: of the server, those that a restored one must match.
        configuration: whether `/etc/postgresql/...` is included.
        tool: version of the engine.
    """

    id: str
    system: str
    major: int
    timeline: int
    start_lsn: Lsn
    stop_lsn: Lsn
    start_time: float
    stop_time: float
    incremental: bool
    source: str
    host: str
    segment_size: int
    size: int
    sent: int
    files: int
    index: tuple[str, ...]
    packs: Mapping[str, tuple[int, ...]]
    tablespaces: tuple[Tablespace, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    configuration: bool = False
    tool: str = ""


@dataclass(frozen=True)
class Verification(Record):
    """The result of checking a backup: by reading all of it, or by a restore drill.

    Attributes:
        backup: id.
        how: `read` or `drill`.
        time: seconds since the epoch.
        good: whether everything was as it should be.
        message: what was found, one sentence.
        figures: measured values, such as seconds and bytes.
    """

    backup: str
    how: str
    time: float
    good: bool
    message: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


class Judged:
    """What is listed with its newest verification, if there was one."""

    verified: Verification | None

    @property
    def bad(self) -> bool:
        return self.verified is not None and not self.verified.good

    @property
    def good(self) -> bool:
        return self.verified is not None and self.verified.good


@dataclass(frozen=True)
class Listed(Judged):
    """A backup with what is known about it.

    Attributes:
        backup: the catalogue entry.
        pinned: reason why it is kept for ever; None when it is not.
        verified: the newest verification; None when there was none.
    """

    backup: Backup
    pinned: str | None = None
    verified: Verification | None = None

    @property
    def id(self) -> str:
        return self.backup.id

    @property
    def stop_time(self) -> float:
        return self.backup.stop_time


def new_id(start_time: float, *, incremental: bool) -> str:
    """The id of a backup that begins now; it sorts by time."""
    return f"{utc(start_time):%Y%m%d-%H%M%S}{'I' if incremental else 'F'}"


def utc(moment: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(moment, tz=datetime.UTC)


def shown(moment: float) -> str:
    """A moment for people: `2026-03-01 02:00:05 UTC`."""
    return f"{utc(moment):%Y-%m-%d %H:%M:%S} UTC"

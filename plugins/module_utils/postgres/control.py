# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `pg_controldata` prints, as values. `instance.py` runs it; this only reads the text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record

CLEAN_STATES = frozenset({"shut down", "shut down in recovery"})


@dataclass(frozen=True)
class ControlData(Record):
    """The control file of a data directory.

    Attributes:
        state: as printed: "shut down", "shut down in recovery", "shutting down", "in crash recovery",
            "in archive recovery", "in production", "starting up". After a crash it still says what it said before.
        checkpoint_lsn: START of the latest checkpoint record; its end is further on by more than 100 bytes, how far
            depends on page borders.
        redo_lsn: where recovery from that checkpoint begins.
        timeline: timeline of the latest checkpoint. After a promotion it is behind until the first checkpoint.
        min_recovery_lsn: how far recovery must get before the data are consistent; 0/0 where none is needed.
        min_recovery_timeline: the timeline of that position; 0 where none is needed.
        backup_start_lsn: not 0/0 while the data directory is a base backup that has not become consistent yet.
        checkpoint_time: ISO 8601 in UTC.
        wal_segment_size: bytes.
    """

    system_identifier: str
    state: str
    checkpoint_lsn: Lsn
    redo_lsn: Lsn
    timeline: int
    prev_timeline: int
    min_recovery_lsn: Lsn
    min_recovery_timeline: int
    backup_start_lsn: Lsn
    backup_end_required: bool
    full_page_writes: bool
    data_checksums: bool
    wal_log_hints: bool
    wal_level: str
    wal_segment_size: int
    control_version: int
    catalog_version: int
    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_transactions: int
    max_locks_per_transaction: int
    checkpoint_time: str | None

    @property
    def shut_down_cleanly(self) -> bool:
        """Whether the server ended by a shutdown checkpoint, as primary or as standby."""
        return self.state in CLEAN_STATES

    @classmethod
    def parse(cls, text: str) -> ControlData:
        """Read the output of `pg_controldata`, run with LC_ALL=C and TZ=UTC (names are translated otherwise).

        Raises:
            ValueError: a line that is needed is missing or unreadable, as after a crash while the file was copied.
        """
        printed = {}
        for line in text.splitlines():
            name, colon, value = line.partition(":")
            if colon:
                printed[name.strip()] = value.strip()
        values: dict[str, Any] = {}
        for field, (name, read) in _LINES.items():
            if name not in printed:
                raise ValueError(f"pg_controldata did not print {name!r}")
            try:
                values[field] = read(printed[name])
            except ValueError as error:
                raise ValueError(f"pg_controldata printed {name!r} as {printed[name]!r}") from error
        return cls(**values)


def _on(text: str) -> bool:
    return text in ("on", "yes")


def _time(text: str) -> str | None:
    # strftime's %c in the C locale. A control file that was never checkpointed prints an epoch or nothing.
    if not text:
        return None
    return datetime.strptime(text, "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC).isoformat()


_LINES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "system_identifier": ("Database system identifier", str),
    "state": ("Database cluster state", str),
    "checkpoint_lsn": ("Latest checkpoint location", Lsn.parse),
    "redo_lsn": ("Latest checkpoint's REDO location", Lsn.parse),
    "timeline": ("Latest checkpoint's TimeLineID", int),
    "prev_timeline": ("Latest checkpoint's PrevTimeLineID", int),
    "min_recovery_lsn": ("Minimum recovery ending location", Lsn.parse),
    "min_recovery_timeline": ("Min recovery ending loc's timeline", int),
    "backup_start_lsn": ("Backup start location", Lsn.parse),
    "backup_end_required": ("End-of-backup record required", _on),
    "full_page_writes": ("Latest checkpoint's full_page_writes", _on),
    "data_checksums": ("Data page checksum version", lambda text: int(text) > 0),
    "wal_log_hints": ("wal_log_hints setting", _on),
    "wal_level": ("wal_level setting", str),
    "wal_segment_size": ("Bytes per WAL segment", int),
    "control_version": ("pg_control version number", int),
    "catalog_version": ("Catalog version number", int),
    "max_connections": ("max_connections setting", int),
    "max_worker_processes": ("max_worker_processes setting", int),
    "max_wal_senders": ("max_wal_senders setting", int),
    "max_prepared_transactions": ("max_prepared_xacts setting", int),
    "max_locks_per_transaction": ("max_locks_per_xact setting", int),
    "checkpoint_time": ("Time of latest checkpoint", _time),
}

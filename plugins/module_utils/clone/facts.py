# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a clone is asked for, and everything that is read before it is decided: frozen records that go through JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record

# Both lie beside the data directory, on its filesystem unless that is a mount point.
COPY_SUFFIX = ".dbops-clone"
MARKER_SUFFIX = ".dbops-clone.json"


@dataclass(frozen=True)
class Source(Record):
    """How to reach the running member that is cloned.

    Attributes:
        user: role with REPLICATION: copies, and later streams (it is written into primary_conninfo).
        query_user: role with pg_monitor for the checks before the copy, in the database `dbname`.
        passfile: in PostgreSQL's format, readable by the owner of the data directory; holds both roles' passwords.
    """

    host: str
    port: int = 5432
    user: str = "fleet_replication"
    query_user: str = "fleet_operator"
    dbname: str = "postgres"
    sslmode: str = "verify-full"
    sslrootcert: str | None = None
    passfile: str | None = None


@dataclass(frozen=True)
class CloneRequest(Record):
    """What is asked for.

    Attributes:
        data_directory: absolute, links resolved.
        version: major version of PostgreSQL.
        member: name of the new replica in the cluster; becomes its application_name.
        slot: physical slot on the source that the replica will use; None for none.
        tablespaces: directory on the source to directory here, for those that shall lie elsewhere than on the source.
        max_rate: as pg_basebackup takes it, such as "100M" per second.
        stall_timeout_seconds: silence of the source after which the copy is given up.
        replace: clone beside a stopped data directory and keep that one as `<data_directory>.old-<timestamp>`.
            Only for operations that have decided this themselves, such as rejoin; no module offers it as an option.
    """

    data_directory: str
    version: int
    source: Source
    member: str
    bin_directory: str
    slot: str | None = None
    expected_system_identifier: str | None = None
    recovery_min_apply_delay: str | None = None
    tablespaces: Mapping[str, str] = field(default_factory=dict)
    max_rate: str | None = None
    checkpoint: str = "fast"
    verify: bool = True
    stall_timeout_seconds: int = 600
    owner: str = "postgres"
    group: str = "postgres"
    replace: bool = False

    @property
    def copy_directory(self) -> str:
        """Where a copy grows that is renamed into place at the end."""
        return self.data_directory + COPY_SUFFIX

    @property
    def marker_path(self) -> str:
        return self.data_directory + MARKER_SUFFIX


@dataclass(frozen=True)
class Process(Record):
    """A process that cannot be mistaken for a later one with the same id: start time in clock ticks since boot."""

    pid: int
    start_ticks: int
    boot_id: str


@dataclass(frozen=True)
class Failure(Record):
    """Why a clone ended early."""

    message: str
    remedy: str


@dataclass(frozen=True)
class Marker(Record):
    """What is written beside the data directory before the first byte of a clone, and kept up to date.

    Attributes:
        directory: where the copy is written: `<data_directory>.dbops-clone`, or in place the data directory itself.
        phase: preparing, copying, verifying, placing, finished or failed.
        copied: pg_basebackup has ended well and flushed everything; what remains can be carried on by a later run.
        copy_started_at: when the first bytes came, seconds since the epoch, as are the other times.
        slot_created: the slot on the source was made by this clone, so that a failure drops it.
        tablespace_directories: were absent or empty before, so that what is in them is this clone's.
    """

    operation_id: str
    request: CloneRequest
    directory: str
    phase: str
    worker: Process
    system_identifier: str
    started_at: float
    updated_at: float
    copied: bool = False
    copy_started_at: float | None = None
    finished_at: float | None = None
    bytes_done: int = 0
    bytes_total: int = 0
    slot_created: bool = False
    tablespace_directories: tuple[str, ...] = ()
    kept_directory: str | None = None
    failure: Failure | None = None

    @property
    def unfinished(self) -> bool:
        return self.phase != "finished"


@dataclass(frozen=True)
class DirectoryState(Record):
    """A directory that may hold a data directory.

    Attributes:
        entries: the first few names in it; empty when it is absent or empty.
        used: a server has been started on it (pg_basebackup never copies postmaster.pid and postmaster.opts).
        running: a server runs on it now.
        version: from PG_VERSION; system_identifier: from its control file.
    """

    exists: bool = False
    entries: tuple[str, ...] = ()
    used: bool = False
    running: bool = False
    version: str | None = None
    system_identifier: str | None = None


@dataclass(frozen=True)
class Target(Record):
    """The place of the new data directory, as found."""

    data: DirectoryState
    copy: DirectoryState
    parent_exists: bool = True
    grandparent_exists: bool = True
    mount_point: bool = False
    marker: Marker | None = None
    marker_problem: str | None = None
    worker_alive: bool = False
    missing_program: str | None = None
    owner_known: bool = True


@dataclass(frozen=True)
class Place(Record):
    """A directory that bytes will go to.

    Attributes:
        device: identifies the filesystem; free_bytes: what its owner may still write there.
        reclaimable_bytes: taken by remains of an earlier clone, free once they are removed.
        entries: names in it that no earlier clone of ours has put there.
    """

    device: int
    mount_point: str
    free_bytes: int
    reclaimable_bytes: int = 0
    entries: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tablespace(Record):
    """A tablespace of the source other than pg_default and pg_global."""

    name: str
    location: str
    size_bytes: int


@dataclass(frozen=True)
class SlotState(Record):
    """The replication slot on the source that the replica shall use."""

    slot_type: str
    active: bool
    user: str = ""
    wal_status: str | None = None


@dataclass(frozen=True)
class SourceFacts(Record):
    """The running member that is cloned, as found. Sizes are in bytes."""

    system_identifier: str
    timeline: int
    version_num: int
    in_recovery: bool
    streaming: bool
    wal_level: str
    max_wal_senders: int
    used_wal_senders: int
    max_replication_slots: int
    used_replication_slots: int
    wal_segment_size: int
    max_wal_size: int
    size_bytes: int
    tablespaces: tuple[Tablespace, ...] = ()
    slot: SlotState | None = None

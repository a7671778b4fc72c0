# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a member of a cluster is right now, as frozen records. `read.py` fills them, every plan is made from them.

A value is None where it was not, or could not be, read: "not known" is never the same as zero or false.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.control import ControlData
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import TimelineHistory

STATES = ("absent", "foreign", "stopped", "starting", "running", "unreachable")

# The settings that checks and plans ask for. Not every version has all of them.
SETTINGS = (
    "archive_mode",
    "cluster_name",
    "data_checksums",
    "default_transaction_read_only",
    "full_page_writes",
    "hot_standby",
    "hot_standby_feedback",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "max_wal_senders",
    "max_worker_processes",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_min_apply_delay",
    "recovery_target_timeline",
    "restart_after_crash",
    "ssl",
    "superuser_reserved_connections",
    "sync_replication_slots",
    "synchronized_standby_slots",
    "synchronous_commit",
    "synchronous_standby_names",
    "wal_keep_size",
    "wal_level",
    "wal_log_hints",
    "wal_receiver_timeout",
    "wal_retrieve_retry_interval",
    "wal_segment_size",
    "wal_sender_timeout",
)


@dataclass(frozen=True)
class WalReceiver(Record):
    """A standby's walreceiver process (pg_stat_wal_receiver).

    Attributes:
        status: "streaming", "waiting", "starting", ... as PostgreSQL says.
        sender_host: as in primary_conninfo: a name or an address.
        timeline: timeline of the last flushed write-ahead log.
        last_message_age_seconds: since the last message came from the sender; its wal_sender_timeout makes it send one
            at least every half of that, so a young message proves that the sender lives.
        latest_end_lsn: end of the sender's write-ahead log as it last reported it.
    """

    status: str
    sender_host: str | None = None
    sender_port: int | None = None
    slot_name: str | None = None
    written_lsn: Lsn | None = None
    flushed_lsn: Lsn | None = None
    latest_end_lsn: Lsn | None = None
    timeline: int | None = None
    last_message_age_seconds: float | None = None


@dataclass(frozen=True)
class WalSender(Record):
    """A walsender process (pg_stat_replication): a standby, a pg_receivewal, a subscriber or a running base backup.

    Attributes:
        pid: for pg_terminate_backend.
        slot_name: the slot that it holds.
        state: "streaming", "catchup", "startup", "backup", "stopping".
        reply_age_seconds: since the standby's last status message.
        *_lag_seconds: PostgreSQL's own measure of recent write-ahead log; None when idle.
    """

    application_name: str
    pid: int | None = None
    client_addr: str | None = None
    user: str | None = None
    slot_name: str | None = None
    state: str | None = None
    sync_state: str | None = None
    sync_priority: int | None = None
    sent_lsn: Lsn | None = None
    write_lsn: Lsn | None = None
    flush_lsn: Lsn | None = None
    replay_lsn: Lsn | None = None
    write_lag_seconds: float | None = None
    flush_lag_seconds: float | None = None
    replay_lag_seconds: float | None = None
    reply_age_seconds: float | None = None


@dataclass(frozen=True)
class Slot(Record):
    """A replication slot.

    Attributes:
        slot_type: "physical" or "logical".
        retained_bytes: write-ahead log kept for it, up to the member's own position.
        safe_wal_bytes: how much more can be written before it is lost; None without max_slot_wal_keep_size.
        wal_status: "reserved", "extended", "unreserved", "lost"; None for a slot that never reserved anything.
        failover, synced, invalidation_reason: PostgreSQL 17 and newer, None before.
        inactive_seconds: since nobody uses it; PostgreSQL 17 and newer.
    """

    name: str
    slot_type: str
    active: bool = False
    active_pid: int | None = None
    restart_lsn: Lsn | None = None
    confirmed_flush_lsn: Lsn | None = None
    retained_bytes: int | None = None
    safe_wal_bytes: int | None = None
    wal_status: str | None = None
    temporary: bool = False
    database: str | None = None
    plugin: str | None = None
    failover: bool | None = None
    synced: bool | None = None
    invalidation_reason: str | None = None
    inactive_seconds: float | None = None


@dataclass(frozen=True)
class Archiver(Record):
    """The archiver process (pg_stat_archiver) of a member with archive_mode on.

    Attributes:
        ready_count: finished segments that still wait to be archived.
        failing: the last attempt failed.
    """

    ready_count: int | None = None
    archived_count: int | None = None
    last_archived_wal: str | None = None
    last_archived_age_seconds: float | None = None
    failed_count: int | None = None
    last_failed_wal: str | None = None
    last_failed_age_seconds: float | None = None
    failing: bool = False


@dataclass(frozen=True)
class Activity(Record):
    """What would be in the way of a stop or a pause.

    Attributes:
        clients: client sessions other than the reader's own.
        idle_in_transaction: of these, the ones that hold a transaction open without working.
        oldest_transaction_seconds: 0 without open transactions.
        prepared_transactions: of two-phase commit.
        base_backups: running ones (pg_stat_progress_basebackup).
    """

    clients: int = 0
    idle_in_transaction: int = 0
    oldest_transaction_seconds: float = 0.0
    prepared_transactions: int = 0
    base_backups: int = 0


@dataclass(frozen=True)
class MemberFacts(Record):
    """One member of a cluster.

    Attributes:
        name: the inventory's name.
        state: one of STATES. "absent": no data directory or an empty one. "foreign": data that are not of this fleet.
            "stopped": data, and no server answers. "starting": a server answers but takes no sessions yet or any more
            (error says why). "running". "unreachable": the host, or a server that should answer, does not.
        error: why the facts are not complete, as a sentence; None where they are.
        timeline: of a primary the one it writes; of a standby the newest one it has write-ahead log of; of a stopped
            server the newest one its control file names.
        current_lsn: a primary's write position.
        receive_lsn: up to where a standby's walreceiver has flushed; None after a restart until streaming starts,
            although more may be on disk.
        replay_lsn: up to where a standby has replayed, as visible to queries.
        replay_lag_seconds: age of the last replayed commit; 0 where everything received is replayed.
        apply_delay_seconds: recovery_min_apply_delay.
        settings: the ones named in SETTINGS that this version has, in PostgreSQL's printed form with unit, without
            passwords.
        pending_restart: settings changed in files that need a restart.
        control: only from a reading on the host itself.
        history: of `timeline`; None where it could not be read.
        orchestrators: active systemd units that manage PostgreSQL themselves, such as "patroni"; only read on the host.
        clock_offset_seconds: this server's clock minus the reader's.
    """

    name: str
    address: str
    port: int = 5432
    state: str = "unreachable"
    error: str | None = None
    system_identifier: str | None = None
    version_num: int | None = None
    timeline: int | None = None
    in_recovery: bool | None = None
    current_lsn: Lsn | None = None
    receive_lsn: Lsn | None = None
    replay_lsn: Lsn | None = None
    replay_paused: bool | None = None
    replay_lag_seconds: float | None = None
    apply_delay_seconds: float | None = None
    receiver: WalReceiver | None = None
    senders: tuple[WalSender, ...] = ()
    slots: tuple[Slot, ...] = ()
    archiver: Archiver | None = None
    activity: Activity | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    pending_restart: tuple[str, ...] = ()
    control: ControlData | None = None
    history: TimelineHistory | None = None
    orchestrators: tuple[str, ...] = ()
    started_seconds_ago: float | None = None
    clock_offset_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.state not in STATES:
            raise ValueError(f"{self.name}: state {self.state!r} is not one of {', '.join(STATES)}")

    @property
    def major_version(self) -> int | None:
        """15, 17, ..."""
        return None if self.version_num is None else self.version_num // 10000

    @property
    def is_primary(self) -> bool:
        """Whether it runs and takes writes (standbys are in recovery)."""
        return self.state == "running" and self.in_recovery is False

    @property
    def is_standby(self) -> bool:
        """Whether it runs in recovery."""
        return self.state == "running" and self.in_recovery is True

    @property
    def position(self) -> Lsn | None:
        """The furthest write-ahead log it is known to have: a primary's own, a standby's received or replayed."""
        if self.in_recovery is False:
            return self.current_lsn
        known = [lsn for lsn in (self.receive_lsn, self.replay_lsn) if lsn is not None]
        return max(known, default=None)

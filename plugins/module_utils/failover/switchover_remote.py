# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The candidate and the siblings, over SQL from the old primary's host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_ports import PortError, Position
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_request import Place
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_steps import pointed_at
from ansible_collections.dbops.fleet.plugins.module_utils.postgres import session
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import TimelineHistory, history_file_name

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

_POSITION = """
SELECT pg_is_in_recovery(),
       CASE WHEN pg_is_in_recovery()
            THEN greatest((SELECT timeline_id FROM pg_control_checkpoint()),
                          (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
                          (SELECT received_tli FROM pg_stat_wal_receiver))
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int END,
       CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
            ELSE pg_current_wal_lsn() END,
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
       coalesce((SELECT status = 'streaming' FROM pg_stat_wal_receiver), false)"""


def read_position(connection: psycopg.Connection[Any]) -> Position:
    """Where a server is."""
    row: Any = connection.execute(_POSITION).fetchone()
    return Position(row[0], row[1], _lsn(row[2]), _lsn(row[3]), row[4])


def configure_session(connection: psycopg.Connection[Any], settings: Mapping[str, str | None]) -> None:
    """ALTER SYSTEM SET (None: RESET) for those that ALTER SYSTEM has not set so already, then reload."""
    from psycopg import sql

    changed = False
    for name, value in settings.items():
        if _override(connection, name) == value:
            continue
        if value is None:
            connection.execute(sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(name)))
        else:
            connection.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        changed = True
    if changed:
        connection.execute("SELECT pg_reload_conf()")


def _override(connection: psycopg.Connection[Any], name: str) -> str | None:
    row = connection.execute(
        "SELECT current_setting(name) FROM pg_settings WHERE name = %s AND sourcefile LIKE %s",
        (name, "%/postgresql.auto.conf"),
    ).fetchone()
    return row[0] if row else None


def _lsn_of(history: TimelineHistory) -> Lsn:
    return Lsn(0) if history.switchpoint is None else history.switchpoint


def _lsn(text: str | None) -> Lsn:
    return Lsn(0) if text is None else Lsn.parse(text)


class Remote:
    """See `switchover_ports.RemoteServer`. A session that broke is opened again by the next call."""

    def __init__(self, place: Place, conninfo: str) -> None:
        self.place = place
        self.conninfo = conninfo
        self._connection: psycopg.Connection[Any] | None = None

    def open(self) -> None:
        """Open the session now rather than when it is needed."""
        self._sql(lambda connection: connection.execute("SELECT 1"))

    def close(self) -> None:
        """Close the session."""
        if self._connection is not None:
            self._connection.close()

    def _sql(self, work: Callable[[psycopg.Connection[Any]], T], timeout: float = 5.0) -> T:
        driver = session.require_psycopg()
        try:
            if self._connection is None or self._connection.closed:
                self._connection = session.connect_remote(self.conninfo, statement_timeout=0)
            with session.deadline(self._connection, timeout):
                return work(self._connection)
        except (driver.Error, FleetError) as error:
            raise PortError(f"{self.place.name}: {' '.join(str(error).split())}") from error

    def position(self) -> Position:
        """Where it is."""
        return self._sql(read_position, timeout=2.0)

    def in_recovery(self) -> bool:
        """Whether it is a standby."""
        row: Any = self._sql(lambda connection: connection.execute("SELECT pg_is_in_recovery()").fetchone(), 2.0)
        return bool(row[0])

    def setting(self, name: str) -> str:
        """The value in force."""
        row = self._sql(lambda connection: connection.execute("SELECT current_setting(%s)", (name,)).fetchone())
        return str(row[0]) if row else ""

    def override(self, name: str) -> str | None:
        """What ALTER SYSTEM has set."""
        return self._sql(lambda connection: _override(connection, name))

    def configure(self, settings: Mapping[str, str | None]) -> None:
        """ALTER SYSTEM and reload."""
        self._sql(lambda connection: configure_session(connection, settings))

    def follow(self, place: Place) -> None:
        """Only host and port of its primary_conninfo change; since PostgreSQL 13 a reload is enough."""

        def work(connection: psycopg.Connection[Any]) -> None:
            row = connection.execute("SELECT current_setting('primary_conninfo')").fetchone()
            conninfo = pointed_at(row[0] if row else "", place.address, place.port)
            configure_session(connection, {"primary_conninfo": conninfo})

        self._sql(work)

    def slots(self) -> Sequence[str]:
        """Physical ones."""
        query = "SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'physical'"
        return [row[0] for row in self._sql(lambda connection: connection.execute(query).fetchall())]

    def create_slot(self, name: str) -> None:
        """It reserves write-ahead log at once."""
        if name not in self.slots():
            self._sql(lambda c: c.execute("SELECT pg_create_physical_replication_slot(%s, true)", (name,)))

    def drop_slot(self, name: str) -> None:
        """Nothing where it does not exist or is in use."""
        query = """
            SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
             WHERE slot_type = 'physical' AND NOT active AND slot_name = %s"""
        self._sql(lambda connection: connection.execute(query, (name,)))

    def checkpoint(self) -> None:
        """CHECKPOINT (on a standby a restartpoint), however long it takes."""
        self._sql(lambda connection: connection.execute("CHECKPOINT"), timeout=3600.0)

    def promote(self) -> None:
        """pg_promote without waiting, which would poll every 100 ms."""
        self._sql(lambda connection: connection.execute("SELECT pg_promote(false)"), timeout=2.0)

    def switchpoint(self, timeline: int) -> Lsn:
        """From its history file."""
        name = f"pg_wal/{history_file_name(timeline)}"
        query = "SELECT convert_from(pg_read_binary_file(%s, 0, 1048576, true), 'UTF8')"
        row = self._sql(lambda connection: connection.execute(query, (name,)).fetchone())
        if row is None or row[0] is None:
            raise PortError(f"{self.place.name} has no history of timeline {timeline}")
        return _lsn_of(TimelineHistory.parse(timeline, row[0]))

    def write(self) -> None:
        """A logical message of no meaning: it is write-ahead log like any other, and no table is needed for it."""

        def work(connection: psycopg.Connection[Any]) -> None:
            with connection.transaction():
                connection.execute("SET LOCAL synchronous_commit = local")
                connection.execute("SELECT pg_logical_emit_message(true, 'dbops.fleet', 'switchover')")

        self._sql(work)

    def standbys(self) -> Sequence[str]:
        """Application names that stream."""
        query = "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'"
        return [row[0] for row in self._sql(lambda connection: connection.execute(query).fetchall())]

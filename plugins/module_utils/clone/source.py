# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the member that is cloned, and makes and drops the slot on it. The only file here that speaks to a server."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ansible_collections.dbops.fleet.plugins.module_utils.clone.explain import connection_failure
from ansible_collections.dbops.fleet.plugins.module_utils.clone.facts import (
    SlotState,
    Source,
    SourceFacts,
    Tablespace,
)
from ansible_collections.dbops.fleet.plugins.module_utils.clone.settings import conninfo
from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed, Refused

if TYPE_CHECKING:
    import psycopg

CONNECT_TIMEOUT_SECONDS = 10
# Sizes are read file by file: a large database on slow disks takes its time.
STATEMENT_TIMEOUT_MS = 300_000

# Columns have the names of the fields of SourceFacts.
_FACTS = """
SELECT current_setting('server_version_num')::int AS version_num,
       pg_is_in_recovery() AS in_recovery,
       EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming') AS streaming,
       current_setting('wal_level') AS wal_level,
       current_setting('max_wal_senders')::int AS max_wal_senders,
       (SELECT count(*) FROM pg_stat_replication)::int AS used_wal_senders,
       current_setting('max_replication_slots')::int AS max_replication_slots,
       (SELECT count(*) FROM pg_replication_slots)::int AS used_replication_slots,
       pg_size_bytes(current_setting('wal_segment_size')) AS wal_segment_size,
       pg_size_bytes(current_setting('max_wal_size')) AS max_wal_size,
       (SELECT sum(pg_tablespace_size(oid)) FROM pg_tablespace
         WHERE spcname IN ('pg_default', 'pg_global'))::bigint AS size_bytes
"""
# A location that is no absolute path is an in-place tablespace: it is copied with the data directory.
_TABLESPACES = """
SELECT spcname, pg_tablespace_location(oid), pg_tablespace_size(oid)
  FROM pg_tablespace
 WHERE pg_tablespace_location(oid) LIKE '/%'
 ORDER BY spcname
"""
_SLOT = """
SELECT slot_type, active, wal_status,
       coalesce(application_name || ' from ' || coalesce(client_addr::text, 'a local socket'), '')
  FROM pg_replication_slots LEFT JOIN pg_stat_replication ON pid = active_pid
 WHERE slot_name = %s
"""


def read_source(source: Source, slot: str | None, *, own_slot_seconds: float = 0.0) -> SourceFacts:
    """The member that is cloned: as the copying role by the replication protocol, then as the asking role by SQL.

    Args:
        slot: the slot that the replica shall use.
        own_slot_seconds: how long to wait for a slot in use to be free, because a killed clone of ours held it and
            the server has not noticed yet.

    Raises:
        Refused: it cannot be reached or does not let one of the two roles in.
    """
    try:
        import psycopg.rows
    except ImportError as error:
        raise Refused("The Python library psycopg 3 is missing", remedy="Install python3-psycopg.") from error
    with _connect(source, source.user, replication=True) as connection:
        (identity,) = connection.execute("IDENTIFY_SYSTEM").fetchall()
    with _connect(source, source.query_user) as connection, _reading(source):
        (facts,) = connection.cursor(row_factory=psycopg.rows.dict_row).execute(_FACTS).fetchall()
        tablespaces = tuple(Tablespace(*row) for row in connection.execute(_TABLESPACES).fetchall())
        state = _read_slot(connection, slot)
        deadline = time.monotonic() + own_slot_seconds
        while state is not None and state.active and time.monotonic() < deadline:
            time.sleep(0.5)
            state = _read_slot(connection, slot)
    return SourceFacts(str(identity[0]), int(identity[1]), tablespaces=tablespaces, slot=state, **facts)


def create_slot(source: Source, slot: str, *, renew: bool) -> None:
    """Make the replica's slot and have it keep WAL from now on; `renew` drops our own earlier one before.

    Raises:
        OperationFailed: the server would not.
    """
    import psycopg

    try:
        with _connect(source, source.user, replication=True) as connection:
            if renew:
                connection.execute(_command("DROP_REPLICATION_SLOT", slot))
            connection.execute(_command("CREATE_REPLICATION_SLOT", slot, "PHYSICAL RESERVE_WAL"))
    except psycopg.Error as error:
        raise OperationFailed(
            f"{source.host} did not create the replication slot {slot}: {' '.join(str(error).split())}",
            remedy="Correct the cause and run again.",
        ) from error


def drop_slot(source: Source, slot: str) -> bool:
    """Drop the slot that a failed clone of ours made, so that it keeps no WAL; False if that was not possible."""
    import psycopg

    try:
        with _connect(source, source.user, replication=True) as connection:
            # WAIT: the walsender of the copy that has just ended may still hold it for a moment.
            connection.execute(_command("DROP_REPLICATION_SLOT", slot, "WAIT"))
    except (psycopg.Error, Refused):
        return False
    return True


@contextlib.contextmanager
def _connect(source: Source, user: str, *, replication: bool = False) -> Iterator[psycopg.Connection[Any]]:
    import psycopg

    text = conninfo(
        host=source.host,
        port=source.port,
        user=user,
        dbname=None if replication else source.dbname,
        replication="true" if replication else None,
        sslmode=source.sslmode,
        sslrootcert=source.sslrootcert,
        passfile=source.passfile,
        application_name="dbops clone",
        client_encoding="UTF8",
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        options=None if replication else f"-c statement_timeout={STATEMENT_TIMEOUT_MS}",
    )
    try:
        connection = psycopg.connect(text, autocommit=True)
    except psycopg.Error as error:
        failure = connection_failure(str(error), source, user)
        raise Refused(failure.message, remedy=failure.remedy) from error
    with contextlib.closing(connection):
        yield connection


@contextlib.contextmanager
def _reading(source: Source) -> Iterator[None]:
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        raise Refused(
            f"{source.host} did not answer {source.query_user}: {' '.join(str(error).split())}",
            remedy=f"The role needs the rights of pg_monitor: GRANT pg_monitor TO {source.query_user}.",
        ) from error


def _read_slot(connection: psycopg.Connection[Any], slot: str | None) -> SlotState | None:
    row = connection.execute(_SLOT, (slot,)).fetchone() if slot is not None else None
    return SlotState(slot_type=row[0], active=row[1], wal_status=row[2], user=row[3]) if row is not None else None


def _command(command: str, slot: str, options: str = "") -> bytes:
    """A replication command on a slot. It takes no parameters, so the name must be one that needs no escaping."""
    if not re.fullmatch(r"[a-z0-9_]{1,63}", slot):
        raise Refused(f"{slot} is no name for a replication slot", remedy="Use lower case letters, digits and _ only.")
    return f'{command} "{slot}" {options}'.encode()

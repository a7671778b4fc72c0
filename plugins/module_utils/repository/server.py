# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A connection to the instance on this host, and what the engine asks it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.health import ServerView

CONNECT_TIMEOUT_SECONDS = 10

_VIEW = """
select pg_is_in_recovery() as in_recovery,
       case when pg_is_in_recovery() then (select timeline_id from pg_control_checkpoint())
            else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int end as timeline,
       case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end::text as current_lsn,
       (select setting::bigint from pg_settings where name = 'wal_segment_size') as segment_size,
       current_setting('archive_mode') as archive_mode,
       current_setting('archive_command') as archive_command,
       archived_count, failed_count, last_archived_wal, last_failed_wal,
       extract(epoch from last_archived_time)::float8 as last_archived_time,
       extract(epoch from last_failed_time)::float8 as last_failed_time
  from pg_stat_archiver
"""


@contextmanager
def connected(config: Config, *, database: str = "postgres") -> Iterator[Any]:
    """A psycopg connection in autocommit over the socket.

    Raises:
        OperationFailed: the server does not answer, or an SQL command failed.
    """
    try:
        import psycopg
        from psycopg.rows import dict_row
    except ImportError as error:
        raise OperationFailed(f"Talking to PostgreSQL needs {error.name}", remedy="Install python3-psycopg.") from error
    try:
        with psycopg.connect(
            host=config.socket_directory,
            port=config.port,
            user=config.user,
            dbname=database,
            application_name="dbops",
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            autocommit=True,
            row_factory=dict_row,
        ) as connection:
            yield connection
    except psycopg.Error as error:
        where = f"{config.socket_directory}:{config.port}"
        raise OperationFailed(f"The server at {where}: {' '.join(str(error).split())}") from error


def view(connection: Any) -> ServerView:
    """What the server says of its archiving."""
    row = connection.execute(_VIEW).fetchone()
    return ServerView(**{**row, "current_lsn": Lsn.parse(row["current_lsn"])})


def switch_segment(connection: Any) -> str | None:
    """End the current WAL segment, also on an idle server.

    Returns:
        The name of the segment that will be archived now; None on a standby.
    """
    row = connection.execute("select pg_is_in_recovery() as standby").fetchone()
    if row["standby"]:
        return None
    # Without a record since the last switch, a switch does nothing.
    connection.execute("select pg_create_restore_point('dbops')")
    row = connection.execute("select pg_walfile_name(pg_switch_wal()) as name").fetchone()
    return str(row["name"])

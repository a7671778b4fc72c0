# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one query that reads a member, and how its answer becomes facts. The differences of versions are data here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.conninfo import without_secrets
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import SETTINGS, MemberFacts

# Columns of pg_replication_slots -> first version that has them. Before, the fact is None.
_SLOT_COLUMNS_SINCE = {
    "failover": 17,
    "synced": 17,
    "invalidation_reason": 17,
    "inactive_since": 17,
}

# The newest timeline there is write-ahead log of. For a standby that does not stream there is no function, and its
# control file lags behind: so the names of the files in pg_wal count too (pg_ls_waldir is for pg_monitor).
_TIMELINE = """
    CASE WHEN NOT in_recovery
        THEN ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int
        ELSE greatest(
            (SELECT timeline_id FROM pg_control_checkpoint()),
            (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
            coalesce(
                (SELECT nullif(received_tli, 0) FROM pg_stat_wal_receiver),
                (SELECT max(('x' || substr(name, 1, 8))::bit(32)::int)
                   FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$')))
    END"""

_QUERY = """
WITH self AS (
    SELECT pg_is_in_recovery() AS in_recovery,
           CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_lsn() END AS current_lsn,
           pg_last_wal_receive_lsn() AS receive_lsn,
           pg_last_wal_replay_lsn() AS replay_lsn
)
SELECT json_build_object(
    'system_identifier', (SELECT system_identifier::text FROM pg_control_system()),
    'version_num', current_setting('server_version_num')::int,
    'now', extract(epoch FROM clock_timestamp()),
    'started_seconds_ago', extract(epoch FROM clock_timestamp() - pg_postmaster_start_time()),
    'timeline', {timeline},
    'in_recovery', in_recovery,
    'current_lsn', current_lsn,
    'receive_lsn', CASE WHEN in_recovery THEN receive_lsn END,
    'replay_lsn', CASE WHEN in_recovery THEN replay_lsn END,
    'replay_paused', CASE WHEN in_recovery THEN pg_is_wal_replay_paused() END,
    'replay_lag_seconds', CASE
        WHEN NOT in_recovery THEN NULL
        WHEN receive_lsn IS NOT NULL AND replay_lsn >= receive_lsn THEN 0
        ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END,
    'receiver', (SELECT json_build_object(
            'status', status, 'sender_host', sender_host, 'sender_port', sender_port, 'slot_name', slot_name,
            'written_lsn', written_lsn, 'flushed_lsn', flushed_lsn, 'latest_end_lsn', latest_end_lsn,
            'timeline', received_tli,
            'last_message_age_seconds', extract(epoch FROM clock_timestamp() - last_msg_receipt_time))
        FROM pg_stat_wal_receiver WHERE status IS NOT NULL),
    'senders', coalesce((SELECT json_agg(json_build_object(
            'application_name', application_name, 'pid', pid, 'client_addr', host(client_addr), 'user', usename,
            'slot_name', (SELECT slot_name FROM pg_replication_slots WHERE active_pid = pid),
            'state', state, 'sync_state', sync_state, 'sync_priority', sync_priority,
            'sent_lsn', sent_lsn, 'write_lsn', write_lsn, 'flush_lsn', flush_lsn, 'replay_lsn', replay_lsn,
            'write_lag_seconds', extract(epoch FROM write_lag), 'flush_lag_seconds', extract(epoch FROM flush_lag),
            'replay_lag_seconds', extract(epoch FROM replay_lag),
            'reply_age_seconds', extract(epoch FROM clock_timestamp() - reply_time)) ORDER BY application_name, pid)
        FROM pg_stat_replication), '[]'),
    'slots', coalesce((SELECT json_agg(json_build_object(
            'name', slot_name, 'slot_type', slot_type, 'active', active, 'active_pid', active_pid,
            'restart_lsn', restart_lsn, 'confirmed_flush_lsn', confirmed_flush_lsn,
            'retained_bytes', greatest(0, coalesce(current_lsn, receive_lsn, replay_lsn) - restart_lsn),
            'safe_wal_bytes', safe_wal_size, 'wal_status', wal_status, 'temporary', temporary,
            'database', database, 'plugin', plugin{slot_columns}) ORDER BY slot_name)
        FROM pg_replication_slots), '[]'),
    'archiver', (SELECT json_build_object(
            'archived_count', archived_count, 'last_archived_wal', last_archived_wal,
            'last_archived_age_seconds', extract(epoch FROM clock_timestamp() - last_archived_time),
            'failed_count', failed_count, 'last_failed_wal', last_failed_wal,
            'last_failed_age_seconds', extract(epoch FROM clock_timestamp() - last_failed_time),
            'failing', coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false),
            'ready_count', {ready_count})
        FROM pg_stat_archiver WHERE current_setting('archive_mode') <> 'off'),
    'activity', (SELECT json_build_object(
            'clients', count(*) FILTER (WHERE backend_type = 'client backend'),
            'idle_in_transaction', count(*) FILTER (WHERE state LIKE 'idle in transaction%'),
            'oldest_transaction_seconds', coalesce(extract(epoch FROM clock_timestamp() - min(xact_start)
                FILTER (WHERE backend_type = 'client backend')), 0),
            'prepared_transactions', (SELECT count(*) FROM pg_prepared_xacts),
            'base_backups', (SELECT count(*) FROM pg_stat_progress_basebackup))
        FROM pg_stat_activity WHERE pid <> pg_backend_pid()),
    'settings', (SELECT json_object_agg(name, current_setting(name, true)) FROM pg_settings WHERE name IN ({settings})),
    'apply_delay_seconds',
        (SELECT setting::bigint / 1000.0 FROM pg_settings WHERE name = 'recovery_min_apply_delay'),
    'pending_restart', coalesce(
        (SELECT json_agg(name ORDER BY name) FROM pg_settings WHERE pending_restart), '[]'),
    'may_read_files',
        has_function_privilege('pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean)', 'EXECUTE'))
FROM self
"""

_READY_COUNT = "(SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready')"


@cache
def facts_query(major: int) -> str:
    """The SQL for a server of this major version (14 or newer): one row with one JSON object."""
    columns = [name for name, since in _SLOT_COLUMNS_SINCE.items() if major >= since]
    text = "".join(f", '{name}', {name}" for name in columns if name != "inactive_since")
    if "inactive_since" in columns:
        text += ", 'inactive_seconds', extract(epoch FROM clock_timestamp() - inactive_since)"
    return _QUERY.format(
        timeline=_TIMELINE,
        slot_columns=text,
        ready_count=_READY_COUNT,
        settings=", ".join(f"'{name}'" for name in SETTINGS),
    )


def facts_from_answer(known: MemberFacts, answer: Mapping[str, Any], *, now: float) -> MemberFacts:
    """Facts from the query's JSON object; name, address, control file and the like stay as known.

    Args:
        now: the reader's clock, in seconds since 1970.
    """
    settings = {name: value for name, value in (answer["settings"] or {}).items() if value is not None}
    if settings.get("primary_conninfo"):
        settings["primary_conninfo"] = without_secrets(settings["primary_conninfo"])
    # An account without pg_monitor sees the walsenders of others without their names.
    senders = [{**row, "application_name": row["application_name"] or ""} for row in answer["senders"]]
    read = {**answer, "settings": settings, "senders": senders}
    read["clock_offset_seconds"] = round(answer["now"] - now, 3)
    return MemberFacts.from_dict({**known.to_dict(), **read, "error": None})

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The PostgreSQL settings of a fleet's instances: by memory, processors, disk and profile, each with its reason.

Numbers are starting points that serve, not the last word of tuning: every one can be overridden by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

PROFILES = ("oltp", "olap", "small")

# What a server needs to start and answer with the smallest settings, beside the operating system.
MINIMUM_MEMORY_MB = 256
MINIMUM_VERSION = 14

Value: TypeAlias = "str | int | float | bool"


@dataclass(frozen=True)
class _Profile:
    """What the kinds of work differ in.

    Attributes:
        max_connections: PgBouncer multiplexes 1000 clients over 20 connections per pool, so few are needed.
        sorts: how many memory-hungry nodes a busy connection is expected to run at once.
        shared_buffers: part of the memory.
        work_mem_limit_mb: more does not help this kind of work.
        max_wal_mb: WAL between two checkpoints, and recovery time after a crash.
        parallel: part of the processors that one query may use.
        random_page_cost: 1.1 for flash; olap reads long stretches, so that a plan by index must be worth it.
    """

    max_connections: int
    sorts: int
    shared_buffers: float
    work_mem_limit_mb: int
    max_wal_mb: int
    parallel: float
    statistics_target: int
    random_page_cost: float


_PROFILES = {
    "oltp": _Profile(200, 2, 0.25, 64, 8192, 0.25, 100, 1.1),
    "olap": _Profile(50, 4, 0.25, 2048, 32768, 1.0, 500, 1.5),
    "small": _Profile(100, 2, 0.20, 16, 1024, 0.0, 100, 1.1),
}


def recommended_settings(
    memory_mb: int,
    *,
    cpus: int = 1,
    version: int = 15,
    profile: str = "oltp",
    disk_mb: int | None = None,
    overrides: Mapping[str, Value | None] | None = None,
) -> dict[str, str]:
    """Settings for one instance that has its host to itself.

    Args:
        memory_mb: the host's memory in MiB.
        cpus: processors that the host may use.
        version: major version of PostgreSQL; settings that it does not know are left out.
        profile: "oltp" many short transactions; "olap" few long queries; "small" a host of about 512 MiB, or shared.
        disk_mb: size in MiB of the file system that holds pg_wal; bounds what WAL may take.
        overrides: setting -> value. They win, and may name any setting of PostgreSQL. None takes one of ours out, so
            that PostgreSQL's own default holds.

    Returns:
        Setting -> value as it stands in a configuration file, without quotes, in the order of this file.

    Raises:
        ValueError: an argument is impossible; the message says which and what is possible.
    """
    _check(memory_mb, cpus, version, profile, disk_mb)
    kind = _PROFILES[profile]
    settings: dict[str, str] = {}
    settings.update(_memory(memory_mb, cpus, kind))
    settings.update(_processors(cpus, kind))
    settings.update(_wal(version, kind, disk_mb))
    settings.update(_replication(disk_mb))
    settings.update(_safety())
    settings.update(_network())
    settings.update(_logging(profile))
    settings.update(_upkeep(cpus, kind))
    for name, value in (overrides or {}).items():
        if re.fullmatch(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?", name) is None:
            raise ValueError(f"{name!r} is not the name of a setting")
        if value is None:
            settings.pop(name, None)
        else:
            settings[name] = _printed(value)
    return settings


def _check(memory_mb: int, cpus: int, version: int, profile: str, disk_mb: int | None) -> None:
    if profile not in _PROFILES:
        raise ValueError(f"profile {profile!r} is unknown: one of {', '.join(PROFILES)}")
    if memory_mb < MINIMUM_MEMORY_MB:
        raise ValueError(f"{memory_mb} MB of memory is too little: at least {MINIMUM_MEMORY_MB} MB are needed")
    if cpus < 1:
        raise ValueError(f"{cpus} processors cannot be: at least 1 is needed")
    if version < MINIMUM_VERSION:
        raise ValueError(f"PostgreSQL {version} is not supported: {MINIMUM_VERSION} or newer is needed")
    if disk_mb is not None and disk_mb < 1024:
        raise ValueError(f"{disk_mb} MB of disk is too little for a database: at least 1024 MB are needed")


def _memory(memory_mb: int, cpus: int, kind: _Profile) -> dict[str, str]:
    shared = _rounded(memory_mb * kind.shared_buffers, 64)
    # What is left after shared_buffers and a quarter for the system's cache, spread over the connections that can be
    # busy at once: more than four per processor only wait for each other.
    busy = min(kind.max_connections, max(8, 4 * cpus))
    work = (memory_mb - shared) * 0.75 / (busy * kind.sorts) / 2
    return {
        "max_connections": str(kind.max_connections),
        "superuser_reserved_connections": "5",  # the people on call get in when the application has used up the rest
        "shared_buffers": _mb(shared),
        "effective_cache_size": _mb(_rounded(memory_mb * 0.7, 64)),  # what the planner may hope to find cached
        "work_mem": _mb(max(4, min(kind.work_mem_limit_mb, int(work)))),
        "maintenance_work_mem": _mb(max(32, min(2048, int(memory_mb * 0.05)))),  # one index build
        # Each autovacuum worker may take maintenance_work_mem; on small hosts that would be too much at once.
        "autovacuum_work_mem": _mb(max(16, min(1024, int(memory_mb * 0.02)))),
        "huge_pages": "try",
    }


def _processors(cpus: int, kind: _Profile) -> dict[str, str]:
    per_query = max(0, min(8, round(cpus * kind.parallel)))
    return {
        # A replica needs at least as many as its primary or does not start: so the same on hosts of every size.
        "max_worker_processes": "64",
        "max_parallel_workers": str(max(2, min(48, cpus))),
        "max_parallel_workers_per_gather": str(per_query),
        "max_parallel_maintenance_workers": str(max(1, min(4, cpus // 2))),
        "random_page_cost": f"{kind.random_page_cost:g}",
        "effective_io_concurrency": "200",  # flash answers many reads at once
        "default_statistics_target": str(kind.statistics_target),
    }


def _wal(version: int, kind: _Profile, disk_mb: int | None) -> dict[str, str]:
    # Less than a tenth of the disk, so that slots and the archive have room when something hangs.
    most = kind.max_wal_mb if disk_mb is None else min(kind.max_wal_mb, disk_mb // 10)
    largest = max(128, _rounded(most, 64))
    return {
        "wal_level": "replica",  # logical replication is asked for by name
        "wal_log_hints": "on",  # pg_rewind works, also should checksums be off one day
        "full_page_writes": "on",
        "wal_compression": "lz4" if version >= 15 else "on",  # Debian builds with lz4; before 15 there is pglz only
        "wal_buffers": "16MB",
        "max_wal_size": _mb(largest),
        "min_wal_size": _mb(max(80, min(1024, largest // 4))),
        "checkpoint_timeout": "15min",  # fewer full-page images; max_wal_size bounds the time of recovery
        "checkpoint_completion_target": "0.9",
        # Turning archive_mode on takes a restart, giving it a command does not: the role backup does so by ALTER
        # SYSTEM, which wins over this file. Until then segments are let go as without archiving.
        "archive_mode": "on",
        "archive_command": "/bin/true",
    }


def _replication(disk_mb: int | None) -> dict[str, str]:
    # A replica that is away must not fill the primary's disk: then its slot is lost, and it is cloned anew.
    keep = 65536 if disk_mb is None else max(512, disk_mb * 3 // 10)
    return {
        "max_wal_senders": "20",
        "max_replication_slots": "20",
        "max_slot_wal_keep_size": _mb(keep),
        "wal_keep_size": "256MB",  # bridges a short absence of whoever streams without slot
        "hot_standby": "on",
        "hot_standby_feedback": "off",  # long queries on a replica must not bloat the primary; asked for by name
        "max_standby_streaming_delay": "30s",
        "wal_receiver_status_interval": "1s",
        # The default of 5 s is what a promotion sometimes waits for, just after its upstream has gone.
        "wal_retrieve_retry_interval": "100ms",
        "wal_sender_timeout": "30s",
        "wal_receiver_timeout": "30s",
    }


def _safety() -> dict[str, str]:
    return {
        "password_encryption": "scram-sha-256",
        "ssl": "on",
        "ssl_ca_file": "/etc/dbops-fleet/ca.crt",
        "ssl_cert_file": "/etc/dbops-fleet/server.crt",
        "ssl_key_file": "/etc/dbops-fleet/server.key",
        "ssl_min_protocol_version": "TLSv1.2",
        "synchronous_commit": "on",
        "restart_after_crash": "on",
        # A forgotten open transaction keeps VACUUM, a pause of the pooler and a switchover from doing their work.
        "idle_in_transaction_session_timeout": "10min",
    }


def _network() -> dict[str, str]:
    return {
        # A vanished client is noticed after about 60 + 3 * 10 s instead of two hours.
        "tcp_keepalives_idle": "60",
        "tcp_keepalives_interval": "10",
        "tcp_keepalives_count": "3",
        # Unacknowledged data end a connection after 30 s instead of about 15 minutes: walsenders to a dead replica too.
        "tcp_user_timeout": "30s",
        "client_connection_check_interval": "10s",  # no work on for a client that has gone
    }


def _logging(profile: str) -> dict[str, str]:
    return {
        "log_min_duration_statement": "10s" if profile == "olap" else "1s",
        "log_checkpoints": "on",
        "log_connections": "off",  # behind a pooler they say little; an audit asks for them by name
        "log_lock_waits": "on",
        "deadlock_timeout": "1s",
        "log_temp_files": "64MB",
        "log_autovacuum_min_duration": "10s",
        "log_replication_commands": "on",
        "log_recovery_conflict_waits": "on",
        "log_line_prefix": "%m [%p] %q%u@%d %a %h ",
        "log_timezone": "UTC",  # hosts of one fleet are compared by their logs
        "lc_messages": "C",  # so are their messages
        "track_io_timing": "on",
        "track_functions": "pl",
    }


def _upkeep(cpus: int, kind: _Profile) -> dict[str, str]:
    return {
        "autovacuum_max_workers": str(max(3, min(6, cpus // 2))),
        "autovacuum_naptime": "30s",
        # Of big tables a twentieth, not a fifth, may be dead before they are vacuumed.
        "autovacuum_vacuum_scale_factor": "0.05",
        "autovacuum_analyze_scale_factor": "0.02" if kind.parallel < 1 else "0.05",
        "autovacuum_vacuum_cost_limit": "2000",  # the default is from the time of one disk
    }


def _rounded(megabytes: float, step: int) -> int:
    """Down to whole steps, but at least one."""
    return max(step, int(megabytes // step) * step)


def _mb(megabytes: int) -> str:
    """With the largest unit that says it exactly, as a person would write it."""
    return f"{megabytes // 1024}GB" if megabytes % 1024 == 0 else f"{megabytes}MB"


def _printed(value: Value) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    text = str(value)
    if "\n" in text or "\0" in text:
        raise ValueError(f"the value {text!r} has a line break")
    return text


def read_conf_value(text: str, name: str) -> str | None:
    """The value that a configuration file gives to a setting; the last one counts. None where it does not name it."""
    found = None
    for line in text.splitlines():
        match = re.match(rf"\s*{re.escape(name)}(?:\s*=\s*|\s+)('(?:[^'\\]|\\.|'')*'|[^#'\s]+)", line, re.IGNORECASE)
        if match:
            found = match[1]
    if found is None or not found.startswith("'"):
        return found
    return re.sub(r"\\(.)", r"\1", found[1:-1].replace("''", "'"))

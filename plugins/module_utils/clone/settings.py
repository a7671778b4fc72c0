# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The texts that make a copy a standby: connection strings and postgresql.auto.conf."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ansible_collections.dbops.fleet.plugins.module_utils.clone.facts import CloneRequest, Source

# Settings of the source's own recovery. Inherited, they would make a replica delayed, or stop at somebody's target.
_RECOVERY = re.compile(
    r"\s*(primary_conninfo|primary_slot_name|recovery_min_apply_delay|recovery_target\w*|recovery_end_command)\s*=?",
    re.IGNORECASE,
)


def conninfo(**values: str | int | None) -> str:
    """A libpq connection string, without what is None.

    Quoting: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-KEYWORD-VALUE
    """
    return " ".join(f"{name}={_quoted(str(value))}" for name, value in values.items() if value is not None)


def primary_conninfo(source: Source, member: str) -> str:
    """How the new replica streams from the source."""
    return conninfo(
        host=source.host,
        port=source.port,
        user=source.user,
        sslmode=source.sslmode,
        sslrootcert=source.sslrootcert,
        passfile=source.passfile,
        application_name=member,
    )


def copy_conninfo(source: Source, member: str) -> str:
    """How pg_basebackup connects.

    Its name is not the member's: the WAL stream of a running copy must not count as a synchronous standby.
    Keepalives notice a source that vanished without a word.
    """
    return conninfo(
        host=source.host,
        port=source.port,
        user=source.user,
        sslmode=source.sslmode,
        sslrootcert=source.sslrootcert,
        passfile=source.passfile,
        application_name=f"clone of {member}",
        connect_timeout=10,
        keepalives_idle=30,
        keepalives_interval=10,
        keepalives_count=3,
    )


def standby_settings(request: CloneRequest) -> dict[str, str]:
    """What goes to postgresql.auto.conf, where ALTER SYSTEM and the role changes to come find it."""
    settings = {"primary_conninfo": primary_conninfo(request.source, request.member)}
    if request.slot is not None:
        settings["primary_slot_name"] = request.slot
    if request.recovery_min_apply_delay is not None:
        settings["recovery_min_apply_delay"] = request.recovery_min_apply_delay
    return settings


def auto_conf(text: str, settings: Mapping[str, str]) -> str:
    """The source's postgresql.auto.conf without the settings of its own recovery, and with these."""
    kept = [line for line in text.splitlines() if not _RECOVERY.match(line)]
    return "".join(f"{line}\n" for line in [*kept, *(f"{name} = {_literal(settings[name])}" for name in settings)])


def tablespace_mapping(location: str, directory: str) -> str:
    """The value of pg_basebackup's --tablespace-mapping, where = is escaped."""
    return f"{location.replace('=', chr(92) + '=')}={directory.replace('=', chr(92) + '=')}"


def _quoted(value: str) -> str:
    if re.fullmatch(r"[^\s'\\]+", value):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _literal(value: str) -> str:
    # As ALTER SYSTEM writes them: the configuration file's scanner knows backslash escapes.
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"

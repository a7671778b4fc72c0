# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a restored data directory is made to replay: settings and the judgement of where replay stands. Decides only.

Replay always runs as a standby without a primary: such a server never ends recovery by itself, whatever the archive
does. We
end it, when it has provably reached what was asked for.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.repository.targets import Choice, Target

_TARGET_SETTINGS = {
    "time": "recovery_target_time",
    "lsn": "recovery_target_lsn",
    "xid": "recovery_target_xid",
    "name": "recovery_target_name",
}
# What the startup process waits for when the archive has no more for it.
# https://www.postgresql.org/docs/15/monitoring-stats.html#WAIT-EVENT-TIMEOUT-TABLE
NO_MORE_WAL = "RecoveryRetrieveRetryInterval"


def settings(choice: Choice, target: Target, *, restore_command: str, limits: Mapping[str, int]) -> dict[str, str]:
    """The server's settings while it replays. They are given on the command line, so they beat every file.

    A target of an earlier recovery cannot be unset here: PostgreSQL takes even an empty second one as a
    contradiction. So
    `auto_conf` removes those from the one file that the server still reads.

    Args:
        choice: backup and line of timelines.
        target: where to stop.
        restore_command: for the server.
        limits: the smallest values that hot standby takes (targets.replay_limits).
    """
    values = {
        "listen_addresses": "",
        "archive_mode": "off",
        "autovacuum": "off",
        "hot_standby": "on",
        "logging_collector": "off",
        "primary_conninfo": "",
        "primary_slot_name": "",
        "restore_command": restore_command,
        "shared_preload_libraries": "",
        "ssl": "off",
        # The end of the archive shows in the pause before the next try, and there is none when the try itself took
        # longer than this. A pause comes only where WAL is missing, so it may be long.
        "wal_retrieve_retry_interval": "10s",
        "recovery_min_apply_delay": "0",
        "recovery_target_action": "pause",
        "recovery_target_inclusive": "on",
        # By number PostgreSQL wants the timeline's history file, which an archive that began later does not have.
        "recovery_target_timeline": "current"
        if choice.history.timeline == choice.backup.timeline
        else str(choice.history.timeline),
        **{name: str(value) for name, value in limits.items()},
    }
    if target.kind == "immediate":
        values["recovery_target"] = "immediate"
    elif target.kind in _TARGET_SETTINGS:
        values[_TARGET_SETTINGS[target.kind]] = target.value
    return values


def wal_sizes(segment_size: int) -> dict[str, str]:
    """A server does not start when these are below two segments, which the defaults are from 64 MB on.

    Args:
        segment_size: bytes.
    """
    megabytes = segment_size >> 20
    return {"min_wal_size": f"{max(80, 2 * megabytes)}MB", "max_wal_size": f"{max(1024, 4 * megabytes)}MB"}


@dataclass(frozen=True)
class Progress:
    """What a replaying server says.

    Attributes:
        replayed: position after the last replayed record; None before the first.
        paused: whether it paused, at its target or because a setting is too low.
        waiting_for: the wait event of the startup process.
        last_commit: time of the last replayed transaction, seconds since the epoch.
        in_recovery: False when it has ended recovery by itself, which must not happen.
    """

    replayed: Lsn | None
    paused: bool
    waiting_for: str | None
    last_commit: float | None
    in_recovery: bool = True


class Standing(enum.Enum):
    """Where replay stands."""

    GOING_ON = "going on"
    REACHED = "at the target"
    EXHAUSTED = "at the end of the archive"
    STUCK = "waiting for WAL that the archive should have"
    ENDED = "recovery ended by itself"


def standing(progress: Progress, choice: Choice, target: Target) -> Standing:
    """Judge one look at the server.

    The end of the archive is reached when the server asks for more and has replayed of the last segment: what it has
    not replayed of that is no whole record. To stand at that segment's first byte is not enough. So does a server that
    has replayed the switch at the end of the segment before, and was not given the last one.
    """
    if not progress.in_recovery:
        return Standing.ENDED
    if progress.paused:
        return Standing.REACHED
    if progress.replayed is None or progress.waiting_for != NO_MORE_WAL:
        return Standing.GOING_ON
    if progress.replayed <= choice.end - choice.backup.segment_size:
        return Standing.STUCK
    return Standing.REACHED if target.kind == "latest" else Standing.EXHAUSTED


def accepts_end_of_archive(target: Target) -> bool:
    """Whether the end of the archive answers a target that no record announced.

    A time does: the archive reaches beyond it (that was checked before), it only has no later commit to stop at. A
    position
    in the last segment, a transaction or a name that did not come up is not there.
    """
    return target.kind == "time"


def auto_conf(before: str, *, scratch: bool) -> str:
    """`postgresql.auto.conf` without the recovery settings of an earlier life.

    Args:
        before: its text.
        scratch: the copy must not archive into the repository that it came from, however somebody starts it: no other
            file beats this one.
    """
    dropped = ("recovery_target", "restore_command", *(("archive_mode",) if scratch else ()))
    kept = [line for line in before.splitlines() if not line.strip().startswith(dropped)]
    if scratch:
        kept.append("archive_mode = 'off'")
    return "".join(f"{line}\n" for line in kept)

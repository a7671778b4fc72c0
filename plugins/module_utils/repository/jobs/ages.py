# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is a backup or a drill too old? A job that never ran leaves no failure behind, only age."""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Listed, shown
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.entry import ListedDump
from ansible_collections.dbops.fleet.plugins.module_utils.repository.jobs.settings import Limits
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.health import Problem

HOUR_SECONDS = 3600.0
DAY_SECONDS = 24 * HOUR_SECONDS


def too_old(
    repository: str, listed: Sequence[Listed], drilled: float | None, limits: Limits, now: float
) -> tuple[Problem, ...]:
    """What of one repository's backups is too old or bad.

    Args:
        repository: name.
        listed: its backups, oldest first.
        drilled: when a drill last succeeded; None when none did.
        limits: the ages that are allowed.
        now: seconds since the epoch.
    """
    if not listed:
        message = f"Repository {repository} has no backup"
        return (Problem("no_backup", "critical", message, "Take one with `dbops backup`."),)
    problems = []
    newest = listed[-1].backup
    age = now - newest.stop_time
    if age > limits.backup_hours * HOUR_SECONDS:
        problems.append(
            Problem(
                "backup_too_old",
                "critical",
                f"The newest backup in repository {repository} is of {shown(newest.stop_time)}, "
                f"more than {limits.backup_hours:g} hours old",
                "See `journalctl -u dbops-job@backup` on every member, then `dbops backup`.",
            )
        )
    bad = [item.backup.id for item in listed if item.bad]
    if bad:
        message = f"Repository {repository} has backups that failed a verification: {', '.join(bad[-5:])}"
        problems.append(Problem("backup_bad", "critical", message, "See `dbops list`, and take a new backup."))
    problems += _drill(repository, listed[0].backup.stop_time, drilled, limits, now)
    return tuple(problems)


def dumps_too_old(repository: str, series: Sequence[ListedDump], limits: Limits, now: float) -> tuple[Problem, ...]:
    """What of one repository's dumps is too old or bad. Warnings: the base backups have the same data.

    Args:
        repository: name.
        series: the dumps that the timer makes, oldest first.
        limits: the ages that are allowed.
        now: seconds since the epoch.
    """
    if not limits.dump_hours:
        return ()
    if not series:
        message = f"Repository {repository} has no dump yet"
        return (Problem("no_dump", "warning", message, "Wait for the timer, or take one with `dbops dump take`."),)
    newest = series[-1]
    problems = []
    if now - newest.stop_time > limits.dump_hours * HOUR_SECONDS:
        message = (
            f"The newest dump in repository {repository} is of {shown(newest.stop_time)}, "
            f"more than {limits.dump_hours:g} hours old"
        )
        problems.append(
            Problem("dump_too_old", "warning", message, "See `journalctl -u dbops-job@dump` on every member.")
        )
    bad = [item.id for item in series if item.bad]
    if bad:
        message = f"Repository {repository} has dumps that failed a verification: {', '.join(bad[-5:])}"
        problems.append(Problem("dump_bad", "warning", message, "Take a new one with `dbops dump take`."))
    return tuple(problems)


def _drill(repository: str, first: float, drilled: float | None, limits: Limits, now: float) -> list[Problem]:
    """Args: first: when the oldest backup ended; a new repository has time for its first drill."""
    if not limits.drill_days or now - (drilled or first) <= limits.drill_days * DAY_SECONDS:
        return []
    told = f"was last restored by a drill at {shown(drilled)}" if drilled else "was never restored by a drill"
    message = f"A backup of repository {repository} {told}; {limits.drill_days:g} days are allowed"
    return [Problem("drill_too_old", "warning", message, "See `journalctl -u dbops-job@drill`, then `dbops drill`.")]

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the timed jobs on a host do: `/etc/dbops-fleet/backup-jobs.json`, written by the role `backup`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.repository.jobs.turn import HOUR_SECONDS, MEMBERS, Rule

JOBS = ("backup", "dump", "expire", "check", "drill", "watch")


@dataclass(frozen=True)
class Limits:
    """How old things may be before `watch` fails.

    Attributes:
        backup_hours: the newest backup.
        dump_hours: the newest dump; 0 where none are wanted.
        drill_days: the newest successful drill, counted only from the first backup on; 0 for no limit.
        rpo_warning_seconds, rpo_critical_seconds: changes that are in no archive.
    """

    backup_hours: float = 26
    dump_hours: float = 0
    drill_days: float = 9
    rpo_warning_seconds: float = 300
    rpo_critical_seconds: float = 900


@dataclass(frozen=True)
class JobSettings:
    """See the role's variables of the same names.

    Attributes:
        backup_from, dump_from, drill_on: `primary` or `replica`.
        apart_hours: no second backup so soon after the newest one.
        check_parts: days in which `check` sees the whole repository.
        drill_directory: scratch place.
        drill_checks: pairs of database and query.
        metrics_file: for node_exporter; None for none.
        notify_command: is run when a job failed, with what happened on its standard input; empty for none.
        limits: for `watch`.
    """

    backup_from: str = "primary"
    dump_from: str = "primary"
    drill_on: str = "replica"
    apart_hours: float = 6
    check_parts: int = 7
    drill_directory: str = "/var/lib/postgresql/drill"
    drill_checks: tuple[tuple[str, str], ...] = ()
    metrics_file: str | None = None
    notify_command: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)


def parse(data: Mapping[str, Any]) -> JobSettings:
    """From plain data.

    Raises:
        Refused: something is unknown or of the wrong form.
    """
    values = {name: value for name, value in data.items() if value is not None}
    _refuse_unknown(values, JobSettings, "the settings of jobs")
    limits = values.pop("limits", {})
    _refuse_unknown(limits, Limits, "the limits of jobs")
    checks = tuple((str(check["database"]), str(check["query"])) for check in values.pop("drill_checks", ()))
    command = tuple(str(word) for word in values.pop("notify_command", ()))
    settings = JobSettings(**values, drill_checks=checks, notify_command=command, limits=Limits(**limits))
    for name in ("backup_from", "dump_from", "drill_on"):
        if getattr(settings, name) not in MEMBERS:
            raise Refused(f"{name} is {getattr(settings, name)!r}", remedy=f"Use one of: {', '.join(MEMBERS)}.")
    return settings


def rule_of(job: str, settings: JobSettings) -> Rule:
    """Who does a job, and how often."""
    if job == "backup":
        hours = settings.limits.backup_hours
        return Rule(settings.backup_from, settings.apart_hours * HOUR_SECONDS, hours * HOUR_SECONDS)
    if job == "dump":
        overdue = (settings.limits.dump_hours or settings.limits.backup_hours) * HOUR_SECONDS
        return Rule(settings.dump_from, settings.apart_hours * HOUR_SECONDS, overdue)
    if job == "drill":
        days = settings.limits.drill_days or 9
        return Rule(settings.drill_on, 48 * HOUR_SECONDS, days * 24 * HOUR_SECONDS)
    return Rule()


def _refuse_unknown(values: Mapping[str, Any], form: type, where: str) -> None:
    known = {item.name for item in fields(form)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise Refused(f"Unknown in {where}: {', '.join(unknown)}", remedy=f"Known are: {', '.join(sorted(known))}.")

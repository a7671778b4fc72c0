# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What came of each job on this host: for people, for metrics, and for who is told of failures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record

DONE, ELSEWHERE, FAILED = "done", "elsewhere", "failed"
# The same failure is told again after this time.
REPEAT_SECONDS = 6 * 3600.0


@dataclass(frozen=True)
class JobRecord(Record):
    """The last run of a job here.

    Attributes:
        job: its name.
        outcome: `done`, `elsewhere` (not this server's turn) or `failed`.
        message: what was done, why not, or what went wrong.
        time: when it ended, seconds since the epoch.
        seconds: it took.
        done_time: when it last ended well here; None when it never did.
        told: the failure that somebody was told of last.
        told_time: when.
    """

    job: str
    outcome: str
    message: str
    time: float
    seconds: float = 0
    done_time: float | None = None
    told: str | None = None
    told_time: float | None = None


def next_record(before: JobRecord | None, record: JobRecord) -> JobRecord:
    """The new record with what is remembered of the old one."""
    done = record.time if record.outcome == DONE else before.done_time if before else None
    if before is None or record.outcome == DONE:
        return replace(record, done_time=done)
    return replace(record, done_time=done, told=before.told, told_time=before.told_time)


def killed(before: JobRecord | None, job: str, result: str, started: float, now: float) -> JobRecord:
    """After systemd saw a job fail: its own record where it lived to write one, else one made from systemd's result."""
    if before is not None and before.outcome == FAILED and before.time >= started:
        return before
    return next_record(before, JobRecord(job, FAILED, f"it was ended from outside ({result})", now))


def must_be_told(record: JobRecord, now: float) -> bool:
    """Whether this failure is news."""
    if record.outcome != FAILED:
        return False
    return is_untold(record) or record.told_time is None or now - record.told_time > REPEAT_SECONDS


def is_untold(record: JobRecord) -> bool:
    """Whether nobody knows of this failure yet."""
    return record.outcome == FAILED and record.told != record.message


def merged(texts: Iterable[str]) -> str:
    """Texts for Prometheus as one: it takes every HELP and TYPE line only once, with all samples behind it."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for text in texts:
        for line in text.splitlines():
            if line.startswith("# "):
                name = line.split()[2]
                head = heads.setdefault(name, [])
                if line not in head:
                    head.append(line)
            elif line:
                samples.setdefault(line.partition("{")[0], []).append(line)
    return "".join(f"{line}\n" for name in heads for line in (*heads[name], *samples.get(name, ())))


def figures(cluster: str, records: Sequence[JobRecord]) -> str:
    """The jobs of this host for Prometheus."""
    lines = []
    for name, told, values in (
        (
            "job_failed",
            "1 when the last run of the job on this host failed",
            [float(r.outcome == FAILED) for r in records],
        ),
        ("job_last_done_time_seconds", "when the job last ended well on this host", [r.done_time for r in records]),
    ):
        lines += [f"# HELP dbops_{name} {told}", f"# TYPE dbops_{name} gauge"]
        lines += [
            f'dbops_{name}{{cluster="{cluster}",job="{record.job}"}} {value:.15g}'
            for record, value in zip(records, values, strict=True)
            if value is not None
        ]
    return "".join(f"{line}\n" for line in lines)

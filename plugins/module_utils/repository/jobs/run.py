# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Doing a timed job: ask whose turn it is, do it, and leave a record whatever happens."""

from __future__ import annotations

# Runs programs where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import json
import logging
import os
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.repository import cluster as clusters
from ansible_collections.dbops.fleet.plugins.module_utils.repository import layout, server
from ansible_collections.dbops.fleet.plugins.module_utils.repository.backup.take import take
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Verification
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.entry import ListedDump, series_of
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.plan import Wanted
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.take import take as take_dump
from ansible_collections.dbops.fleet.plugins.module_utils.repository.jobs import ages, records, turn
from ansible_collections.dbops.fleet.plugins.module_utils.repository.jobs.records import JobRecord
from ansible_collections.dbops.fleet.plugins.module_utils.repository.jobs.settings import (
    JOBS,
    JobSettings,
    parse,
    rule_of,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.maintain import check, drill, expire, metrics
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import AnotherBegan, together
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import open_first
from ansible_collections.dbops.fleet.plugins.module_utils.repository.shelf import Shelf
from ansible_collections.dbops.fleet.plugins.module_utils.repository.targets import parse_target
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal import commands, status
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.health import Limits as WalLimits

# A backup that has written nothing for so long does not run any more, or is about to end.
RUNNING_SECONDS = 120.0
NOTIFY_TIMEOUT_SECONDS = 60

_HERE = """
select pg_is_in_recovery() as in_recovery,
       exists (select from pg_stat_wal_receiver where status = 'streaming') as connected,
       (select count(*) from pg_stat_replication
         where state in ('streaming', 'catchup') and application_name not in ('pg_receivewal', 'pg_basebackup'))
           as standbys
"""

# Outcome and message of a job.
Answer = tuple[str, str]

log = logging.getLogger("dbops")


def read_settings(config_file: str) -> JobSettings:
    """From `backup-jobs.json` beside the engine's configuration; without that file the defaults.

    Raises:
        Refused: it cannot be understood.
    """
    path = Path(config_file).with_name("backup-jobs.json")
    if not path.exists():
        return JobSettings()
    return parse(json.loads(path.read_text(encoding="utf-8")))


class Jobs:
    """The jobs of one host."""

    def __init__(self, config: Config, config_file: str, installed: str, settings: JobSettings) -> None:
        self._config = config
        self._config_file = config_file
        self._installed = installed
        self._settings = settings
        self._directory = Path(config.state_directory) / "jobs"

    def run(self, job: str) -> JobRecord:
        """Do a job if it is this server's turn.

        Raises:
            FleetError: it failed; that is recorded too.
        """
        started = time.time()
        try:
            outcome, message = self._job(job)()
        except FleetError as error:
            self._keep(JobRecord(job, records.FAILED, str(error), time.time(), time.time() - started))
            raise
        return self._keep(JobRecord(job, outcome, message, time.time(), time.time() - started))

    def failed(self, job: str, result: str, started: float) -> JobRecord:
        """After systemd or cron saw the job fail: record it, and tell whoever is to be told.

        Args:
            job: its name.
            result: why, in systemd's words.
            started: when the job was started, seconds since the epoch.
        """
        record = records.killed(self._kept(job), job, result, started, time.time())
        self._write(record)
        if records.must_be_told(record, time.time()):
            self._notify(record)
        return self._kept(job) or record

    def kept(self) -> list[JobRecord]:
        """The last record of every job that ran here."""
        return [record for job in JOBS if (record := self._kept(job)) is not None]

    def _job(self, job: str) -> Callable[[], Answer]:
        known = (self._backup, self._dump, self._expire, self._check, self._drill, self._watch)
        return dict(zip(JOBS, known, strict=True))[job]

    def _backup(self) -> Answer:
        return self._everywhere(self._backup_to)

    def _backup_to(self, shelf: Shelf) -> Answer:
        newest = max((item.backup.start_time for item in shelf.listed()), default=None)
        mine = self._turn_for("backup", shelf, newest, (one.newest for one in shelf.unfinished()))
        if not mine.here:
            return records.ELSEWHERE, mine.reason
        try:
            entry = take(self._config, shelf.repository, full=False, fast=False, wal_timeout_seconds=600, yielding=True)
        except AnotherBegan as error:
            return records.ELSEWHERE, error.message
        return records.DONE, f"took {entry.id}, {entry.size >> 20} MB, {entry.sent >> 20} MB sent"

    def _dump(self) -> Answer:
        return self._everywhere(self._dump_to)

    def _dump_to(self, shelf: Shelf) -> Answer:
        newest = max((one.dump.start_time for one in _series(shelf, self._config)), default=None)
        mine = self._turn_for("dump", shelf, newest, (one.newest for one in shelf.unfinished_dumps()))
        if not mine.here:
            return records.ELSEWHERE, mine.reason
        entry = take_dump(self._config, shelf.repository, _wanted(self._config))
        return records.DONE, f"took {entry.id}, {entry.size >> 20} MB, {entry.sent >> 20} MB sent"

    def _expire(self) -> Answer:
        mine = self._turn("expire", turn.Done())
        return self._everywhere(self._expire_in) if mine.here else (records.ELSEWHERE, mine.reason)

    def _expire_in(self, shelf: Shelf) -> Answer:
        removal = expire.decide(shelf, self._config.retention, self._config.dump_retention)
        expire.carry_out(shelf, removal)
        return records.DONE, (
            f"{len(removal.decided.remove)} backups, {len(removal.dumps.remove)} dumps and {len(removal.segments)} "
            f"WAL segments deleted, {len(removal.decided.keep)} backups kept"
        )

    def _check(self) -> Answer:
        mine = self._turn("check", turn.Done())
        return self._everywhere(self._check_in) if mine.here else (records.ELSEWHERE, mine.reason)

    def _check_in(self, shelf: Shelf) -> Answer:
        report = check.check(shelf, parts=self._settings.check_parts, threads=self._config.backup.threads)
        if report.problems:
            raise OperationFailed(
                f"Repository {shelf.repository.name}: {'; '.join(report.problems[:5])}",
                remedy="Run `dbops check --all`, and take a new backup.",
            )
        return records.DONE, f"{report.wal_files} WAL files and {report.frames} frames are as written"

    def _drill(self) -> Answer:
        return self._everywhere(self._drill_from)

    def _drill_from(self, shelf: Shelf) -> Answer:
        mine = self._turn("drill", turn.Done(_newest_drill(shelf, good=False)))
        if not mine.here:
            return records.ELSEWHERE, mine.reason
        verification = drill.drill(
            self._config,
            self._config_file,
            self._installed,
            shelf,
            directory=Path(self._settings.drill_directory),
            target=parse_target("latest"),
            checks=[drill.Check(database, query) for database, query in self._settings.drill_checks],
        )
        if not verification.good:
            raise OperationFailed(f"{verification.backup} of {shelf.repository.name}: {verification.message}")
        seconds = verification.figures.get("rto_seconds", 0)
        return records.DONE, f"{verification.backup} {verification.message} in {seconds:.0f} s"

    def _everywhere(self, act: Callable[[Shelf], Answer]) -> Answer:
        """Do a job for each repository. One that is down keeps it from no other, and fails the job after all."""
        told: list[str] = []
        errors: list[FleetError] = []
        outcome = records.ELSEWHERE
        for settings in self._config.repositories:
            try:
                done, message = act(self._shelf(settings.name))
            except FleetError as error:
                log.error("%s: %s", settings.name, error)
                errors.append(error)
                continue
            log.info("%s: %s", settings.name, message)
            told.append(f"{settings.name}: {message}")
            if done == records.DONE:
                outcome = done
        if errors:
            raise together(errors)
        return outcome, "; ".join(told)

    def _watch(self) -> Answer:
        """Look at everything, write the metrics, and fail when something is critical."""
        self._tell_what_was_not_told()
        limits = self._settings.limits
        system = clusters.read(self._config).system
        command = commands.archive_command(
            self._config.spool_directory, system, config_file=self._config_file, installed=self._installed
        )
        state = status.read(self._config, command, WalLimits(limits.rpo_warning_seconds, limits.rpo_critical_seconds))
        problems = list(state.problems)
        texts = []
        for repository in self._config.repositories:
            if any(view.name == repository.name and view.error for view in state.repositories):
                continue  # among the problems already
            shelf = self._shelf(repository.name)
            listed = shelf.listed()
            drilled = _newest_drill(shelf, good=True)
            dumps = shelf.dumps()
            problems += ages.too_old(repository.name, listed, drilled, limits, time.time())
            problems += ages.dumps_too_old(repository.name, _series(shelf, self._config), limits, time.time())
            texts.append(metrics.text(self._config.cluster, repository.name, listed, state, dumps))
        self._write_metrics(texts)
        for problem in problems:
            log.warning("%s: %s. %s", problem.severity, problem.message, problem.remedy)
        critical = [problem for problem in problems if problem.severity == "critical"]
        if critical:
            raise OperationFailed("; ".join(one.message for one in critical), remedy=critical[0].remedy or None)
        return records.DONE, f"{len(problems)} warnings" if problems else "all is well"

    def _turn(self, job: str, done: turn.Done) -> turn.Turn:
        with server.connected(self._config) as session:
            row = session.execute(_HERE).fetchone()
        return turn.decide(rule_of(job, self._settings), turn.Here(**row), done, time.time())

    def _turn_for(self, job: str, shelf: Shelf, newest: float | None, begun: Iterable[float]) -> turn.Turn:
        """Whether it is this member's turn at a repository, by what is complete there and what is being written."""
        now = time.time()
        running = [last for last in begun if now - last < RUNNING_SECONDS]
        mine = self._turn(job, turn.Done(newest, min(running, default=None)))
        if mine.here:
            log.info("%s: %s", shelf.repository.name, mine.reason)
        return mine

    def _shelf(self, name: str) -> Shelf:
        return Shelf(open_first(self._config, name), clusters.read(self._config).system)

    def _write_metrics(self, texts: list[str]) -> None:
        if self._settings.metrics_file is None:
            return
        path = Path(self._settings.metrics_file)
        temporary = path.with_suffix(".new")
        temporary.write_text(
            records.merged([*texts, records.figures(self._config.cluster, self.kept())]), encoding="utf-8"
        )
        temporary.chmod(0o644)
        temporary.replace(path)

    def _tell_what_was_not_told(self) -> None:
        """Whoever is to be told may have been out of reach when another job failed."""
        for record in self.kept():
            if record.job != "watch" and records.is_untold(record) and not self._notify(record):
                return

    def _notify(self, record: JobRecord) -> bool:
        """Tell of a failure, and note that it was told. Whether that went well."""
        if not self._settings.notify_command:
            return False
        told = {"cluster": self._config.cluster, "host": os.uname().nodename, **record.to_dict()}
        try:
            done = subprocess.run(
                list(self._settings.notify_command),
                input=json.dumps(told),
                text=True,
                capture_output=True,
                check=False,
                timeout=NOTIFY_TIMEOUT_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            log.error("the notification failed, and is tried again by the next watch: %s", error)
            return False
        if done.returncode:
            log.error("the notification failed, and is tried again by the next watch: %s", done.stderr.strip())
            return False
        self._write(replace(record, told=record.message, told_time=time.time()))
        return True

    def _kept(self, job: str) -> JobRecord | None:
        try:
            return JobRecord.from_dict(json.loads((self._directory / f"{job}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return None

    def _keep(self, record: JobRecord) -> JobRecord:
        record = records.next_record(self._kept(record.job), record)
        self._write(record)
        return record

    def _write(self, record: JobRecord) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / f"{record.job}.json"
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(record.to_dict(), indent=1), encoding="utf-8")
        temporary.replace(path)


def _wanted(config: Config) -> Wanted:
    """What the timed dump takes."""
    return Wanted(config.dump.databases, config.dump.globals, config.dump.passwords)


def _series(shelf: Shelf, config: Config) -> tuple[ListedDump, ...]:
    """The dumps that the timed one continues, oldest first."""
    wanted = _wanted(config)
    name = series_of(wanted.databases, all_databases=wanted.all_databases)
    return tuple(one for one in shelf.dumps() if one.dump.series == name)


def _newest_drill(shelf: Shelf, *, good: bool) -> float | None:
    """When a drill was last made, or last succeeded."""
    found = None
    for item in shelf.repository.store.list(layout.record_prefix(shelf.system, "drill")):
        record = Verification.from_dict(shelf.repository.get_json(item.key))
        if (record.good or not good) and (found is None or record.time > found):
            found = record.time
    return found

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`dbops job`: what timers call on every member, and one of them does."""

from __future__ import annotations

# Prints and exits where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import argparse
import json
import os
import secrets
import sys
import time
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.repository.cli_wal import installed
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config
from ansible_collections.dbops.fleet.plugins.module_utils.repository.jobs import run
from ansible_collections.dbops.fleet.plugins.module_utils.repository.jobs.records import JobRecord
from ansible_collections.dbops.fleet.plugins.module_utils.repository.jobs.settings import JOBS

# systemd and cron report a failure at once, so a record this young is of the run that failed.
JUST_NOW_SECONDS = 60.0

_EPILOG = """\
  backup   a base backup, on the primary or a replica as configured, in each repository that is due
  dump     pg_dump of the configured databases, on the member that is configured
  expire   retention
  check    a part of the repository against its hashes, another part every day
  drill    a restore into a scratch directory, on a replica where there is one
  watch    write the metrics; fail when the newest backup is too old or the archive is not as it should be

Each leaves a record in the state directory's jobs/; `dbops job status` shows them. Its settings are in
backup-jobs.json beside the configuration.
"""


def add(top: Any) -> None:
    """Add the command to the command line."""
    job = top.add_parser("job", help="do a timed job if it is this server's turn").add_subparsers(
        title="jobs", metavar="JOB", required=True
    )
    for name in JOBS:
        one = job.add_parser(
            name, description=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, help="see --help"
        )
        one.add_argument("--delay", metavar="SECONDS", type=int, default=0, help="wait at random up to so long")
        one.set_defaults(run=_run, job=name)
    one = job.add_parser("status", help="what came of each job on this host")
    one.set_defaults(run=_status)
    one = job.add_parser("failed", help="record that a job failed, and tell it (called by systemd and cron)")
    one.add_argument("job", choices=JOBS)
    one.set_defaults(run=_failed)


def _jobs(config: Config, options: argparse.Namespace) -> run.Jobs:
    return run.Jobs(config, options.config, installed(), run.read_settings(options.config))


def _run(config: Config, options: argparse.Namespace) -> int:
    time.sleep(secrets.randbelow(options.delay + 1))
    record = _jobs(config, options).run(options.job)
    print(json.dumps(record.to_dict()) if options.json else f"{options.job}: {record.message}")
    return 0


def _status(config: Config, options: argparse.Namespace) -> int:
    records = _jobs(config, options).kept()
    if options.json:
        print(json.dumps([record.to_dict() for record in records]))
        return 0
    for record in records:
        print(_line(record))
    return 0


def _failed(config: Config, options: argparse.Namespace) -> int:
    # systemd gives these to the unit of OnFailure=.
    result = os.environ.get("MONITOR_SERVICE_RESULT", "its exit status")
    record = _jobs(config, options).failed(options.job, result, time.time() - JUST_NOW_SECONDS)
    print(_line(record), file=sys.stderr)
    return 0


def _line(record: JobRecord) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(record.time))
    return f"{record.job:8} {record.outcome:10} {when}  {record.message}"

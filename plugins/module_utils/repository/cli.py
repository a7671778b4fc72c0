# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `dbops`: what timers, `archive_command`, `restore_command` and people at a host's shell call."""

from __future__ import annotations

# Prints and exits where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import argparse
import json
import logging
import sys
from collections.abc import Callable
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError
from ansible_collections.dbops.fleet.plugins.module_utils.repository import (
    account,
    cli_backup,
    cli_dump,
    cli_jobs,
    cli_maintain,
    cli_wal,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import DEFAULT_FILE, Config, load

Command = Callable[[Config, argparse.Namespace], int]

# Debian's account of PostgreSQL.
OWNER = "postgres"

_EPILOG = """\
Exit status: 0 done; 1 failed or refused, the reason is on standard error; 2 wrong usage.
`dbops wal get` has the exit codes that PostgreSQL needs, see `dbops wal get --help`.
"""


def main(arguments: list[str]) -> int:
    """Run one command; the exit status."""
    options = parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.WARNING if options.quiet else logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr
    )
    for chatty in ("boto3", "botocore", "urllib3", "s3transfer"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    run: Command = options.run
    try:
        # PostgreSQL's files belong to its account, and so does what the engine writes. Root may call it all the same.
        config = load(options.config)
        with account.user(OWNER):
            return run(config, options)
    except FleetError as error:
        if options.json:
            print(json.dumps(error.to_dict()))
        print(f"dbops: {error}", file=sys.stderr)
        return int(options.status_of_failure)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="dbops",
        description="Base backups and WAL archive of the PostgreSQL instance on this host.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--config", metavar="FILE", default=DEFAULT_FILE, help="configuration (default: %(default)s)")
    top.add_argument("--json", action="store_true", help="print results as JSON")
    top.add_argument("--quiet", action="store_true", help="say only what is wrong")
    top.set_defaults(status_of_failure=1)
    commands: Any = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    cli_wal.add(commands)
    cli_backup.add(commands)
    cli_dump.add(commands)
    cli_maintain.add(commands)
    cli_jobs.add(commands)
    return top

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`dbops init` and `dbops wal ...`."""

from __future__ import annotations

# Prints and exits where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError
from ansible_collections.dbops.fleet.plugins.module_utils.repository import cluster as clusters
from ansible_collections.dbops.fleet.plugins.module_utils.repository import repository as repositories
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import shown
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import together
from ansible_collections.dbops.fleet.plugins.module_utils.repository.systems import warnings
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal import (
    answer,
    archiver,
    commands,
    receive,
    status,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.fetch import fetch
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.health import ArchiveState
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.places import Place, archive

_GET_EPILOG = """\
Exit status, as PostgreSQL understands it:
  0    the file is in place, checked
  1    every repository answered and has neither this file nor a later one (or the server has a standby.signal, asks
       again by itself, and something went wrong)
  126  anything else: PostgreSQL stops instead of opening the database with commits missing
"""


def add(top: Any) -> None:
    """Add these commands to the command line."""
    init = top.add_parser("init", help="make the repositories, or make this cluster known to them (safe to repeat)")
    init.set_defaults(run=_init)
    wal = top.add_parser("wal", help="the WAL archive").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    one = wal.add_parser("push", help="archive WAL files into every repository (fallback of archive_command)")
    one.add_argument("path", nargs="+", type=Path, help="file of pg_wal (%%p)")
    one.set_defaults(run=_push)
    one = wal.add_parser(
        "get",
        help="fetch a WAL file (restore_command)",
        epilog=_GET_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    one.add_argument("--repository", metavar="NAME", help="ask this one alone (default: all, in order)")
    one.add_argument("name", help="name of the file (%%f)")
    one.add_argument("path", type=Path, help="where to put it (%%p)")
    one.set_defaults(run=_get, status_of_failure=answer.STOP)
    one = wal.add_parser("archiver", help="archive ahead of PostgreSQL until stopped (run by systemd)")
    one.set_defaults(run=_archiver)
    one = wal.add_parser("receive", help="send WAL before its segment is full, until stopped (run by systemd)")
    one.set_defaults(run=_receive)
    one = wal.add_parser("status", help="what is archived, up to where, and what is missing")
    one.set_defaults(run=_status)
    one = wal.add_parser("prove", help="force a segment into the archive and fetch it back")
    one.add_argument("--timeout", metavar="SECONDS", type=float, default=60, help="default: %(default)s")
    one.set_defaults(run=_prove)
    one = wal.add_parser("commands", help="print archive_command and restore_command for this host")
    one.set_defaults(run=_commands)


def _init(config: Config, options: argparse.Namespace) -> int:
    cluster = clusters.read(config)
    for settings in config.repositories:
        changed = repositories.init(
            settings, config, system=cluster.system, major=cluster.major, segment_size=cluster.segment_size
        )
        print(f"{settings.name}: {'made known to' if changed else 'knew'} system {cluster.system}")
        if changed:
            for warning in warnings(repositories.open_repository(settings, config), cluster.system):
                print(f"dbops: {warning}", file=sys.stderr)
    return 0


def _push(config: Config, options: argparse.Namespace) -> int:
    cluster = clusters.read(config)
    places = [Place(settings, config, cluster) for settings in config.repositories]
    errors: dict[str, FleetError] = {}
    for path in options.path:
        archived = archive(places, cluster, path, level=config.wal.level)
        errors |= {str(error): error for error in (*archived.errors, *archived.waiting)}
        if archived.already:
            print(f"dbops: {path.name} was already in {', '.join(archived.already)}", file=sys.stderr)
    if errors:
        raise together(tuple(errors.values()))
    return 0


def _is_here(name: str) -> bool:
    """Whether the working directory has it. One that this user may not enter has not, such as root's home."""
    return os.access(name, os.F_OK)


def _get(config: Config, options: argparse.Namespace) -> int:
    if _is_here("PG_VERSION"):  # a scratch copy asks from its own data directory
        config = dataclasses.replace(config, data_directory=str(Path.cwd()))
    if options.repository is not None:
        chosen = tuple(one for one in config.repositories if one.name == options.repository)
        config = dataclasses.replace(config, repositories=chosen)
    standby = _is_here("standby.signal")
    try:
        cluster = clusters.read(config)
        opened, errors = _openable(config)
    except FleetError as error:
        print(f"dbops: {error}", file=sys.stderr)
        return answer.exit_code(answer.Found.FAILED, options.name, standby=standby)
    fetched = fetch(opened, cluster, options.name, options.path)
    found = fetched.found
    if errors and found is not answer.Found.DELIVERED:
        found = answer.Found.FAILED
    for message in (*errors, *fetched.messages):
        print(f"dbops: {message}", file=sys.stderr)
    return answer.exit_code(found, options.name, standby=standby)


def _openable(config: Config) -> tuple[list[repositories.Repository], list[str]]:
    """The repositories that can be opened, and why the others cannot: one good copy is enough to deliver."""
    opened: list[repositories.Repository] = []
    errors = [] if config.repositories else ["there is no repository of that name"]
    for settings in config.repositories:
        try:
            opened.append(repositories.open_repository(settings, config))
        except FleetError as error:
            errors.append(str(error))
    return opened, errors


def _archiver(config: Config, options: argparse.Namespace) -> int:
    os.umask(0o077)
    archiver.serve(options.config)
    return 0


def _receive(config: Config, options: argparse.Namespace) -> int:
    os.umask(0o077)
    receive.serve(config)
    return 0


def archive_command(config: Config, config_file: str, installed: str = commands.INSTALLED) -> str:
    """Our archive_command for this host."""
    system = clusters.read(config).system
    return commands.archive_command(config.spool_directory, system, config_file=config_file, installed=installed)


def installed() -> str:
    """Where this engine lies; the launcher put it first in the search path."""
    return str(Path(__file__).absolute().parents[6])


def _status(config: Config, options: argparse.Namespace) -> int:
    state = status.read(config, archive_command(config, options.config, installed()))
    if options.json:
        print(json.dumps(state.to_dict(), indent=1))
    else:
        _show(state)
    return 1 if any(problem.severity == "critical" for problem in state.problems) else 0


def _show(state: ArchiveState) -> None:
    print(f"archiving: {'yes' if state.archiving else 'NO'}")
    if state.archived_lsn is not None and state.archived_time is not None:
        print(f"archived up to: {state.archived_lsn}, {shown(state.archived_time)}")
    if state.received_lsn is not None:
        print(f"received up to: {state.received_lsn}")
    if state.rpo_seconds is not None:
        print(f"changes that are in no archive are at most {state.rpo_seconds:.0f} s old")
    for view in state.repositories:
        print(f"repository {view.name}: {view.error or view.address}")
        for report in view.timelines:
            print(f"  timeline {report.timeline}: {report.first} to {report.last}, {report.count} segments")
            for gap in report.gaps:
                print(f"    {gap.status}: {gap.first} to {gap.last}, {gap.count} segments")
    for problem in state.problems:
        print(f"{problem.severity.upper()}: {problem.message}. {problem.remedy}".rstrip())


def _prove(config: Config, options: argparse.Namespace) -> int:
    proof = status.prove(config, timeout_seconds=options.timeout)
    if options.json:
        print(json.dumps(proof))
    else:
        print(
            f"{proof['segment']} was archived after {proof['archived_seconds']} s "
            f"and came back from every repository after {proof['fetched_seconds']} s more"
        )
    return 0


def _commands(config: Config, options: argparse.Namespace) -> int:
    print(f"archive_command = {_quoted(archive_command(config, options.config, installed()))}")
    print(f"restore_command = {_quoted(commands.restore_command(config_file=options.config, installed=installed()))}")
    return 0


def _quoted(text: str) -> str:
    """As a value in postgresql.conf."""
    return "'" + text.replace("'", "''") + "'"

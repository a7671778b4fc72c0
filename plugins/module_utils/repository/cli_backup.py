# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`dbops backup`, `list`, `restore`, `pin` and `unpin`."""

from __future__ import annotations

# Prints and exits where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.repository import cluster as clusters
from ansible_collections.dbops.fleet.plugins.module_utils.repository.backup.take import take
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Listed, shown
from ansible_collections.dbops.fleet.plugins.module_utils.repository.cli_wal import installed
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import together
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import open_first
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore import run
from ansible_collections.dbops.fleet.plugins.module_utils.repository.shelf import Shelf
from ansible_collections.dbops.fleet.plugins.module_utils.repository.systems import system_of
from ansible_collections.dbops.fleet.plugins.module_utils.repository.targets import KINDS, parse_target

_RESTORE_EPILOG = """\
Examples:
  dbops restore --to DIR                                                a copy of the newest state
  dbops restore --to DIR --target time '2026-03-01 14:30:00+01:00'      a copy of a moment
  dbops restore --to DIR --dry-run                                      what a drill would do
  dbops restore --to /var/lib/postgresql/15/main --action promote       a new primary for a cluster that is lost
Without --delta the directory must be empty. What cannot be reached is refused before anything is written.
"""


def add(top: Any) -> None:
    """Add these commands to the command line."""
    one = _command(top, "backup", _backup, "take a base backup into every repository, or the named one")
    one.add_argument("--full", action="store_true", help="use nothing of earlier backups")
    one.add_argument("--spread", action="store_true", help="let the first checkpoint take its time")
    one.add_argument("--wal-timeout", metavar="SECONDS", type=float, default=600, help="default: %(default)s")
    one = _command(top, "list", _list, "the backups of a repository")
    one.add_argument("--system", type=int, help="system identifier (default: the newest)")
    one = _command(top, "pin", _pin, "keep a backup whatever retention says")
    one.add_argument("backup")
    one.add_argument("--reason", required=True)
    one = _command(top, "unpin", _unpin, "let retention decide about a backup again")
    one.add_argument("backup")
    one = _command(top, "relist", _relist, "make the catalogue entry of a backup again that somebody deleted")
    one.add_argument("backup")
    _add_restore(top)


def _add_restore(top: Any) -> None:
    one = _command(top, "restore", _restore, "make a data directory from a backup and the WAL archive")
    one.epilog = _RESTORE_EPILOG
    one.formatter_class = argparse.RawDescriptionHelpFormatter
    one.add_argument("--to", metavar="DIRECTORY", type=Path, required=True, help="the new data directory")
    one.add_argument(
        "--target", nargs="+", metavar=("KIND", "VALUE"), default=["latest"], help=f"one of {', '.join(KINDS)}"
    )
    one.add_argument("--timeline", default="latest", help="latest, current or a number (default: %(default)s)")
    one.add_argument("--backup", help="start from this backup (default: the newest that reaches the target)")
    one.add_argument("--system", type=int, help="system identifier (default: the newest)")
    one.add_argument(
        "--action",
        choices=run.ACTIONS,
        default="scratch",
        help="scratch: a copy that never writes to the repository; promote: a new primary; standby: files only "
        "(default: %(default)s)",
    )
    one.add_argument(
        "--confirm", metavar="CLUSTER", help="name the cluster, to promote although its newest WAL is minutes old"
    )
    one.add_argument(
        "--tablespace", metavar="OLD=NEW", action="append", default=[], help="put a tablespace (oid or path) elsewhere"
    )
    one.add_argument("--configuration", metavar="DIRECTORY", type=Path, help="where to put /etc/postgresql's part")
    one.add_argument("--delta", action="store_true", help="use and overwrite the data directory that lies there")
    one.add_argument("--dry-run", action="store_true", help="decide and check, and tell the plan")


def _command(top: Any, name: str, function: Any, text: str) -> Any:
    parser = top.add_parser(name, help=text, description=text)
    parser.set_defaults(run=function)
    parser.add_argument("--repository", metavar="NAME", help="as in the configuration (default: see the command)")
    return parser


def _shelf(config: Config, options: argparse.Namespace) -> Shelf:
    repository = open_first(config, options.repository)
    return Shelf(repository, system_of(repository, getattr(options, "system", None)))


def _own_shelf(config: Config, options: argparse.Namespace) -> Shelf:
    return Shelf(open_first(config, options.repository), clusters.read(config).system)


def _backup(config: Config, options: argparse.Namespace) -> int:
    names = [options.repository] if options.repository else [settings.name for settings in config.repositories]
    entries = []
    errors: list[FleetError] = []
    for name in names:
        try:
            entry = take(
                config,
                open_first(config, name),
                full=options.full,
                fast=not options.spread,
                wal_timeout_seconds=options.wal_timeout,
            )
        except FleetError as error:
            errors.append(error)  # the others get theirs all the same
            continue
        entries.append({"repository": name, **entry.to_dict()})
        if not options.json:
            seconds = entry.stop_time - entry.start_time
            print(f"{name}: {entry.id}, {entry.size >> 20} MB, {entry.sent >> 20} MB sent, {seconds:.0f} s")
    if options.json and (entries or not errors):
        print(json.dumps(entries))
    if errors:
        raise together(errors)
    return 0


def _list(config: Config, options: argparse.Namespace) -> int:
    shelf = _shelf(config, options)
    listed = shelf.listed()
    if options.json:
        rows = [
            {
                **item.backup.to_dict(),
                "pinned": item.pinned,
                "verified": item.verified.to_dict() if item.verified else None,
            }
            for item in listed
        ]
        print(json.dumps(rows))
        return 0
    for item in listed:
        print(_line(item))
    for dump in shelf.dumps():
        print(f"{dump.id:17} a dump, see `dbops dump list`")
    for unfinished in shelf.unfinished():
        print(f"{unfinished.backup:17} not complete: running, or broken off (last wrote {shown(unfinished.newest)})")
    return 0


def _line(item: Listed) -> str:
    backup = item.backup
    state = "" if item.verified is None else "verified" if item.good else "BAD"
    pinned = f"pinned: {item.pinned}" if item.pinned is not None else ""
    return (
        f"{backup.id:17} {shown(backup.stop_time)}  {backup.size >> 20:8} MB  {backup.sent >> 20:8} MB sent  "
        f"timeline {backup.timeline}  {backup.start_lsn} to {backup.stop_lsn}  {state} {pinned}".rstrip()
    )


def _pin(config: Config, options: argparse.Namespace) -> int:
    _own_shelf(config, options).pin(options.backup, options.reason)
    return 0


def _unpin(config: Config, options: argparse.Namespace) -> int:
    _own_shelf(config, options).unpin(options.backup)
    return 0


def _relist(config: Config, options: argparse.Namespace) -> int:
    _shelf(config, options).relist(options.backup)
    return 0


def _restore(config: Config, options: argparse.Namespace) -> int:
    if len(options.target) > 2:
        raise Refused("A target is a kind and one value", remedy="Quote a time that has a space.")
    kind, value = (*options.target, "")[:2]
    request = run.Request(
        target=parse_target(kind, value, options.timeline, options.backup),
        directory=options.to.absolute(),
        action=options.action,
        tablespaces=_mapping(options.tablespace),
        configuration=options.configuration,
        delta=options.delta,
        confirm=options.confirm,
    )
    shelf = _shelf(config, options)
    if options.dry_run:
        report = run.plan(shelf, request).to_dict(request)
    else:
        try:
            report = run.restore(config, options.config, installed(), shelf, request)
        except FleetError as error:
            for line in error.details.get("log", ()):
                print(f"  | {line}", file=sys.stderr)
            raise
    for warning in report.get("warnings", ()):
        print(f"dbops: {warning}", file=sys.stderr)
    if options.json:
        print(json.dumps(report))
    else:
        for name, told in report.items():
            print(f"{name}: {told}")
    return 0


def _mapping(words: list[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    if any(not new for _old, _arrow, new in pairs):
        raise Refused("--tablespace takes OLD=NEW")
    return {old: new for old, _arrow, new in pairs}

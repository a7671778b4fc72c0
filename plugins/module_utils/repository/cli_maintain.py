# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`dbops expire`, `verify`, `check`, `drill` and `metrics`."""

from __future__ import annotations

# Prints and exits where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import argparse
import json
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.repository import cluster as clusters
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Verification
from ansible_collections.dbops.fleet.plugins.module_utils.repository.cli_wal import archive_command, installed
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump import content
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.entry import is_dump
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.plan import find
from ansible_collections.dbops.fleet.plugins.module_utils.repository.maintain import check, drill, expire, metrics
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import together
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import open_first
from ansible_collections.dbops.fleet.plugins.module_utils.repository.shelf import Shelf
from ansible_collections.dbops.fleet.plugins.module_utils.repository.targets import parse_target
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal import status


def add(top: Any) -> None:
    """Add these commands to the command line."""
    one = _command(top, "expire", _expire, "delete backups, dumps and WAL that the retention policy does not keep")
    one.add_argument("--dry-run", action="store_true", help="tell what would be deleted, delete nothing")
    one = _command(top, "verify", _verify, "read one backup or dump completely and compare it with its hashes")
    one.add_argument("backup", nargs="?", help="default: the newest base backup")
    one = _command(top, "check", _check, "compare a part of all objects with their hashes; another part every day")
    one.add_argument("--parts", type=int, default=7, help="days in which everything is seen (default: %(default)s)")
    one.add_argument("--all", action="store_true", help="everything now")
    one = _command(
        top, "drill", _drill, "restore into a scratch directory, check it, record what was measured, remove it"
    )
    one.add_argument("--scratch", metavar="DIRECTORY", type=Path, required=True, help="place with room for the cluster")
    one.add_argument("--backup", help="default: the newest")
    one.add_argument(
        "--check",
        metavar=("DATABASE", "QUERY"),
        nargs=2,
        action="append",
        default=[],
        help="a query that must be true of the copy; can be given several times",
    )
    one = _command(top, "metrics", _metrics, "figures for node_exporter's textfile collector")
    one.add_argument("--file", type=Path, help="replace this file (default: standard output)")


def _command(top: Any, name: str, function: Any, text: str) -> Any:
    parser = top.add_parser(name, help=text, description=text)
    parser.set_defaults(run=function)
    parser.add_argument("--repository", metavar="NAME", help="default: the first that can be opened; expire: all")
    return parser


def _shelf(config: Config, options: argparse.Namespace) -> Shelf:
    return Shelf(open_first(config, options.repository), clusters.read(config).system)


def _expire(config: Config, options: argparse.Namespace) -> int:
    names = [options.repository] if options.repository else [settings.name for settings in config.repositories]
    reports = {}
    errors: list[FleetError] = []
    for name in names:
        try:
            shelf = Shelf(open_first(config, name), clusters.read(config).system)
            removal = expire.decide(shelf, config.retention, config.dump_retention)
            if not options.dry_run:
                expire.carry_out(shelf, removal)
        except FleetError as error:
            errors.append(error)
            continue
        reports[name] = removal.to_dict()
        if not options.json:
            _show_removal(name, removal, "would be deleted" if options.dry_run else "deleted")
    if options.json and (reports or not errors):
        print(json.dumps(reports))
    if errors:
        raise together(errors)
    return 0


def _show_removal(name: str, removal: expire.Removal, done: str) -> None:
    for backup, why in (*removal.decided.keep.items(), *removal.dumps.keep.items()):
        print(f"{name}: {backup} stays: {', '.join(why)}")
    for backup in (*removal.decided.remove, *removal.dumps.remove):
        print(f"{name}: {backup} {done}")
    print(f"{name}: {len(removal.segments)} WAL segments {done}, {removal.size >> 20} MB in all")


def _verify(config: Config, options: argparse.Namespace) -> int:
    shelf = _shelf(config, options)
    if options.backup is not None and is_dump(options.backup):
        dump = find(shelf.dumps(), options.backup, None)
        return _told(content.verify(shelf, dump, config.bin_directory), options)
    found = [item.backup for item in shelf.listed() if options.backup in (None, item.backup.id)]
    if not found:
        raise Refused(f"There is no backup {options.backup or ''}".rstrip(), remedy="See `dbops list`.")
    return _told(check.verify(shelf, found[-1], threads=config.backup.threads), options)


def _check(config: Config, options: argparse.Namespace) -> int:
    parts = 1 if options.all else options.parts
    report = check.check(_shelf(config, options), parts=parts, threads=config.backup.threads)
    if options.json:
        print(json.dumps(report.to_dict()))
    else:
        print(f"{report.wal_files} WAL files and {report.frames} frames read, {len(report.problems)} problems")
        for problem in report.problems:
            print(f"PROBLEM: {problem}")
    return 1 if report.problems else 0


def _drill(config: Config, options: argparse.Namespace) -> int:
    verification = drill.drill(
        config,
        options.config,
        installed(),
        _shelf(config, options),
        directory=options.scratch,
        target=parse_target("latest", backup=options.backup),
        checks=[drill.Check(database, query) for database, query in options.check],
    )
    return _told(verification, options)


def _told(verification: Verification, options: argparse.Namespace) -> int:
    if options.json:
        print(json.dumps(verification.to_dict()))
    else:
        print(f"{verification.backup}: {'good' if verification.good else 'BAD'}: {verification.message}")
        for name, value in verification.figures.items():
            print(f"  {name}: {value:g}")
    return 0 if verification.good else 1


def _metrics(config: Config, options: argparse.Namespace) -> int:
    shelf = _shelf(config, options)
    state = status.read(config, archive_command(config, options.config, installed()))
    text = metrics.text(config.cluster, shelf.repository.name, shelf.listed(), state, shelf.dumps())
    if options.file is None:
        print(text, end="")
    else:
        temporary = options.file.with_suffix(".new")
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(0o644)
        temporary.replace(options.file)
    return 0

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`dbops dump` and `dbops extract`."""

from __future__ import annotations

# Prints and exits where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import shown
from ansible_collections.dbops.fleet.plugins.module_utils.repository.cli_wal import installed
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump import content, extract, load
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.entry import GLOBALS, ListedDump
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.operation import told
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.plan import Wanted, find
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.take import take
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import open_first
from ansible_collections.dbops.fleet.plugins.module_utils.repository.shelf import Shelf
from ansible_collections.dbops.fleet.plugins.module_utils.repository.systems import system_of
from ansible_collections.dbops.fleet.plugins.module_utils.repository.targets import KINDS, parse_target

_EXTRACT_EPILOG = """\
Examples, after which `dbops dump restore --dump ID` on the primary loads what was found:
  dbops extract --scratch DIR --database orders --schema public --table invoice --target time '2026-03-01 14:29+01:00'
  dbops extract --scratch DIR --database orders                         a whole database, the newest state
What is taken out goes into the repository as a dump, and the scratch copy goes away. Loaded, it makes a new database,
or a new schema beside the old one: nothing that is there is changed.
"""


def add(top: Any) -> None:
    """Add these commands to the command line."""
    text = "pg_dump and pg_dumpall into the repository, and out of it"
    group = top.add_parser("dump", help=text, description=text).add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    _add_take(group)
    one = _command(group, "list", _list, "the dumps of a repository")
    one.add_argument("--system", type=int, help="system identifier (default: the newest)")
    one = _command(group, "get", _get, "write a dump, or the globals, to standard output")
    _add_choice(one)
    one.add_argument("--globals", action="store_true", help="the SQL of roles and tablespaces instead")
    _add_restore(group)
    one = _command(
        group, "remove", _remove, "take a dump out of the catalogue; its data go with the next `dbops expire`"
    )
    one.add_argument("dump")
    one.add_argument("--system", type=int, help="system identifier (default: the newest)")
    _add_extract(top)


def _add_take(group: Any) -> None:
    one = _command(group, "take", _take, "dump databases into every repository, or the named one")
    one.add_argument("--database", metavar="NAME", action="append", default=[], help="default: all; can be repeated")
    one.add_argument("--globals-only", action="store_true", help="roles and tablespaces alone")
    one.add_argument("--no-globals", action="store_true", help="without roles and tablespaces")
    one.add_argument("--role-passwords", action="store_true", help="with the roles' password hashes")


def _add_restore(group: Any) -> None:
    one = _command(group, "restore", _restore, "load a dump into a new database")
    _add_choice(one)
    one.add_argument("--into", metavar="NAME", help="of the new database (default: the old name and _restored)")
    one.add_argument("--replace", action="store_true", help="rename a database of that name out of the way")
    one.add_argument("--no-owners", action="store_true", help="leave out owners and privileges")
    one.add_argument("--dry-run", action="store_true", help="decide and check, and tell the plan")


def _add_extract(top: Any) -> None:
    text = "a database, a schema or tables out of a base backup, as a dump in the repository"
    one = _command(top, "extract", _extract, text)
    one.epilog = _EXTRACT_EPILOG
    one.formatter_class = argparse.RawDescriptionHelpFormatter
    one.add_argument("--scratch", metavar="DIRECTORY", type=Path, required=True, help="place with room for the cluster")
    one.add_argument("--database", metavar="NAME", required=True)
    one.add_argument("--schema", metavar="NAME", default="", help="only this one")
    one.add_argument("--table", metavar="NAME", action="append", default=[], help="only this one; can be repeated")
    one.add_argument("--into-schema", metavar="NAME", help="the new schema (default: the old name and _restored)")
    one.add_argument(
        "--target", nargs="+", metavar=("KIND", "VALUE"), default=["latest"], help=f"one of {', '.join(KINDS)}"
    )
    one.add_argument("--timeline", default="latest", help="latest, current or a number (default: %(default)s)")
    one.add_argument("--backup", help="start from this backup (default: the newest that reaches the target)")
    one.add_argument("--system", type=int, help="system identifier (default: the newest)")
    one.add_argument("--dry-run", action="store_true", help="decide and check, and tell the plan")


def _add_choice(one: Any) -> None:
    one.add_argument("--dump", metavar="ID", help="default: the newest that has the database")
    one.add_argument("--database", metavar="NAME", help="needed where the dump has several")
    one.add_argument("--system", type=int, help="system identifier (default: the newest)")


def _command(top: Any, name: str, function: Any, text: str) -> Any:
    parser = top.add_parser(name, help=text, description=text)
    parser.set_defaults(run=function)
    parser.add_argument("--repository", metavar="NAME", help="as in the configuration (default: the first; take: all)")
    return parser


def _shelf(config: Config, options: argparse.Namespace) -> Shelf:
    repository = open_first(config, options.repository)
    return Shelf(repository, system_of(repository, options.system))


def _take(config: Config, options: argparse.Namespace) -> int:
    wanted = Wanted(tuple(options.database), not options.no_globals, options.role_passwords, options.globals_only)
    names = [options.repository] if options.repository else [settings.name for settings in config.repositories]
    entries = []
    for name in names:
        dump = take(config, open_first(config, name), wanted)
        entries.append({"repository": name, **dump.to_dict()})
        if not options.json:
            print(f"{name}: {_line(ListedDump(dump))}")
    if options.json:
        print(json.dumps(entries))
    return 0


def _list(config: Config, options: argparse.Namespace) -> int:
    shelf = _shelf(config, options)
    listed = shelf.dumps()
    if options.json:
        print(json.dumps([told(item) for item in listed]))
        return 0
    for item in listed:
        print(_line(item))
    for unfinished in shelf.unfinished_dumps():
        print(f"{unfinished.backup:17} not complete: running, or broken off (last wrote {shown(unfinished.newest)})")
    return 0


def _line(item: ListedDump) -> str:
    dump = item.dump
    state = "" if item.verified is None else "verified" if item.good else "BAD"
    pinned = f"pinned: {item.pinned}" if item.pinned is not None else ""
    what = dump.origin.what if dump.origin else ", ".join(one.name for one in dump.databases)
    globals_ = " and globals" if dump.globals and dump.databases else "globals" if dump.globals else ""
    return (
        f"{dump.id:17} {shown(dump.stop_time)}  {dump.size >> 20:8} MB  {dump.sent >> 20:8} MB sent  "
        f"{what}{globals_}  {state} {pinned}".rstrip()
    )


def _get(config: Config, options: argparse.Namespace) -> int:
    shelf = _shelf(config, options)
    dump = find(shelf.dumps(), options.dump, options.database)
    if options.globals:
        if not dump.globals:
            raise Refused(f"{dump.id} has no globals")
        path = GLOBALS
    else:
        chosen = [one for one in dump.databases if options.database in (None, one.name)]
        if len(chosen) != 1:
            names = ", ".join(one.name for one in dump.databases)
            raise Refused(f"{dump.id} has {names or 'no database'}", remedy="Name one with --database.")
        path = chosen[0].member
    for piece in content.read(shelf, dump, path):
        sys.stdout.buffer.write(piece)
    return 0


def _restore(config: Config, options: argparse.Namespace) -> int:
    shelf = _shelf(config, options)
    dump = find(shelf.dumps(), options.dump, options.database)
    owners = not options.no_owners
    decided = load.plan(
        config, dump, database=options.database, into=options.into, replace=options.replace, owners=owners
    )
    _tell(
        decided.to_dict(dump) if options.dry_run else load.restore(config, shelf, dump, decided, owners=owners), options
    )
    return 0


def _remove(config: Config, options: argparse.Namespace) -> int:
    shelf = _shelf(config, options)
    find(shelf.dumps(), options.dump, None)
    shelf.remove_dump(options.dump)
    return 0


def _extract(config: Config, options: argparse.Namespace) -> int:
    if len(options.target) > 2:
        raise Refused("A target is a kind and one value", remedy="Quote a time that has a space.")
    kind, value = (*options.target, "")[:2]
    request = extract.Request(
        parse_target(kind, value, options.timeline, options.backup),
        options.database,
        options.schema,
        tuple(options.table),
        options.into_schema,
    )
    shelf = _shelf(config, options)
    scratch = options.scratch.absolute()
    if options.dry_run:
        _tell(extract.plan(shelf, request, scratch), options)
        return 0
    try:
        dump = extract.extract(config, options.config, installed(), shelf, request, scratch)
    except FleetError as error:
        for line in error.details.get("log", ()):
            print(f"  | {line}", file=sys.stderr)
        raise
    if options.json:
        print(json.dumps(dump.to_dict()))
        return 0
    print(_line(ListedDump(dump)))
    if dump.origin is not None:
        for note in dump.origin.notes:
            print(f"note: {note}")
        print(f"state of {dump.origin.last_commit or 'the backup'}, replayed to {dump.origin.replayed_to}")
    print(f"Load it on the primary: dbops dump restore --dump {dump.id}")
    return 0


def _tell(report: dict[str, Any], options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        print(f"{name}: {value}")

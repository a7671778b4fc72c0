# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which databases are dumped, and under which name a dump is loaded. Decides only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import shown
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.entry import (
    Definition,
    Dump,
    DumpedDatabase,
    ListedDump,
)

# PostgreSQL cuts longer names, silently.
NAME_BYTES = 63
# pg_dump writes these settings as a list of words; one string would be a single word.
# https://github.com/postgres/postgres/blob/REL_15_STABLE/src/bin/pg_dump/dumputils.c, variable_is_guc_list_quote
_LISTS = (
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
)


@dataclass(frozen=True)
class Wanted:
    """What is dumped.

    Attributes:
        databases: their names; empty for all.
        globals: roles and tablespaces as well; alone when no database is wanted.
        passwords: the roles' password hashes with them.
        nothing_but_globals: no database.
    """

    databases: tuple[str, ...] = ()
    globals: bool = True
    passwords: bool = False
    nothing_but_globals: bool = False

    @property
    def all_databases(self) -> bool:
        return not self.databases and not self.nothing_but_globals


@dataclass(frozen=True)
class Load:
    """How a dump is loaded.

    Attributes:
        database: of the dump.
        into: the new database; with a schema, the existing one.
        schema: the new schema; empty when a whole database is made.
        loading: name of the database while it is incomplete.
        aside: the name that a database called `into` gets first; None when there is none.
        loaded: it was loaded already, there is nothing to do.
    """

    database: DumpedDatabase
    into: str
    schema: str
    loading: str
    aside: str | None = None
    loaded: bool = False

    def to_dict(self, dump: Dump) -> dict[str, Any]:
        """JSON-able."""
        return {
            "dump": dump.id,
            "dump_time": shown(dump.start_time),
            "database": self.database.name,
            "into": self.into,
            "schema": self.schema or None,
            "moved_aside": self.aside,
            "size": self.database.size,
        }


def choose(wanted: Wanted, existing: Sequence[DumpedDatabase]) -> tuple[DumpedDatabase, ...]:
    """The databases to dump, by name.

    Args:
        wanted: by the operator.
        existing: those that take connections and are no templates.

    Raises:
        Refused: one does not exist, or nothing is wanted.
    """
    if wanted.nothing_but_globals:
        if wanted.databases or not wanted.globals:
            raise Refused("Only globals were asked for, together with databases or without globals")
        return ()
    known = {one.name: one for one in existing}
    missing = sorted(set(wanted.databases) - set(known))
    if missing:
        raise Refused(f"There is no database {', '.join(missing)}", remedy=f"There are: {', '.join(sorted(known))}.")
    return tuple(known[name] for name in sorted(set(wanted.databases) or known))


def find(listed: Sequence[ListedDump], identifier: str | None, database: str | None) -> Dump:
    """The dump that is meant: that id, or the newest sound one with that database.

    Args:
        listed: oldest first.

    Raises:
        Refused: there is none.
    """
    if identifier is not None:
        found = [item.dump for item in listed if item.id == identifier]
    else:
        found = [item.dump for item in listed if not item.bad and item.dump.origin is None]
        found = [dump for dump in found if database is None or dump.database(database) is not None]
    if not found:
        wanted = identifier or (f"of database {database}" if database else "at all")
        raise Refused(f"There is no sound dump {wanted} in the repository", remedy="See `dbops dump list`.")
    return found[-1]


def load(
    dump: Dump, database: str | None, into: str | None, existing: Mapping[str, str | None], *, replace: bool = False
) -> Load:
    """Decide where a dump goes.

    Args:
        dump: to load from.
        database: in it; may be left out when there is only one.
        into: name of the new database; None for the old one's with `_restored` behind it.
        existing: databases of the server with their comments.
        replace: move a database of that name aside.

    Raises:
        Refused: it would go over something that is there, or it is not clear what is meant.
    """
    chosen = _one(dump, database)
    loading = f"dbops_loading_{hashlib.sha256((into or chosen.name).encode()).hexdigest()[:8]}"
    if chosen.schema:
        return _load_schema(dump, chosen, into, existing, replace=replace)
    name = into or f"{chosen.name}_restored"
    _refuse_name(name)
    if not replace and existing.get(name) == mark(dump):
        return Load(chosen, name, "", loading, loaded=True)
    if name not in existing:
        return Load(chosen, name, "", loading)
    if not replace:
        raise Refused(
            f"A database {name} exists already; nothing was changed",
            remedy="Give another name, or say that it may be replaced: it is then renamed, not deleted.",
        )
    aside = f"{name}_before_{dump.id}"
    _refuse_name(aside)
    if aside in existing:
        raise Refused(f"{name} cannot be moved aside: a database {aside} exists already", remedy=f"Drop {aside} first.")
    return Load(chosen, name, "", loading, aside)


def _load_schema(
    dump: Dump, chosen: DumpedDatabase, into: str | None, existing: Mapping[str, str | None], *, replace: bool
) -> Load:
    target = into or chosen.name
    if replace:
        raise Refused(f"{dump.id} makes the schema {chosen.schema}; a schema is not replaced", remedy="Drop it first.")
    if target not in existing:
        raise Refused(
            f"There is no database {target} that {dump.id} could make its schema {chosen.schema} in",
            remedy=f"There are: {', '.join(sorted(existing))}.",
        )
    return Load(chosen, target, chosen.schema, "")


def mark(dump: Dump) -> str:
    """The comment of what was loaded from this dump. It tells people, and a second try, where it comes from."""
    if dump.origin is not None and dump.origin.mark:
        return dump.origin.mark
    return f"Loaded by dbops from dump {dump.id}"


def _one(dump: Dump, database: str | None) -> DumpedDatabase:
    names = ", ".join(one.name for one in dump.databases) or "no database"
    if database is None:
        if len(dump.databases) != 1:
            raise Refused(f"{dump.id} has {names}: which one is meant?", remedy="Name the database.")
        return dump.databases[0]
    chosen = dump.database(database)
    if chosen is None:
        raise Refused(f"{dump.id} has no database {database}", remedy=f"It has: {names}.")
    return chosen


def _refuse_name(name: str) -> None:
    if not name or len(name.encode()) > NAME_BYTES or "\0" in name:
        raise Refused(f"{name!r} is no name for a database", remedy=f"It has 1 to {NAME_BYTES} bytes.")


def new_schema(schema: str, into: str | None) -> str:
    """The schema that a part of a database is loaded into.

    Raises:
        Refused: it is not a new one.
    """
    name = into or f"{schema}_restored"
    if name == schema:
        raise Refused(f"The new schema cannot be {schema} itself", remedy="Rows can be moved over once they are there.")
    if len(name.encode()) > NAME_BYTES or name.startswith("pg_"):
        raise Refused(f"{name!r} is no name for a schema", remedy="Give a shorter one that does not begin with pg_.")
    return name


def locale_options(definition: Definition) -> tuple[tuple[str, str], ...]:
    """Options of CREATE DATABASE, with their values, that give it the same locale."""
    options = [("ENCODING", definition.encoding), ("LC_COLLATE", definition.collate), ("LC_CTYPE", definition.ctype)]
    if definition.provider == "i":
        options += [("LOCALE_PROVIDER", "icu"), ("ICU_LOCALE", definition.locale or "und")]
    elif definition.provider == "b":
        options += [("LOCALE_PROVIDER", "builtin"), ("BUILTIN_LOCALE", definition.locale or "C")]
    else:
        options.append(("LOCALE_PROVIDER", "libc"))
    return tuple(options)


def is_list_setting(name: str) -> bool:
    """Whether a setting's stored value is a list of words that is quoted already."""
    return name.lower() in _LISTS

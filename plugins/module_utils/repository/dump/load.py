# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Loading a dump into a server: under a name of its own until it is complete."""

from __future__ import annotations

import time
from dataclasses import replace as replace_in
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.quoting import identifier, literal
from ansible_collections.dbops.fleet.plugins.module_utils.repository import server
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump import content, programs
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.entry import Definition, Dump
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.plan import (
    Load,
    is_list_setting,
    load,
    locale_options,
    mark,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.programs import Place
from ansible_collections.dbops.fleet.plugins.module_utils.repository.lock import only_one
from ansible_collections.dbops.fleet.plugins.module_utils.repository.shelf import Shelf


def plan(config: Config, dump: Dump, *, database: str | None, into: str | None, replace: bool, owners: bool) -> Load:
    """Decide and check; nothing is changed.

    Raises:
        Refused: this server is a standby, the name is taken, or the owner does not exist here.
    """
    with server.connected(config) as session:
        row = session.execute("select pg_is_in_recovery() as standby").fetchone()
        if row["standby"]:
            raise Refused("This server is a standby: nothing can be loaded into it", remedy="Load on the primary.")
        query = "select datname, shobj_description(oid, 'pg_database') as comment from pg_database"
        names = {row["datname"]: row["comment"] for row in session.execute(query).fetchall()}
        decided = load(dump, database, into, names, replace=replace)
        owner = decided.database.definition.owner
        if owners and not decided.schema and not decided.loaded:
            known = session.execute("select from pg_roles where rolname = %s", (owner,)).fetchone() is not None
            if not known:
                raise Refused(
                    f"The owner {owner} of {decided.database.name} does not exist here",
                    remedy="Make the role first (the globals of the dump have it), or load without owners.",
                )
    if decided.schema:
        with server.connected(config, database=decided.into) as session:
            query = "select obj_description(oid, 'pg_namespace') as comment from pg_namespace where nspname = %s"
            taken = session.execute(query, (decided.schema,)).fetchone()
        if taken is not None and taken["comment"] == mark(dump):
            return replace_in(decided, loaded=True)
        if taken is not None:
            raise Refused(
                f"{decided.into} has a schema {decided.schema} already; nothing was changed",
                remedy="Drop or rename it, or take the part out again under another name.",
            )
    return decided


def restore(config: Config, shelf: Shelf, dump: Dump, decided: Load, *, owners: bool) -> dict[str, Any]:
    """Load what was planned. Broken off at any point, nothing that was there has changed.

    Args:
        config: of the host.
        shelf: that has the dump.
        dump: to load from.
        decided: by `plan`.
        owners: set owners and privileges as they were.

    Raises:
        OperationFailed: it broke off; a database that was being made is dropped, now or by the next try.
    """
    started = time.monotonic()
    with only_one(config, "load of a dump"):
        if decided.loaded:
            pass  # by a run whose caller went away
        elif decided.schema:
            _load_schema(config, shelf, dump, decided, owners=owners)
        else:
            _load_database(config, shelf, dump, decided, owners=owners)
        tables = _count_tables(config, decided)
    return decided.to_dict(dump) | {"tables": tables, "seconds": round(time.monotonic() - started, 3)}


def _load_schema(config: Config, shelf: Shelf, dump: Dump, decided: Load, *, owners: bool) -> None:
    pieces = content.read(shelf, dump, decided.database.member)
    programs.load(Place.of(config), decided.into, pieces, one_transaction=True, owners=owners)
    with server.connected(config, database=decided.into) as session:
        for row in session.execute(
            "select quote_ident(relname) as name, quote_ident(%s) as schema from pg_class"
            " where relnamespace = %s::regnamespace and relkind in ('r', 'm', 'p')",
            (decided.schema, identifier(decided.schema)),
        ).fetchall():
            session.execute(f"analyze {row['schema']}.{row['name']}")


def _load_database(config: Config, shelf: Shelf, dump: Dump, decided: Load, *, owners: bool) -> None:
    definition = decided.database.definition
    with server.connected(config) as session:
        # Of a run that was killed.
        session.execute(f"drop database if exists {identifier(decided.loading)} with (force)")
        _create(session, decided.loading, definition, owners=owners)
        try:
            pieces = content.read(shelf, dump, decided.database.member)
            programs.load(Place.of(config), decided.loading, pieces, one_transaction=False, owners=owners)
            with server.connected(config, database=decided.loading) as inside:
                inside.execute("analyze")
            _configure(session, decided.loading, definition, owners=owners)
            session.execute(f"comment on database {identifier(decided.loading)} is '{mark(dump)}'")
        except BaseException:
            session.execute(f"drop database if exists {identifier(decided.loading)} with (force)")
            raise
        if decided.aside is not None:
            _move(session, decided.into, decided.aside)
        _move(session, decided.loading, decided.into)
        session.execute(f"alter database {identifier(decided.into)} with connection limit -1")


def _create(session: Any, name: str, definition: Definition, *, owners: bool) -> None:
    words = [f"create database {identifier(name)} template template0 connection limit 0"]
    words += [f"{option} {literal(value)}" for option, value in locale_options(definition)]
    if owners:
        words.append(f"owner {identifier(definition.owner)}")
    session.execute(" ".join(words))


def _configure(session: Any, name: str, definition: Definition, *, owners: bool) -> None:
    """What pg_restore sets only when it makes the database itself, which it does under its old name."""
    for setting in definition.settings:
        key, _equals, value = setting.partition("=")
        told = value if is_list_setting(key) else literal(value)
        key = ".".join(identifier(part) for part in key.split("."))
        session.execute(f"alter database {identifier(name)} set {key} to {told}")
    if owners and definition.privileges is not None:
        session.execute(f"revoke all on database {identifier(name)} from public")
        for who, what, option in definition.privileges:
            role = "public" if who == "PUBLIC" else identifier(who)
            ending = " with grant option" if option else ""
            session.execute(f"grant {what} on database {identifier(name)} to {role}{ending}")


def _move(session: Any, old: str, new: str) -> None:
    """Rename a database, ending the sessions that keep it from that."""
    session.execute(
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = %s and pid <> pg_backend_pid()",
        (old,),
    )
    session.execute(f"alter database {identifier(old)} rename to {identifier(new)}")


def _count_tables(config: Config, decided: Load) -> int:
    query = "select count(*) as tables from pg_tables where schemaname !~ '^pg_' and schemaname <> 'information_schema'"
    with server.connected(config, database=decided.into) as session:
        if decided.schema:
            row = session.execute(f"{query} and schemaname = %s", (decided.schema,)).fetchone()
        else:
            row = session.execute(query).fetchone()
    tables = int(row["tables"])
    if decided.schema and not tables:
        raise OperationFailed(f"The schema {decided.schema} in {decided.into} has no table after it was loaded")
    return tables

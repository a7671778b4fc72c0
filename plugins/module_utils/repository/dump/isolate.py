# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Preparing a scratch copy, which nobody else uses, so that a dump of one schema has just what was asked for.

Renaming happens here and not in a dump's text: PostgreSQL then changes every reference itself.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.quoting import identifier

_TABLES = """
with recursive asked as (
  select c.oid from pg_class c
   where c.relnamespace = (select oid from pg_namespace where nspname = %(schema)s)
     and c.relkind in ('r', 'p') and c.relname = any(%(tables)s)
), family(oid) as (
  select oid from asked
  union
  select i.inhrelid from family f join pg_inherits i on i.inhparent = f.oid
)
select f.oid::regclass::text as name, f.oid::int8 as oid from family f order by f.oid
"""
_PARENTS = """
select i.inhrelid::regclass::text as child, i.inhparent::regclass::text as parent, c.relispartition as partition
  from pg_inherits i join pg_class c on c.oid = i.inhrelid
 where i.inhrelid = any(%(moved)s::oid[]) and not i.inhparent = any(%(moved)s::oid[])
"""
_FOREIGN_KEYS = """
select c.conrelid::regclass::text as name, quote_ident(c.conname) as constraint, c.confrelid::regclass::text as other
  from pg_constraint c
 where c.contype = 'f' and c.conparentid = 0
   and c.conrelid = any(%(moved)s::oid[]) and not c.confrelid = any(%(moved)s::oid[])
"""
_TRIGGERS = """
select t.tgrelid::regclass::text as name, quote_ident(t.tgname) as trigger
  from pg_trigger t where t.tgrelid = any(%(moved)s::oid[]) and not t.tgisinternal and t.tgparentid = 0
"""
_RULES = """
select r.ev_class::regclass::text as name, quote_ident(r.rulename) as rule
  from pg_rewrite r where r.ev_class = any(%(moved)s::oid[])
"""
_EXTENSIONS = """
select quote_ident(e.extname) as name from pg_extension e join pg_namespace n on n.oid = e.extnamespace
 where n.nspname = %(into)s
"""


def isolate(session: Any, *, schema: str, tables: tuple[str, ...], into: str, mark: str) -> tuple[str, ...]:
    """Move a schema, or tables of it, to a new schema, freed from what ties it to the rest.

    Args:
        session: a psycopg connection to the database in the scratch copy, in autocommit.
        schema: that has them.
        tables: empty for the whole schema.
        into: the new schema.
        mark: its comment.

    Returns:
        What was left out, as sentences.

    Raises:
        OperationFailed: there is no such schema or table; the message says which there are.
    """
    if session.execute("select from pg_namespace where nspname = %s", (schema,)).fetchone() is None:
        there = _names(session, "select nspname as name from pg_namespace where nspname !~ '^pg_' order by 1")
        raise OperationFailed(f"The backup has no schema {schema} at that point", remedy=f"It has: {there}.")
    if session.execute("select from pg_namespace where nspname = %s", (into,)).fetchone() is not None:
        raise OperationFailed(f"The backup has a schema {into} already", remedy="Choose another name.")
    # So that every name that the queries give has its schema with it.
    session.execute("set search_path to pg_catalog")
    notes = _move_tables(session, schema, tables, into) if tables else _rename_schema(session, schema, into)
    session.execute(f"comment on schema {identifier(into)} is '{mark}'")
    return notes


def _move_tables(session: Any, schema: str, tables: tuple[str, ...], into: str) -> tuple[str, ...]:
    family = session.execute(_TABLES, {"schema": schema, "tables": list(tables)}).fetchall()
    found = {
        row["relname"]
        for row in session.execute(
            "select relname from pg_class where oid = any(%s::oid[])", ([row["oid"] for row in family],)
        ).fetchall()
    }
    missing = [name for name in tables if name not in found]
    if missing:
        there = _names(session, "select tablename as name from pg_tables where schemaname = %s order by 1", schema)
        raise OperationFailed(
            f"The backup has no table {', '.join(missing)} in schema {schema} at that point", remedy=f"It has: {there}."
        )
    notes = _cut(session, [row["oid"] for row in family], own_code=True)
    session.execute(f"create schema {identifier(into)}")
    for row in family:
        session.execute(f"alter table {row['name']} set schema {identifier(into)}")
    return notes


def _rename_schema(session: Any, schema: str, into: str) -> tuple[str, ...]:
    session.execute(f"alter schema {identifier(schema)} rename to {identifier(into)}")
    extensions = session.execute(_EXTENSIONS, {"into": into}).fetchall()
    if extensions:
        # They are no part of a schema's dump; the live database has them under the old name.
        session.execute(f"create schema {identifier(schema)}")
        for row in extensions:
            session.execute(f"alter extension {row['name']} set schema {identifier(schema)}")
    rows = session.execute(
        "select oid::int8 as oid from pg_class where relkind in ('r', 'p', 'f') and relnamespace ="
        " (select oid from pg_namespace where nspname = %s)",
        (into,),
    ).fetchall()
    return _cut(session, [row["oid"] for row in rows], own_code=False)


def _cut(session: Any, moved: list[int], *, own_code: bool) -> tuple[str, ...]:
    """Take away what would reach from the copy into live tables.

    Args:
        session: see isolate.
        moved: the tables.
        own_code: triggers and rules as well, which would run on live functions.
    """
    notes = []
    asked = {"moved": moved}
    for row in session.execute(_PARENTS, asked).fetchall():
        verb = f"detach partition {row['child']}" if row["partition"] else ""
        if verb:
            session.execute(f"alter table {row['parent']} {verb}")
        else:
            session.execute(f"alter table {row['child']} no inherit {row['parent']}")
        notes.append(f"{row['child']} is no part of {row['parent']} any more")
    for row in session.execute(_FOREIGN_KEYS, asked).fetchall():
        session.execute(f"alter table {row['name']} drop constraint {row['constraint']}")
        notes.append(f"the foreign key {row['constraint']} of {row['name']} to {row['other']} was left out")
    if own_code:
        for row in session.execute(_TRIGGERS, asked).fetchall():
            session.execute(f"drop trigger {row['trigger']} on {row['name']}")
            notes.append(f"the trigger {row['trigger']} of {row['name']} was left out")
        for row in session.execute(_RULES, asked).fetchall():
            session.execute(f"drop rule {row['rule']} on {row['name']}")
            notes.append(f"the rule {row['rule']} of {row['name']} was left out")
    return tuple(notes)


def _names(session: Any, query: str, *parameters: str) -> str:
    return ", ".join(row["name"] for row in session.execute(query, parameters).fetchall()) or "none"

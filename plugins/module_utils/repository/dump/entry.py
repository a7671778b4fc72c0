# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the catalogue says about a dump: which databases, where their content lies, and how a database is made again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record
from ansible_collections.dbops.fleet.plugins.module_utils.repository.backup.index import DUMP
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Judged, Verification, utc

GLOBALS = f"{DUMP}globals.sql"


@dataclass(frozen=True)
class Definition(Record):
    """What `CREATE DATABASE` has to know, because a dump is loaded under another name.

    Attributes:
        owner: name of the role.
        encoding: as `pg_encoding_to_char` calls it.
        provider: of the locale, `c`, `i` or `b` as in pg_database.
        collate, ctype: LC_COLLATE and LC_CTYPE.
        locale: of ICU or the builtin provider.
        settings: of `ALTER DATABASE ... SET`, each `name=value` as in pg_db_role_setting.
        privileges: (role or `PUBLIC`, privilege, with grant option); None for PostgreSQL's own default.
    """

    owner: str
    encoding: str
    provider: str
    collate: str
    ctype: str
    locale: str | None = None
    settings: tuple[str, ...] = ()
    privileges: tuple[tuple[str, str, bool], ...] | None = None


@dataclass(frozen=True)
class DumpedDatabase(Record):
    """One database in a dump, in pg_dump's custom format without compression of its own.

    Attributes:
        name: of the database.
        oid: of the database; names its member of the index.
        definition: of the database.
        schema: of a part that was taken out of a backup: the new schema that it makes in the database; empty for a
            whole database.
        size: bytes of the dump before compression.
    """

    name: str
    oid: int
    definition: Definition
    schema: str = ""
    size: int = 0

    @property
    def member(self) -> str:
        """Its path in the index. By oid: a name can have any character."""
        return f"{DUMP}{self.oid}.dump"


@dataclass(frozen=True)
class Origin(Record):
    """Where a dump comes from that was taken out of a base backup.

    Attributes:
        backup: id.
        replayed_to: position, as text.
        last_commit: when the last transaction in it was committed, as text; None when none was replayed.
        what: for people, such as `public.invoice of orders`.
        notes: what was left out, sentences.
        mark: comment of the new schema, by which a load that was done is known again.
    """

    backup: str
    replayed_to: str
    last_commit: str | None
    what: str
    notes: tuple[str, ...] = ()
    mark: str = ""


@dataclass(frozen=True)
class Dump(Record):
    """A complete dump.

    Attributes:
        id: `YYYYMMDD-HHMMSS` (UTC, when it began) and `D`.
        system: system identifier, as text because JSON readers round large numbers.
        major: PostgreSQL's major version.
        start_time, stop_time: seconds since the epoch, by the database host's clock.
        source: `primary`, `standby` or `backup`.
        host: it was taken on.
        databases: in it, by name.
        all_databases: whether these were all.
        globals: whether roles and tablespaces are in it (`dump/globals.sql`).
        passwords: whether these have the roles' passwords.
        size: bytes before compression.
        sent: bytes that it added to the repository.
        index: SHA-256 of each part of the index, in order.
        packs: id -> numbers of its packs that this dump needs (its own and earlier ones').
        origin: of what was taken out of a base backup.
        tool: version of the engine.
    """

    id: str
    system: str
    major: int
    start_time: float
    stop_time: float
    source: str
    host: str
    databases: tuple[DumpedDatabase, ...]
    all_databases: bool
    globals: bool
    passwords: bool
    size: int
    sent: int
    index: tuple[str, ...]
    packs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    origin: Origin | None = None
    tool: str = ""

    @property
    def series(self) -> str:
        """Dumps of the same choice follow each other; a dump of one database does not replace one of all."""
        if self.origin is not None:
            return EXTRACTS
        return series_of(tuple(one.name for one in self.databases), all_databases=self.all_databases)

    def database(self, name: str) -> DumpedDatabase | None:
        return next((one for one in self.databases if one.name == name), None)


EXTRACTS = "taken out of backups"


def series_of(databases: tuple[str, ...], *, all_databases: bool) -> str:
    """The name of the series that a choice of databases makes, for people as well."""
    if all_databases:
        return "all databases"
    return ", ".join(sorted(databases)) or "globals"


@dataclass(frozen=True)
class ListedDump(Judged):
    """A dump with what is known about it.

    Attributes:
        dump: the catalogue entry.
        pinned: reason why it is kept for ever; None when it is not.
        verified: the newest verification; None when there was none.
    """

    dump: Dump
    pinned: str | None = None
    verified: Verification | None = None

    @property
    def id(self) -> str:
        return self.dump.id

    @property
    def stop_time(self) -> float:
        return self.dump.stop_time


def new_dump_id(start_time: float) -> str:
    """The id of a dump that begins now."""
    return f"{utc(start_time):%Y%m%d-%H%M%S}D"


def is_dump(identifier: str) -> bool:
    """Whether this is the id of a dump, and not of a base backup."""
    return identifier.endswith("D")

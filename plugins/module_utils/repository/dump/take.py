# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking a dump: pg_dump's stream into frames and packs; the catalogue entry comes last."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.repository import cluster as clusters
from ansible_collections.dbops.fleet.plugins.module_utils.repository import server
from ansible_collections.dbops.fleet.plugins.module_utils.repository.backup.index import Member
from ansible_collections.dbops.fleet.plugins.module_utils.repository.backup.packs import Files, KnownFrames, Writer
from ansible_collections.dbops.fleet.plugins.module_utils.repository.backup.take import TOOL
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump import programs
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.entry import (
    GLOBALS,
    Definition,
    Dump,
    DumpedDatabase,
    Origin,
    new_dump_id,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.plan import Wanted, choose
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.programs import Place
from ansible_collections.dbops.fleet.plugins.module_utils.repository.lock import only_one
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import Repository
from ansible_collections.dbops.fleet.plugins.module_utils.repository.shelf import Shelf

PROGRESS_SECONDS = 10.0

# The columns of ICU and the builtin provider have other names in each version.
_DATABASES = """
select d.datname as name, d.oid::int8 as oid, pg_get_userbyid(d.datdba) as owner,
       pg_encoding_to_char(d.encoding) as encoding, d.datcollate as collate, d.datctype as ctype,
       d.datlocprovider::text as provider,
       coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale') as locale,
       coalesce((select s.setconfig from pg_db_role_setting s where s.setdatabase = d.oid and s.setrole = 0), '{}')
         as settings,
       d.datacl is not null as has_privileges,
       array(select jsonb_build_array(case when a.grantee = 0 then 'PUBLIC' else pg_get_userbyid(a.grantee) end,
                                      a.privilege_type, a.is_grantable)
               from aclexplode(d.datacl) a where a.grantee <> d.datdba) as privileges
  from pg_database d
 where d.datallowconn and not d.datistemplate
 order by d.datname
"""

log = logging.getLogger("dbops")


@dataclass(frozen=True)
class Source:
    """What is dumped from where.

    Attributes:
        place: of the server.
        kind: `primary`, `standby` or `backup`.
        origin: of what is taken out of a base backup.
    """

    place: Place
    kind: str
    origin: Origin | None = None


def take(config: Config, repository: Repository, wanted: Wanted) -> Dump:
    """Dump databases of the instance on this host.

    Raises:
        Refused: another dump runs here, or a database does not exist.
        OperationFailed: it broke off; nothing is listed, and what was written is swept up by `dbops expire` later.
    """
    cluster = clusters.read(config)
    repository.check_system(cluster.system, cluster.major)
    with only_one(config, "dump"):
        with server.connected(config) as session:
            databases = choose(wanted, existing(session))
            standby = session.execute("select pg_is_in_recovery() as standby").fetchone()["standby"]
        source = Source(Place.of(config), "standby" if standby else "primary")
        return store(config, Shelf(repository, cluster.system), cluster.major, source, databases, wanted)


def store(
    config: Config,
    shelf: Shelf,
    major: int,
    source: Source,
    databases: tuple[DumpedDatabase, ...],
    wanted: Wanted,
) -> Dump:
    """Dump these into the repository.

    Args:
        config: of the engine.
        shelf: to write to.
        major: PostgreSQL's version.
        source: to read from.
        databases: as the server has them.
        wanted: says whether with globals, and the series.
    """
    shelf.repository.prepare_writing()
    started = time.time()
    entry = Dump(
        id="",
        system=str(shelf.system),
        major=major,
        start_time=started,
        stop_time=started,
        source=source.kind,
        host=socket.gethostname(),
        databases=databases,
        all_databases=wanted.all_databases,
        globals=wanted.globals,
        passwords=wanted.globals and wanted.passwords,
        size=0,
        sent=0,
        index=(),
        origin=source.origin,
        tool=TOOL,
    )
    base = _base_of(shelf, entry)
    identifier, _moment = shelf.begin_now(new_dump_id, base.id if base else None)
    known = KnownFrames()
    with contextlib.closing(known):
        if base is not None:
            known.add(shelf.members(base))
        options = config.backup
        with Writer(
            shelf.repository, shelf.system, identifier, known, level=options.level, threads=options.threads
        ) as writer:
            files = Files(writer)
            if wanted.globals:
                globals_ = programs.dump_globals(source.place, passwords=wanted.passwords)
                _store_member(files, GLOBALS, globals_)
            sizes = [_store_member(files, one.member, _dumped(config, source.place, one)) for one in databases]
            files.end()
            writer.finish()
    entry = replace(
        entry,
        id=identifier,
        stop_time=time.time(),
        databases=tuple(replace(one, size=size) for one, size in zip(databases, sizes, strict=True)),
        size=writer.size,
        sent=writer.sent,
        index=tuple(writer.index),
        packs={owner: tuple(sorted(numbers)) for owner, numbers in sorted(writer.packs.items())},
    )
    shelf.refuse_missing_packs(entry)
    shelf.add(entry)
    return entry


def existing(session: Any) -> tuple[DumpedDatabase, ...]:
    """The databases that can be dumped."""
    return tuple(
        DumpedDatabase(
            name=row["name"],
            oid=row["oid"],
            definition=Definition(
                owner=row["owner"],
                encoding=row["encoding"],
                provider=row["provider"],
                collate=row["collate"],
                ctype=row["ctype"],
                locale=row["locale"],
                settings=tuple(row["settings"]),
                privileges=tuple((who, what, option) for who, what, option in row["privileges"])
                if row["has_privileges"]
                else None,
            ),
        )
        for row in session.execute(_DATABASES).fetchall()
    )


def _base_of(shelf: Shelf, entry: Dump) -> Dump | None:
    """The newest dump of the same series; what did not change since then is not sent again."""
    sound = [item.dump for item in shelf.dumps() if item.dump.series == entry.series and not item.bad]
    return sound[-1] if sound else None


def _dumped(config: Config, place: Place, database: DumpedDatabase) -> Iterator[bytes]:
    return programs.dump_database(
        place, database.name, schema=database.schema, lock_wait_seconds=config.dump.lock_wait_seconds
    )


def _store_member(files: Files, path: str, content: Iterator[bytes]) -> int:
    """Its size in bytes."""
    files.begin(Member(path, "file", 0o600, 0, int(time.time())))
    size = 0
    said = time.monotonic()
    for piece in content:
        files.add(piece)
        size += len(piece)
        if time.monotonic() - said > PROGRESS_SECONDS:
            said = time.monotonic()
            log.info("%s: %d MB", path, size >> 20)
    return size

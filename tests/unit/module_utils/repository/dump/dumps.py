# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dumps for tests of decisions."""

from __future__ import annotations

from dataclasses import replace

from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Verification
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.entry import (
    Definition,
    Dump,
    DumpedDatabase,
    ListedDump,
    Origin,
    new_dump_id,
)

# 2026-06-15 12:00 UTC, a Monday.
NOW = 1781524800.0
DAY_SECONDS = 86400.0
UTF8 = Definition(owner="seller", encoding="UTF8", provider="c", collate="C.UTF-8", ctype="C.UTF-8")


def database(name: str, **others: object) -> DumpedDatabase:
    return replace(DumpedDatabase(name, 16384 + len(name), UTF8), **others)  # type: ignore[arg-type]


def dump(*names: str, days_ago: float = 0, everything: bool = False, origin: Origin | None = None) -> Dump:
    stop = NOW - days_ago * DAY_SECONDS
    identifier = new_dump_id(stop)
    return Dump(
        id=identifier,
        system="1",
        major=15,
        start_time=stop - 60,
        stop_time=stop,
        source="primary",
        host="db1",
        databases=tuple(database(name) for name in names),
        all_databases=everything,
        globals=True,
        passwords=False,
        size=1,
        sent=1,
        index=("00",),
        packs={identifier: (1,)},
        origin=origin,
    )


def listed(entry: Dump, *, good: bool | None = None, pinned: str | None = None) -> ListedDump:
    verified = None if good is None else Verification(entry.id, "read", NOW, good, "a hash differs")
    return ListedDump(entry, pinned, verified)

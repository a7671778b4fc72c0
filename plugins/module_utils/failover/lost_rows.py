# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a diverged member wrote beyond the fork, counted from pg_waldump's text. Pure; `rejoin_lost.py` runs it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record

_LINE = re.compile(r"rmgr: (\S+)\s.*?tx:\s*(\d+),.*?desc: (\S+)")
# Printed with a blkref; the record's first block is the row's.
_RELATION = re.compile(r"rel (\d+)/(\d+)/(\d+)")
_ROWS = {"INSERT": "inserted", "INSERT+INIT": "inserted", "UPDATE": "updated", "HOT_UPDATE": "updated"}
_ROWS |= {"UPDATE+INIT": "updated", "HOT_UPDATE+INIT": "updated", "DELETE": "deleted"}


@dataclass(frozen=True)
class LostRows(Record):
    """Rows of one relation file in transactions that were committed beyond the fork.

    Attributes:
        database, relation: object identifier of the database, and file number of the relation.
        name: of the relation on the new primary, where it could be looked up.
    """

    database: int
    relation: int
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    name: str | None = None


@dataclass(frozen=True)
class Lost(Record):
    """All that is given up.

    Attributes:
        records: of write-ahead log.
        commits: transactions that were committed there and are not on the new primary.
        tables: their rows by relation; system catalogs are left out.
        saved: directory with the write-ahead log and its text, for later analysis; None where nothing could be saved.
    """

    records: int
    commits: int
    tables: tuple[LostRows, ...] = ()
    saved: str | None = None


# Below this, object identifiers and file numbers belong to what initdb made.
_FIRST_USER_FILE = 16384


def count(lines: Iterable[str]) -> Lost:
    """Count records, commits, and rows of committed transactions."""
    records = 0
    committed: set[int] = set()
    rows: dict[int, Counter[tuple[int, int, str]]] = {}
    for line in lines:
        match = _LINE.search(line)
        if match is None:
            continue
        records += 1
        manager, transaction, what = match[1], int(match[2]), match[3]
        if manager == "Transaction" and what.startswith("COMMIT") and not what.startswith("COMMIT_PREPARED"):
            committed.add(transaction)
        elif manager in ("Heap", "Heap2"):
            _count_rows(line, transaction, what, rows)
    tables: dict[tuple[int, int], Counter[str]] = {}
    for transaction, counted in rows.items():
        if transaction in committed:
            for (database, relation, kind), number in counted.items():
                tables.setdefault((database, relation), Counter())[kind] += number
    found = tuple(
        LostRows(database, relation, kinds["inserted"], kinds["updated"], kinds["deleted"])
        for (database, relation), kinds in sorted(tables.items())
        if relation >= _FIRST_USER_FILE
    )
    return Lost(records, len(committed), found)


def _count_rows(line: str, transaction: int, what: str, rows: dict[int, Counter[tuple[int, int, str]]]) -> None:
    relation = _RELATION.search(line)
    if relation is None:
        return
    place = (int(relation[2]), int(relation[3]))
    counted = rows.setdefault(transaction, Counter())
    if what in _ROWS:
        counted[(*place, _ROWS[what])] += 1
    elif what.startswith("MULTI_INSERT"):
        number = re.search(r"(\d+) tuples|ntuples:? (\d+)", line)
        counted[(*place, "inserted")] += int(number[1] or number[2]) if number else 1

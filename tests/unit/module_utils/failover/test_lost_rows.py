# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows beyond the fork, counted from pg_waldump's text of PostgreSQL 15 and 17."""

from __future__ import annotations

from ansible_collections.dbops.fleet.plugins.module_utils.failover.lost_rows import LostRows, count


def line(manager: str, transaction: int, what: str, relation: int = 16389, database: int = 5) -> str:
    """One record. PostgreSQL prints where it is, its size, its transaction, what it is, and the blocks it touches."""
    return (
        f"rmgr: {manager:<11} len (rec/tot):     59/    59, tx: {transaction:>10}, lsn: 0/03000120, prev 0/030000E8, "
        f"desc: {what} , blkref #0: rel 1663/{database}/{relation} blk 0"
    )


def commit(transaction: int) -> str:
    return (
        f"rmgr: Transaction len (rec/tot):     34/    34, tx: {transaction:>10}, lsn: 0/03000160, prev 0/03000120, "
        "desc: COMMIT 2026-11-21 10:00:00.000000 UTC"
    )


def test_rows_of_committed_transactions_count() -> None:
    lost = count(
        [
            line("Heap", 740, "INSERT off: 1, flags: 0x08"),
            line("Heap", 740, "INSERT+INIT off: 1, flags: 0x08"),
            line("Heap", 740, "HOT_UPDATE old_xmax: 740"),
            line("Heap", 740, "DELETE xmax: 740"),
            commit(740),
        ]
    )
    assert (lost.records, lost.commits) == (5, 1)
    assert lost.tables == (LostRows(5, 16389, inserted=2, updated=1, deleted=1),)


def test_a_transaction_that_never_committed_has_lost_nothing() -> None:
    aborted = line("Transaction", 741, "ABORT 2026-11-21 10:00:00.000000 UTC")
    lost = count([line("Heap", 741, "INSERT off: 1"), aborted, line("Heap", 742, "INSERT off: 2")])
    assert lost.commits == 0
    assert lost.tables == ()


def test_every_row_of_a_copy_counts() -> None:
    of_15 = line("Heap2", 750, "MULTI_INSERT 37 tuples flags 0x02")
    of_17 = line("Heap2", 750, "MULTI_INSERT ntuples: 5, flags: 0x02")
    assert count([of_15, of_17, commit(750)]).tables == (LostRows(5, 16389, inserted=42),)


def test_system_catalogs_and_indexes_are_no_rows_of_users() -> None:
    lost = count([line("Heap", 760, "INSERT off: 1", relation=1249), line("Btree", 760, "INSERT_LEAF"), commit(760)])
    assert lost.commits == 1
    assert lost.tables == ()


def test_tables_are_told_apart_by_database() -> None:
    lines = [line("Heap", 770, "INSERT off: 1", database=number) for number in (5, 6, 6)]
    assert [(t.database, t.inserted) for t in count([*lines, commit(770)]).tables] == [(5, 1), (6, 2)]


def test_preparing_a_commit_is_no_commit_and_noise_is_no_record() -> None:
    prepared = line("Transaction", 780, "COMMIT_PREPARED gid x")
    lost = count(["pg_waldump: error: invalid record length", "", line("Heap", 780, "INSERT off: 1"), prepared])
    assert (lost.records, lost.commits, lost.tables) == (2, 0, ())

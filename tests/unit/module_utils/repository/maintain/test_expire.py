# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What retention deletes while others begin and end their backups."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.repository import layout
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Backup
from ansible_collections.dbops.fleet.plugins.module_utils.repository.maintain import expire
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import StoreUnavailable
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import Repository
from ansible_collections.dbops.fleet.plugins.module_utils.repository.retention import Policy
from ansible_collections.dbops.fleet.plugins.module_utils.repository.shelf import Shelf
from ansible_collections.dbops.fleet.plugins.module_utils.repository.store.directory import DirectoryStore
from ansible_collections.dbops.fleet.plugins.module_utils.repository.store.interface import StoredObject
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import Segment

SYSTEM = 1
SIZE = 16 << 20
NEWEST_ALONE = Policy(daily=0, weekly=0, monthly=0, window_days=0, verified=0)
OLD, BASE, RUNNING = "20260301-010000F", "20260301-020000I", "20260301-030000I"


class Meanwhile(DirectoryStore):
    """Does something of somebody else just before one of the listings."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.listings = 0
        self.moment: int | None = None
        self.act: Callable[[], None] = lambda: None

    def list(self, prefix: str, after: str = "") -> Iterator[StoredObject]:
        self.listings += 1
        if self.listings == self.moment:
            self.act()
        return super().list(prefix, after)


@pytest.fixture
def store(tmp_path: Path) -> Meanwhile:
    return Meanwhile(tmp_path)


@pytest.fixture
def shelf(store: Meanwhile) -> Shelf:
    return Shelf(Repository("local", store, None), SYSTEM)


def begin(shelf: Shelf, identifier: str, base: str | None) -> None:
    shelf.begin(identifier, base)
    shelf.repository.store.create(layout.pack_object(SYSTEM, identifier, 1), b"frames")


def end(shelf: Shelf, identifier: str, base: str | None, number: int) -> None:
    packs = {owner: (1,) for owner in (base, identifier) if owner is not None}
    ended = time.time() - 3600 + number
    shelf.add(
        Backup(
            id=identifier,
            system=str(SYSTEM),
            major=15,
            timeline=1,
            start_lsn=Lsn(number * SIZE + 40),
            stop_lsn=Lsn(number * SIZE + 400),
            start_time=ended - 1,
            stop_time=ended,
            incremental=base is not None,
            source="primary",
            host="db1",
            segment_size=SIZE,
            size=1,
            sent=1,
            files=1,
            index=(),
            packs=packs,
        )
    )


def whole(shelf: Shelf) -> list[str]:
    """Ids of what is listed, each with all its packs."""
    for item in shelf.listed():
        shelf.refuse_missing_packs(item.backup)
    return [item.id for item in shelf.listed()]


@pytest.mark.parametrize("base", [BASE, OLD])
def test_a_backup_that_ends_while_retention_looks_stays_whole_whatever_the_moment(tmp_path: Path, base: str) -> None:
    for moment in itertools.count(1):
        store = Meanwhile(tmp_path / f"{base}-{moment}")
        Path(store.address).mkdir()
        shelf = Shelf(Repository("local", store, None), SYSTEM)
        begin(shelf, OLD, None)
        end(shelf, OLD, None, 1)
        begin(shelf, RUNNING, base)
        begin(shelf, BASE, None)
        end(shelf, BASE, None, 2)
        store.listings, store.moment = 0, moment
        store.act = lambda shelf=shelf: end(shelf, RUNNING, base, 3)  # type: ignore[misc]
        removal = expire.decide(shelf, NEWEST_ALONE)
        if store.listings < moment:
            break
        expire.carry_out(shelf, removal)
        assert whole(shelf)[-1] == RUNNING, moment
    assert moment > 8


def test_a_backup_that_begins_while_retention_looks_can_go_on_whatever_the_moment(tmp_path: Path) -> None:
    for moment in itertools.count(1):
        store = Meanwhile(tmp_path / str(moment))
        Path(store.address).mkdir()
        shelf = Shelf(Repository("local", store, None), SYSTEM)
        for number, identifier in enumerate((OLD, BASE), 1):
            begin(shelf, identifier, None)
            end(shelf, identifier, None, number)
        store.listings, store.moment = 0, moment
        store.act = lambda shelf=shelf: begin(shelf, RUNNING, BASE)  # type: ignore[misc]
        removal = expire.decide(shelf, NEWEST_ALONE)
        if store.listings < moment:
            break
        expire.carry_out(shelf, removal)
        end(shelf, RUNNING, BASE, 3)
        assert whole(shelf) == [BASE, RUNNING], moment
    assert moment > 8


def test_what_a_killed_run_left_and_what_was_given_up_goes(shelf: Shelf, store: Meanwhile, tmp_path: Path) -> None:
    begin(shelf, OLD, None)
    begin(shelf, BASE, None)
    end(shelf, BASE, None, 1)
    begin(shelf, RUNNING, None)
    store.delete(layout.begun_object(SYSTEM, OLD))
    for path in (tmp_path / layout.backup_prefix(SYSTEM, RUNNING)).iterdir():
        os.utime(path, (1, 1))
    removal = expire.decide(shelf, NEWEST_ALONE)
    assert {key.split("/")[2] for key in removal.objects} == {OLD, RUNNING}
    expire.carry_out(shelf, removal)
    assert whole(shelf) == [BASE]
    assert not list(store.list(layout.backup_prefix(SYSTEM, RUNNING)))


def test_a_disk_without_room_for_the_mark_of_the_horizon_gets_room_from_the_backups(
    shelf: Shelf, store: Meanwhile, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, identifier in enumerate((OLD, BASE), 1):
        begin(shelf, identifier, None)
        end(shelf, identifier, None, number)
    name = Segment(1, 1, SIZE).name
    wal = layout.wal_object(SYSTEM, name, "0" * 64, sealed=False)
    store.create(wal, b"")
    removal = expire.decide(shelf, NEWEST_ALONE)
    assert removal.segments == (name,)

    def full(_key: str, _data: bytes) -> None:
        raise StoreUnavailable("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(store, "create", full)
        with pytest.raises(StoreUnavailable):
            expire.carry_out(shelf, removal)
    assert whole(shelf) == [BASE]
    assert not list(store.list(layout.backup_prefix(SYSTEM, OLD)))
    assert list(store.list(wal))
    expire.carry_out(shelf, expire.decide(shelf, NEWEST_ALONE))
    assert not list(store.list(wal))
    assert [item.key for item in store.list(layout.horizon_prefix(SYSTEM))] == [layout.horizon_object(SYSTEM, 1, 2)]

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The directory store: whole or not at all, never twice, never into the void below an unmounted disk."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import (
    ObjectCorrupt,
    ObjectExists,
    ObjectMissing,
    StoreUnavailable,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.store.directory import DirectoryStore


def test_what_was_created_is_read_listed_and_deleted(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.create("a/b/c", b"content")
    assert store.read("a/b/c") == b"content"
    assert store.read_range("a/b/c", 3, 2) == b"te"
    assert [(item.key, item.size) for item in store.list("a/")] == [("a/b/c", 7)]
    store.delete("a/b/c")
    store.delete("a/b/c")
    with pytest.raises(ObjectMissing):
        store.read("a/b/c")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.create("a", b"first")
    with pytest.raises(ObjectExists):
        store.create("a", b"second")
    assert store.read("a") == b"first"
    assert os.listdir(tmp_path) == ["a"]


def test_of_many_writers_exactly_one_wins(tmp_path: Path) -> None:
    won: list[int] = []

    def write(number: int) -> None:
        try:
            DirectoryStore(tmp_path).create("deep/down/claim", bytes([number]) * 10000)
        except ObjectExists:
            return
        won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert DirectoryStore(tmp_path).read("deep/down/claim") == bytes(won) * 10000


def test_a_listing_is_sorted_and_begins_behind_a_key(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    keys = ["a", "b/1", "b/2", "b/x/9", "b.txt", "c/1"]
    for key in keys:
        store.create(key, b"")
    everything = [item.key for item in store.list("")]
    assert everything == sorted(keys)
    for after in (*keys, "b/", "b/x", "b/x/~", "zz"):
        assert [item.key for item in store.list("", after=after)] == [key for key in everything if key > after]
    for prefix in ("b", "b/", "b/x", "nothing"):
        assert [item.key for item in store.list(prefix)] == [key for key in everything if key.startswith(prefix)]


@pytest.mark.parametrize("call", ["write", "fsync", "link"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failing_disk_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    store = DirectoryStore(tmp_path)
    store.create("earlier", b"intact")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(StoreUnavailable, match=os.strerror(number)):
            store.create("later", b"content")
    assert os.listdir(tmp_path) == ["earlier"]
    store.create("later", b"content")


def test_a_missing_root_is_unavailable_and_never_made(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "unmounted")
    with pytest.raises(StoreUnavailable):
        store.create("a/b", b"")
    with pytest.raises(StoreUnavailable):
        store.read("a")
    with pytest.raises(StoreUnavailable):
        list(store.list(""))
    assert os.listdir(tmp_path) == []


def test_an_object_that_ends_too_early_is_corrupt(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.create("a", b"content")
    with pytest.raises(ObjectCorrupt):
        store.read_range("a", 5, 10)


@pytest.mark.parametrize("key", ["/etc/passwd", "../x", "a/../../x"])
def test_a_key_that_leads_out_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError):
        DirectoryStore(tmp_path).read(key)

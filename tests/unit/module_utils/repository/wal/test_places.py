# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A file into several repositories of which one is down."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.repository import layout
from ansible_collections.dbops.fleet.plugins.module_utils.repository.cluster import Cluster
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config, parse
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import ContentConflict
from ansible_collections.dbops.fleet.plugins.module_utils.repository.store.directory import DirectoryStore
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.places import REST_SECONDS, Place, archive
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.push import hashes

CLUSTER = Cluster(7, 15, 16 << 20)
NAMES = ("first", "second")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Two repositories that know the cluster."""
    for name in NAMES:
        (tmp_path / name).mkdir()
        store = DirectoryStore(tmp_path / name)
        store.create(layout.REPOSITORY, json.dumps({"format": 1, "id": name, "cluster": "orders"}).encode())
        store.create(layout.system_object(7), json.dumps({"major": 15}).encode())
    repositories = [{"name": name, "type": "directory", "path": str(tmp_path / name)} for name in NAMES]
    paths = dict.fromkeys(("data_directory", "bin_directory", "spool_directory", "state_directory"), str(tmp_path))
    return parse({"cluster": "orders", "repositories": repositories, **paths})


@pytest.fixture
def places(config: Config) -> list[Place]:
    return [Place(settings, config, CLUSTER) for settings in config.repositories]


@pytest.fixture
def history(tmp_path: Path) -> Path:
    path = tmp_path / "00000002.history"
    path.write_text("1\t0/3000000\tno recovery target specified\n")
    return path


def has(place: Place, name: str) -> bool:
    return bool(hashes(place.open(), CLUSTER.system, name))


def test_the_second_gets_it_although_the_first_is_down_and_only_the_first_is_tried_again(
    places: list[Place], history: Path, tmp_path: Path
) -> None:
    away = (tmp_path / "first").rename(tmp_path / "away")
    archived = archive(places, CLUSTER, history, level=1)
    assert (archived.taken, archived.complete) == (("second",), False)
    assert "first" in archived.errors[0].message
    assert has(places[1], history.name)
    away.rename(tmp_path / "first")
    archived = archive(places, CLUSTER, history, level=1, taken=archived.taken)
    assert (archived.taken, archived.already, archived.complete) == (("second", "first"), (), True)
    assert has(places[0], history.name)


def test_a_place_that_failed_rests_and_then_one_caller_at_a_time_tries_it(
    places: list[Place], history: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = (tmp_path / "first").rename(tmp_path / "away")
    archive(places, CLUSTER, history, level=1)
    archived = archive(places, CLUSTER, history, level=1, urgent=False)
    assert (archived.errors, len(archived.waiting), archived.complete) == ((), 1, False)
    assert places[0].resting
    now = time.monotonic() + REST_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert not places[0].resting
    assert places[0].claim()
    assert not places[0].claim()
    away.rename(tmp_path / "first")
    assert archive(places, CLUSTER, history, level=1).complete
    assert places[0].error is None


def test_a_repository_that_does_not_know_the_cluster_holds_up_no_other(
    places: list[Place], history: Path, tmp_path: Path
) -> None:
    (tmp_path / "first" / layout.system_object(7)).unlink()
    archived = archive(places, CLUSTER, history, level=1)
    assert archived.taken == ("second",)
    assert "keeps system identifier" in archived.errors[0].message


def test_what_one_refuses_for_its_content_no_other_gets(places: list[Place], history: Path, tmp_path: Path) -> None:
    archive(places[:1], CLUSTER, history, level=1)
    history.write_text("1\t0/5000000\tanother server wrote this\n")
    with pytest.raises(ContentConflict):
        archive(places, CLUSTER, history, level=1)
    assert places[0].error is None
    assert not has(places[1], history.name)


def test_a_file_that_is_not_what_its_name_says_goes_nowhere_and_no_place_is_down(
    places: list[Place], tmp_path: Path
) -> None:
    path = tmp_path / "000000010000000000000002"
    path.write_text("no WAL")
    with pytest.raises(Refused, match="has 6 bytes"):
        archive(places, CLUSTER, path, level=1)
    assert [place.error for place in places] == [None, None]

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures for tests against a real PgBouncer: one PostgreSQL for all of them, poolers for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.pooler import deadman, loaded
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.console import Endpoint
from ansible_collections.dbops.fleet.tests.integration.poolers import Pooler, Poolers
from ansible_collections.dbops.fleet.tests.integration.servers import Server, Servers


@pytest.fixture(autouse=True)
def own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept on a host beside PgBouncer's own files is kept by each test for itself."""
    monkeypatch.setattr(deadman, "DIRECTORY", tmp_path / "deadman")
    monkeypatch.setattr(loaded, "DIRECTORY", tmp_path / "loaded")


@pytest.fixture(scope="module")
def database() -> Iterator[Server]:
    """A primary with the databases `orders` and `we"ird db`."""
    with Servers() as servers:
        server = servers.primary("db1")
        server.sql("CREATE DATABASE orders")
        server.sql('CREATE DATABASE "we""ird db"')
        yield server


@pytest.fixture
def poolers() -> Iterator[Poolers]:
    with Poolers() as made:
        yield made


@pytest.fixture
def pool1(poolers: Poolers, database: Server) -> Pooler:
    """A pooler for `orders`, and for every other database by its own name."""
    return poolers.start("pool1", targets(database))


@pytest.fixture
def pool2(poolers: Poolers, database: Server) -> Pooler:
    return poolers.start("pool2", targets(database))


def targets(database: Server) -> dict[str, str]:
    place = f"host={database.address} port={database.port}"
    return {"orders": f"{place} dbname=orders", "*": place}


def endpoint(pooler: Pooler) -> Endpoint:
    """The console on the pooler's unix socket, without a password."""
    return Endpoint(pooler.name, str(pooler.directory), pooler.port)


@pytest.fixture
def endpoints(pool1: Pooler, pool2: Pooler) -> list[Endpoint]:
    return [endpoint(pool1), endpoint(pool2)]

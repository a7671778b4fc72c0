# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of setup.yml on test hosts: the set of Molecule's scenarios, which are never run at the same time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(_TESTS), str(_TESTS / "setup")]

from fleet import Fleet  # noqa: E402
from hosts.fixtures import Hosts  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_TESTS / "setup"):
            item.add_marker(pytest.mark.fleet)


@pytest.fixture(scope="session")
def hosts() -> Iterator[Hosts]:
    """Hosts that are destroyed at the end."""
    hosts = Hosts(os.environ.get("FLEET_HOSTS_SET") or "molecule")
    yield hosts
    hosts.tool("down")


@pytest.fixture
def fleet(hosts: Hosts, tmp_path: Path) -> Fleet:
    """An empty inventory, and secrets of its own."""
    return Fleet(hosts, tmp_path)

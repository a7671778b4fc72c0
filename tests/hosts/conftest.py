# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tests of fleet-hosts itself. Real hosts are made in a set of their own, never in the one that others use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The tool runs as a script, with this directory as the root of its imports; its fixtures are hosts.fixtures.
_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parent)]

from hosts.fixtures import Hosts  # noqa: E402


@pytest.fixture(scope="session")
def own_hosts() -> Iterator[Hosts]:
    """Hosts of the set `selftest`, destroyed at the end."""
    hosts = Hosts(set_name="selftest")
    hosts.tool("down")  # what a killed run has left
    yield hosts
    hosts.tool("down")

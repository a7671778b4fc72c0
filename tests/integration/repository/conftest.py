# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the repository's tests: the engine installed as on a host, beside a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ansible_collections.dbops.fleet.tests.integration.repository.engine import Engine
from ansible_collections.dbops.fleet.tests.integration.servers import Servers


@pytest.fixture
def engine(servers: Servers) -> Iterator[Engine]:
    """A running primary whose WAL goes to a directory repository, without an archiver yet."""
    with Engine.with_primary(servers) as made:
        yield made

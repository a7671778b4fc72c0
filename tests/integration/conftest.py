# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of all integration tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ansible_collections.dbops.fleet.tests.integration.servers import Servers


@pytest.fixture
def servers() -> Iterator[Servers]:
    """Makes real PostgreSQL servers that are gone after the test."""
    with Servers() as made:
        yield made

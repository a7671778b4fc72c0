# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recommended settings are ones that a real server takes."""

from __future__ import annotations

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.settings import PROFILES, recommended_settings
from ansible_collections.dbops.fleet.tests.integration.servers import Servers


@pytest.mark.parametrize("profile", PROFILES)
def test_postgresql_starts_with_the_settings_of_every_profile(servers: Servers, profile: str) -> None:
    server = servers.server("db1")
    without_files = {"ssl": "off", "ssl_ca_file": "", "ssl_cert_file": None, "ssl_key_file": None}
    settings = recommended_settings(512, version=server.version, profile=profile, overrides=without_files)
    server.initdb(**settings).start()
    assert server.value("SHOW shared_buffers") == settings["shared_buffers"]
    # Nothing was taken differently than it was meant.
    wrong = server.sql("SELECT name, error FROM pg_file_settings WHERE error IS NOT NULL")
    assert wrong == []

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration: one form, and mistakes that are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import load, parse

MINIMAL: dict[str, Any] = {
    "cluster": "orders",
    "data_directory": "/var/lib/postgresql/15/main",
    "bin_directory": "/usr/lib/postgresql/15/bin",
    "repositories": [{"name": "local", "type": "directory", "path": "/srv/backup/orders"}],
}


def test_defaults_keep_seven_daily_four_weekly_and_twelve_monthly() -> None:
    config = parse({**MINIMAL, "port": None})
    assert (config.retention.daily, config.retention.weekly, config.retention.monthly) == (7, 4, 12)
    assert config.port == 5432
    assert config.repositories[0].recipients == ()


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "backup.json"
    path.write_text(json.dumps({**MINIMAL, "retention": {"daily": 3}}))
    assert load(str(path)).retention.daily == 3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"repositories": []}, "names no repository"),
        ({"repositories": [{"name": "a", "type": "tape"}]}, "is no type"),
        ({"repositories": [{"name": "a", "type": "s3"}]}, "needs `bucket`"),
        ({"repositories": [{"name": "a", "type": "directory", "path": "x"}]}, "not absolute"),
        ({"repositories": MINIMAL["repositories"] * 2}, "same name"),
        ({"data_directory": "main"}, "absolute"),
        ({"cluster": None}, "incomplete"),
        ({"colour": "red"}, "Unknown in configuration: colour"),
        ({"wal": {"levle": 1}}, "Unknown in wal: levle"),
    ],
)
def test_a_mistake_is_named(change: dict[str, Any], told: str) -> None:
    with pytest.raises(Refused, match=told):
        parse({**MINIMAL, **change})


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "backup.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(Refused):
        load(str(path))

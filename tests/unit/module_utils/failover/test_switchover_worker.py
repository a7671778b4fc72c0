# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process of a switchover: how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.failover import switchover_worker as worker


def test_a_worker_that_fails_says_where_and_removes_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "code"
    directory.mkdir()
    spec = directory / "spec.json"
    spec.write_text(json.dumps({"journal": str(tmp_path / "missing.jsonl"), "directory": str(directory)}))
    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)
    worker.main(str(spec))
    assert codes == [0]
    said = capsys.readouterr().err
    assert "unexpected FileNotFoundError" in said
    assert "switchover_worker.py" in said
    # The words of an error can hold a connection string.
    assert "missing.jsonl" not in said
    assert not directory.exists()

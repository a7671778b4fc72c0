# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starting an instance: what check mode predicts, and how a start that fails is told."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.topology.start import instance_start

NOWHERE = {"version": 99, "name": "main", "streaming": False}


def test_check_mode_would_start_an_instance_that_is_still_to_be_made() -> None:
    outcome = instance_start(NOWHERE, True)
    assert outcome.changed
    assert outcome.result == {}


def test_an_instance_that_does_not_start_is_told_with_unit_log_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemctl = tmp_path / "systemctl"
    systemctl.write_text('#!/bin/sh\n[ "$1" = daemon-reload ] || { echo "control process exited" >&2; exit 1; }\n')
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(OperationFailed) as caught:
        instance_start(NOWHERE, False)
    told = str(caught.value)
    assert told.startswith(f"{socket.gethostname()}: PostgreSQL 99 did not start. Its data is untouched.")
    assert "control process exited" in told
    assert "journalctl -u postgresql@99-main.service or the end of /var/log/postgresql/postgresql-99-main.log" in told
    assert "(no log)" in told

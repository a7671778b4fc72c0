# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""fleet-hosts called by somebody who is not root, with a sudo that grants or refuses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fleet_hosts import cli


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that this process became. The user is nobody's root, and asks for the set's state."""
    commands: list[list[str]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "execv", lambda _path, command: commands.append(command))
    monkeypatch.setattr("sys.argv", ["/checkout/tests/hosts/fleet-hosts", "status"])
    return commands


def make_sudo(directory: Path, monkeypatch: pytest.MonkeyPatch, exit_code: int) -> str:
    sudo = directory / "sudo"
    sudo.write_text(f"#!/bin/sh\nexit {exit_code}\n")
    sudo.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory))
    return str(sudo)


def test_it_starts_over_with_sudo_and_keeps_the_name_of_the_set(
    executed: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sudo = make_sudo(tmp_path, monkeypatch, 0)
    assert cli.main() == 0
    ((command, _, kept, *tool),) = executed
    assert command == sudo
    assert {"FLEET_HOSTS_SET", "FLEET_HOSTS_STATE"} <= set(kept.removeprefix("--preserve-env=").split(","))
    assert tool == ["/checkout/tests/hosts/fleet-hosts", "status"]


def test_a_sudo_that_asks_for_a_password_is_refused_with_what_to_do(
    executed: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_sudo(tmp_path, monkeypatch, 1)
    assert cli.main() == 1
    assert "NOPASSWD" in capsys.readouterr().err
    assert not executed


def test_without_sudo_it_says_who_may_call_it(
    executed: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main() == 1
    assert "Be root" in capsys.readouterr().err
    assert not executed

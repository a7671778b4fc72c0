# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the start of a unit is waited for, with a systemctl that does as it is told."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.instance import Instance, included_files


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a shell script of that body in systemctl's place; returns the file that the script makes at its end."""
    ended = tmp_path / "ended"

    def put(body: str) -> Path:
        program = tmp_path / "systemctl"
        program.write_text(f"#!/bin/sh\n{body}\ntouch {ended}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return ended

    return put


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    data = tmp_path / "data"
    data.mkdir()
    return Instance(version=17, name="main", data_directory=data, binaries=Path("/nowhere"), unit="postgresql@17-main")


@contextmanager
def postmaster(instance: Instance, status: str) -> Iterator[None]:
    """A process in the data directory whose postmaster.pid has this status."""
    with subprocess.Popen(["sleep", "60"], cwd=instance.data_directory) as process:
        lines = [str(process.pid), str(instance.data_directory), "0", "5432", "/tmp", "*", "0", status]
        (instance.data_directory / "postmaster.pid").write_text("\n".join(lines) + "\n")
        yield
        process.kill()


def test_does_not_wait_for_the_unit_once_the_server_takes_sessions(
    instance: Instance, systemctl: Callable[[str], Path]
) -> None:
    ended = systemctl("exec sleep 60")
    with postmaster(instance, "ready   "):
        instance.start(timeout=2)
    assert not ended.exists()


@pytest.mark.parametrize("status", ["starting", "standby ", "stopping"])
def test_waits_for_the_unit_while_the_server_takes_no_sessions(
    instance: Instance, systemctl: Callable[[str], Path], status: str
) -> None:
    ended = systemctl("sleep 0.2")
    with postmaster(instance, status):
        instance.start()
    assert ended.exists()


def test_a_unit_that_fails_is_told_with_what_systemctl_said(
    instance: Instance, systemctl: Callable[[str], Path]
) -> None:
    systemctl("echo start-limit-hit >&2; exit 1")
    with pytest.raises(OperationFailed, match="start-limit-hit"):
        instance.start()


def test_included_files_are_those_that_postgresql_reads_in_its_order(tmp_path: Path) -> None:
    assert included_files(tmp_path) == []
    (tmp_path / "conf.d").mkdir()
    for name in ("60-backup.conf", "50-fleet.conf", ".dbops-50-fleet.conf", "50-fleet.conf.dpkg-old"):
        (tmp_path / "conf.d" / name).touch()
    assert [path.name for path in included_files(tmp_path)] == ["50-fleet.conf", "60-backup.conf"]


def test_a_process_that_only_has_the_postmasters_number_is_no_server(
    instance: Instance, systemctl: Callable[[str], Path]
) -> None:
    ended = systemctl("sleep 0.2")
    lines = ["1", str(instance.data_directory), "0", "5432", "/tmp", "*", "0", "ready"]
    (instance.data_directory / "postmaster.pid").write_text("\n".join(lines) + "\n")
    instance.start()
    assert ended.exists()

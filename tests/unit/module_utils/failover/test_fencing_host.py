# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fence over SSH where the instance that it is to stop is not there. With servers: tests/faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.failover.fencing import CONFIRMED, UNCONFIRMED, Rung
from ansible_collections.dbops.fleet.plugins.module_utils.failover.fencing_host import fence_host, mark_file
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.instance import Instance


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file system with one process, which is no server's."""
    process(tmp_path, 1, "systemd")
    (tmp_path / "proc/uptime").touch()
    return tmp_path


def process(root: Path, number: int, name: str) -> None:
    place = root / f"proc/{number}"
    place.mkdir(parents=True)
    (place / "comm").write_text(f"{name}\n")


def fence(root: Path) -> Rung:
    instance = Instance(17, "main", root / "var/lib/postgresql/17/main", Path("/usr/lib/postgresql/17/bin"))
    return fence_host(instance, "orders", directory=root / "state", root=root)


@pytest.mark.parametrize("mounted", [False, True], ids=["no directory", "an empty directory"])
def test_an_instance_that_is_not_there_is_no_fence_while_a_server_runs(root: Path, mounted: bool) -> None:
    """Its file system may have been unmounted under it, or it is of another version."""
    if mounted:
        (root / "var/lib/postgresql/17/main").mkdir(parents=True)
    process(root, 4711, "postgres")
    rung = fence(root)
    assert rung.status == UNCONFIRMED
    assert "there is no instance 17/main" in rung.evidence[0]
    assert "processes called postgres: 4711" in rung.evidence
    assert not mark_file(root / "state").exists()


def test_an_instance_of_another_version_that_does_not_run_is_no_fence_either(root: Path) -> None:
    (root / "etc/postgresql/15/main").mkdir(parents=True)
    rung = fence(root)
    assert rung.status == UNCONFIRMED
    assert "configured in /etc/postgresql: 15/main" in rung.evidence


def test_a_host_without_any_server_or_other_instance_takes_no_writes(root: Path) -> None:
    (root / "etc/postgresql/17/main").mkdir(parents=True)
    rung = fence(root)
    assert rung.status == CONFIRMED
    assert mark_file(root / "state").exists()

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dead-man's decision and the unit that it runs in."""

from __future__ import annotations

import json
from pathlib import Path

from ansible_collections.dbops.fleet.plugins.module_utils.pooler.console import Endpoint
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.deadman import Deadman, systemd_command, unit_name
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.guard import is_done, next_step


def test_waits_until_the_time_is_up() -> None:
    since, overdue = next_step({}, ["orders"], 100.0, 5.0)
    assert (since, overdue) == ({"orders": 100.0}, [])
    since, overdue = next_step(since, ["orders"], 104.9, 5.0)
    assert (since, overdue) == ({"orders": 100.0}, [])
    assert next_step(since, ["orders"], 105.0, 5.0)[1] == ["orders"]


def test_forgets_a_pause_that_has_ended() -> None:
    assert next_step({"orders": 100.0}, [], 101.0, 5.0) == ({}, [])
    assert next_step({}, ["orders"], 200.0, 5.0) == ({"orders": 200.0}, [])


def test_each_database_has_its_own_time() -> None:
    since, overdue = next_step({"a": 0.0}, ["a", "b"], 6.0, 5.0)
    assert overdue == ["a"]
    assert since["b"] == 6.0


def test_runs_as_a_unit_of_its_own_and_without_secrets() -> None:
    endpoint = Endpoint("pool1", "/run/x", 6432, password="s3cret")
    config = Deadman("switch-1", (endpoint,), ("orders",), 7.0).config(uid=105)
    assert "s3cret" not in config
    assert json.loads(config)["uid"] == 105
    command = systemd_command("switch-1", Path("/d/guard.py"), Path("/d/switch-1.json"), "/usr/bin/python3")
    assert command[0] == "systemd-run"
    assert f"--unit={unit_name('switch-1')}" in command
    assert command[-3:] == ["/usr/bin/python3", "/d/guard.py", "/d/switch-1.json"]


def test_work_is_done_when_all_that_was_staged_is_in_force_and_nothing_is_paused() -> None:
    staged = {"a": {"host": "192.0.2.2", "port": 5432}, "b": {"host": "192.0.2.2", "port": 5432}}

    def rows(**paused_and_host: tuple[int, str]) -> list[dict[str, object]]:
        return [{"name": n, "host": host, "port": 5432, "paused": p} for n, (p, host) in paused_and_host.items()]

    new, old = (0, "192.0.2.2"), (0, "192.0.2.1")
    assert is_done(staged, rows(a=new, b=new, other=old))
    assert not is_done(staged, rows(a=new, b=old))
    assert not is_done(staged, rows(a=new, b=(1, "192.0.2.2")))
    assert not is_done(staged, rows(a=new))
    assert not is_done({}, rows(a=new))

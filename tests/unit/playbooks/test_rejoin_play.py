# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whom rejoin.yml takes for the primary, and what it refuses: as shipped, with modules that only answer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

COLLECTION = Path(__file__).resolve().parents[3]
ANSWERS = """#!{python}
# WANT_JSON
import json, sys
from pathlib import Path
name, asked = Path(__file__).stem.removeprefix("AnsiballZ_"), json.loads(Path(sys.argv[1]).read_text())
with Path({calls!r}).open("a") as calls:
    calls.write(json.dumps([{module!r}, asked]) + chr(10))
answers = json.loads(Path({answers!r}).read_text())[{module!r}]
print(json.dumps(answers.get(asked.get("vantage"), answers.get("", {{}}))))
"""


@dataclass
class Played:
    """How a run of the playbook ended, and the arguments of each call of each module."""

    code: int
    text: str
    calls: list[tuple[str, dict[str, Any]]]

    def of(self, module: str) -> list[dict[str, Any]]:
        """The arguments of this module's calls."""
        return [arguments for name, arguments in self.calls if name == module]


def member(name: str, timeline: int, **more: object) -> dict[str, Any]:
    """A member as primary_sight_info tells it; a running standby unless said otherwise."""
    facts = {"name": name, "timeline": timeline, "state": "running", "in_recovery": True, "system_identifier": "7"}
    return {"sight": {"member": {**facts, **more}, "lowered_synchronous": None}}


@pytest.fixture
def play(tmp_path: Path) -> Any:
    """Runs the playbook for members db1, db2 and db3, each as it is told; nobody listens where the others are."""

    def run(sights: dict[str, Any], primary: str | None, *options: str, **variables: str) -> Played:
        fleet = tmp_path / "ansible_collections/dbops/fleet"
        shutil.copytree(COLLECTION / "playbooks", fleet / "playbooks")
        calls, answers = tmp_path / "calls", tmp_path / "answers"
        calls.touch()
        modules = {
            "primary_sight_info": sights,
            "replica_rejoin": {"": {"action": "follow", "msg": "why", "lost": None, "synchronous": None}},
            "instance_info": {"": {"instance": {}}},
            "cluster_info": {"": {"primary": primary, "members": [], "report": ["the report"]}},
            "pgbouncer_pool": {},
        }
        answers.write_text(json.dumps(modules))
        (fleet / "plugins/modules").mkdir(parents=True)
        for name in modules:
            text = ANSWERS.format(python=sys.executable, calls=str(calls), answers=str(answers), module=name)
            (fleet / f"plugins/modules/{name}.py").write_text(text)
        here: dict[str, Any] = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        away = {"ansible_host": "127.0.0.1", "ansible_port": 1}
        hosts = {
            name: {**(here if name in sights else away), "fleet_cluster": "orders"} for name in ("db1", "db2", "db3")
        }
        for name, upstream in variables.items():
            hosts[name]["postgres_replica_upstream"] = upstream
        inventory = tmp_path / "inventory.json"
        groups = {"postgresql": {"children": {"orders": {"hosts": hosts}}}, "pgbouncer": {}}
        inventory.write_text(json.dumps({"all": {"vars": {"ansible_become": False}, "children": groups}}))
        command = [shutil.which("ansible-playbook") or "ansible-playbook", "-i", str(inventory), "dbops.fleet.rejoin"]
        done = subprocess.run(
            [*command, "-e", "fleet_cluster=orders", *options],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(tmp_path), "ANSIBLE_CONFIG": str(tmp_path / "none")},
        )
        made = [tuple(json.loads(line)) for line in calls.read_text().splitlines()]
        return Played(done.returncode, done.stdout + done.stderr, made)

    return run


def test_the_only_running_primary_gets_nobody_who_is_on_a_newer_timeline(play: Any) -> None:
    sights = {
        "db1": member("db1", 1, in_recovery=False),
        "db2": member("db2", 2, state="stopped", in_recovery=None),
        "db3": member("db3", 1),
    }
    done = play(sights, "db1")
    assert done.code != 0
    assert "stale_primary: db1 takes writes on timeline 1, but a newer one is on db2 (timeline 2)" in done.text
    assert done.of("replica_rejoin") == []


def test_members_of_a_newer_timeline_are_given_up_where_one_is_named(play: Any) -> None:
    sights = {
        "db1": member("db1", 1, in_recovery=False),
        "db2": member("db2", 2, state="stopped", in_recovery=None),
        "db3": member("db3", 9, system_identifier="8"),
    }
    done = play(sights, "db1", "-e", "fleet_rejoin_member=db2", "-e", "fleet_rejoin_replace=db2")
    assert done.code == 0, done.text
    assert [(call["member"]["name"], call["replace"]) for call in done.of("replica_rejoin")] == [("db2", "db2")]


def test_a_member_is_left_at_its_upstream_unless_that_is_the_primary(play: Any) -> None:
    sights = {"db1": member("db1", 2), "db2": member("db2", 2, in_recovery=False), "db3": member("db3", 2)}
    done = play(sights, "db2", db1="db2", db3="db1")
    assert done.code == 0, done.text
    first, third = done.of("replica_rejoin")
    assert (first["member"]["name"], first.get("upstream")) == ("db1", None)
    assert (third["member"]["name"], third["upstream"]["name"]) == ("db3", "db1")


def test_a_misspelt_member_is_refused_before_anything_is_looked_at(play: Any) -> None:
    done = play({}, None, "-e", "fleet_rejoin_member=db4")
    assert done.code != 0
    assert "db4 is no member of orders. Say one of db1, db2, db3." in done.text
    assert done.calls == []


def test_a_named_member_that_does_not_answer_is_no_success(play: Any) -> None:
    sights = {"db1": member("db1", 2, in_recovery=False), "db3": member("db3", 2)}
    done = play(sights, "db1", "-e", "fleet_rejoin_member=db2")
    assert done.code != 0
    assert "db2 does not answer and is as it was" in done.text, done.text
    assert done.of("replica_rejoin") == []

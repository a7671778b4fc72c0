# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role pgbouncer refuses and has systemd do, by Ansible itself with a systemctl that only notes its calls."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

PASSWORDS = {"fleet_pooler": "s3cret-of-the-pooler", "fleet_operator": "s3cret-of-the-operator"}

SYSTEMCTL = """\
#!/bin/sh
case "$1" in
  show) echo "ActiveState=$(grep -qx "$2" "$UNITS_UP" && echo active || echo inactive)"; echo LoadState=loaded;;
  is-enabled) echo enabled;;
  *) echo "$*" >>"$CALLS";;
esac
"""


def play(*plays: Mapping[str, Any], directory: Path, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run plays on this host, with nothing but variables."""
    playbook = directory / "playbook.yml"
    local = {"hosts": "localhost", "gather_facts": False, "connection": "local"}
    playbook.write_text(yaml.safe_dump([{**local, **one} for one in plays]))
    command = [str(Path(sys.executable).parent / "ansible-playbook"), *options, str(playbook)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def role(tasks: str, **variables: Any) -> dict[str, Any]:
    return {
        "vars": {"pgbouncer_passwords": PASSWORDS, **variables},
        "tasks": [{"ansible.builtin.include_role": {"name": "dbops.fleet.pgbouncer", "tasks_from": tasks}}],
    }


def running(**more: Any) -> dict[str, Any]:
    """What pgbouncer_pool found of a pooler that runs as it shall, with a client."""
    found = {"running": True, "clients_connected": 1, "restart_required": []}
    return {**found, "stopped_endpoints": [], "surplus_processes": [], **more}


SINGLE = "/run/postgresql/.s.PGSQL.6432"
OF_TWO = [f"/run/pgbouncer-{number}/.s.PGSQL.6432" for number in (1, 2)]
RESTARTED = ["daemon-reload", "restart pgbouncer"]

# Each: what pgbouncer_pool found, variables, and the calls that change something.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "all is as it shall be": (running(), {}, []),
    "a setting waits": (running(restart_required=["listen_addr"]), {}, []),
    "a setting, and it may": (
        running(restart_required=["listen_addr"]),
        {"pgbouncer_restart_enabled": True},
        RESTARTED,
    ),
    "a setting waits, as it may not in words": (
        running(restart_required=["listen_addr"]),
        {"pgbouncer_restart_enabled": "false"},
        [],
    ),
    "a setting, without clients": (running(restart_required=["listen_addr"], clients_connected=0), {}, RESTARTED),
    "another port waits": (
        running(restart_required=["listen_port"], stopped_endpoints=["localhost"], surplus_processes=[SINGLE]),
        {"pgbouncer_port": 6433},
        [],
    ),
    "one becomes two, which waits": (
        running(stopped_endpoints=["localhost/1", "localhost/2"], surplus_processes=[SINGLE]),
        {"pgbouncer_processes": 2},
        [],
    ),
    "one becomes two, which may": (
        running(stopped_endpoints=["localhost/1", "localhost/2"], surplus_processes=[SINGLE]),
        {"pgbouncer_processes": 2, "pgbouncer_restart_enabled": "true"},
        RESTARTED,
    ),
    "two become one, without clients": (
        running(stopped_endpoints=["localhost"], surplus_processes=OF_TWO, clients_connected=0),
        {},
        RESTARTED,
    ),
    "two become four": (
        running(stopped_endpoints=["localhost/3", "localhost/4"]),
        {"pgbouncer_processes": 4},
        ["daemon-reload", "start pgbouncer@3", "start pgbouncer@4"],
    ),
    "nothing runs": (
        running(running=False, clients_connected=0, stopped_endpoints=["localhost"]),
        {"units_up": []},
        ["daemon-reload", "start pgbouncer"],
    ),
}


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[str]], str]:
    """The calls of each case, and what Ansible said."""
    directory = tmp_path_factory.mktemp("role")
    systemctl = directory / "systemctl"
    systemctl.write_text(SYSTEMCTL)
    systemctl.chmod(0o755)
    plays = []
    for number, (found, variables, _calls) in enumerate(CASES.values()):
        up = directory / f"{number}.up"
        up.write_text("".join(f"{unit}\n" for unit in variables.get("units_up", ["pgbouncer"])))
        paths = {
            "PATH": f"{directory}:{os.environ['PATH']}",
            "UNITS_UP": str(up),
            "CALLS": str(directory / f"{number}.calls"),
        }
        given = {"__pgbouncer_pool": found, "__pgbouncer_files": {"changed_paths": []}, **variables}
        plays.append({**role("service", **given), "environment": paths})
    done = play(*plays, directory=directory)
    assert done.returncode == 0, done.stdout + done.stderr
    written = (directory / f"{number}.calls" for number in range(len(CASES)))
    made = [path.read_text().splitlines() if path.is_file() else [] for path in written]
    return dict(zip(CASES, made, strict=True)), done.stdout


@pytest.mark.parametrize("case", CASES)
def test_a_restart_is_made_where_it_disconnects_nobody_or_is_allowed(
    calls: tuple[dict[str, list[str]], str], case: str
) -> None:
    assert calls[0][case] == CASES[case][2]


def test_what_waits_is_said_with_how_to_get_it(calls: tuple[dict[str, list[str]], str]) -> None:
    said = " ".join(calls[1].split())
    waiting = [case for case in CASES if "waits" in case]
    assert said.count("Run again with pgbouncer_restart_enabled=true") == len(waiting)
    assert f"These wait for it: listen_port, the process at {SINGLE}." in said
    assert "a restart would disconnect its clients (1 now)" in said


REFUSALS = {
    "the password of fleet_pooler is missing": {"pgbouncer_passwords": {"fleet_operator": "s3cret-of-the-operator"}},
    "names an entry twice (orders, orders)": {"pgbouncer_databases": [{"name": "orders"}, {"name": "orders"}]},
    "pgbouncer_open_files must be above": {"pgbouncer_open_files": 100},
    "takes more than one of pgbouncer_processes": {"pgbouncer_peers_enabled": True},
}


@pytest.mark.parametrize("words", REFUSALS)
def test_a_refusal_says_why_and_shows_no_password(words: str, tmp_path: Path) -> None:
    done = play(role("validate", **REFUSALS[words]), directory=tmp_path, options=("-vvv",))
    assert done.returncode != 0
    assert words in " ".join(done.stdout.split())
    assert "censored" not in done.stdout
    assert "s3cret" not in done.stdout + done.stderr


def test_variables_may_come_from_the_command_line_as_text(tmp_path: Path) -> None:
    limits = role("validate")
    limits["tasks"].append({"ansible.builtin.debug": {"msg": "up to {{ pgbouncer_open_files }} files"}})
    limits["tasks"][0]["ansible.builtin.include_role"]["public"] = True
    options = ("-e", "pgbouncer_max_client_conn=3000", "-e", "pgbouncer_peers_enabled=false")
    done = play(limits, directory=tmp_path, options=options)
    assert done.returncode == 0, done.stdout
    assert "up to 6000 files" in done.stdout

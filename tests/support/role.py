# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a role as shipped on this host, by Ansible itself. Modules that would change it only answer, systemctl too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.tests.support.house import CHECKOUT

_ANSWER = """#!{python}
# WANT_JSON
import json, sys
from pathlib import Path
with Path({calls!r}).open("a") as calls:
    calls.write(json.dumps([{module!r}, json.loads(Path(sys.argv[1]).read_text())]) + chr(10))
print({answer!r})
"""
# What systemd_service asks of a unit; everything else is only noted.
_SYSTEMCTL = """#!/bin/sh
case "$1" in
show) printf 'LoadState=loaded\\nActiveState=active\\nSubState=running\\n' ;;
*) echo "$*" >> {commands} ;;
esac
"""


@dataclass
class Played:
    """How the run of a role ended.

    Attributes:
        changed: names of the tasks and handlers that changed something.
        failures: messages of those that failed.
        calls: names and arguments of the modules that only answered.
        systemctl: the commands that systemd was given.
    """

    changed: list[str]
    failures: list[str]
    calls: list[tuple[str, dict[str, Any]]]
    systemctl: list[str]

    def files(self) -> dict[str, str]:
        """Path to content of everything that managed_files was to write."""
        files = [file for name, asked in self.calls if name == "managed_files" for file in asked["files"]]
        return {file["path"]: file.get("content") or file["secret_content"] for file in files}


def tls_files(directory: Path) -> dict[str, str]:
    """The controller's files that role postgres_server copies, as its variables name them."""
    variables = {}
    for part in ("ca", "certificate", "key"):
        path = directory / f"{part}.pem"
        path.write_text(f"# {part}\n")
        variables[f"postgres_server_tls_{part}_file"] = str(path)
    return variables


def play(
    directory: Path,
    role: str,
    variables: Mapping[str, Any],
    *,
    tasks_from: str = "main",
    answers: Mapping[str, Any] | None = None,
    check_mode: bool = False,
) -> Played:
    """Run a role on this host.

    Args:
        directory: an empty one for what the run needs.
        answers: module of the collection to what it returns instead of doing anything.
        check_mode: as ``--check``.
    """
    calls, commands, playbook = directory / "calls", directory / "commands", directory / "play.yml"
    calls.touch()
    commands.touch()
    _collection(directory, calls, answers or {})
    systemctl = directory / "bin/systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text(_SYSTEMCTL.format(commands=commands))
    systemctl.chmod(0o755)
    task = {"ansible.builtin.include_role": {"name": f"dbops.fleet.{role}", "tasks_from": tasks_from}}
    host = {"ansible_python_interpreter": sys.executable, **variables}
    playbook.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "vars": host, "tasks": [task]}]))
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "ansible-playbook"),
            "--connection=local",
            "--inventory=localhost,",
            *(["--check"] if check_mode else []),
            str(playbook),
        ],
        cwd=directory,
        env=os.environ
        | {
            "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(directory),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "PATH": f"{systemctl.parent}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert "{" in done.stdout, done.stdout + done.stderr
    (played,) = json.loads(done.stdout[done.stdout.index("{") :])["plays"]
    results = [(one["task"]["name"], result) for one in played["tasks"] for result in one["hosts"].values()]
    # include_role repeats the failure of what it includes.
    failures = [str(result.get("msg", result)) for _, result in results if result.get("failed")]
    assert (done.returncode == 0) == (not failures), done.stdout + done.stderr
    return Played(
        [name for name, result in results if result.get("changed")],
        failures,
        [(name, asked) for name, asked in map(json.loads, calls.read_text().splitlines())],
        commands.read_text().splitlines(),
    )


def _collection(directory: Path, calls: Path, answers: Mapping[str, Any]) -> None:
    """The checkout as a collection, with modules that only answer where there is an answer."""
    fleet = directory / "ansible_collections/dbops/fleet"
    modules = fleet / "plugins/modules"
    modules.mkdir(parents=True)
    for path in (CHECKOUT / name for name in ("meta", "roles", "galaxy.yml")):
        (fleet / path.name).symlink_to(path)
    for path in (CHECKOUT / "plugins").iterdir():
        if path.name != "modules":
            (fleet / "plugins" / path.name).symlink_to(path)
    for path in (CHECKOUT / "plugins/modules").glob("*.py"):
        if path.stem not in answers:
            (modules / path.name).symlink_to(path)
    for module, answer in answers.items():
        text = _ANSWER.format(python=sys.executable, calls=str(calls), module=module, answer=json.dumps(answer))
        (modules / f"{module}.py").write_text(text)

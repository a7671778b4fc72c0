# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules for every task, beyond what ansible-lint holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.tests.support.house import (
    CHECKOUT,
    load_yaml,
    playbook_files,
    relative,
    task_files,
    tasks_in,
)

FREE_FORM = re.compile(r"^\s*(?:- )?(?:ansible\.builtin\.)?(?:shell|raw):")


def all_task_files() -> list[Path]:
    """Tasks that users run, and Molecule's, which are held to the same rules."""
    return [*task_files(), *sorted((CHECKOUT / "molecule").rglob("*.yml"))]


def without_comment(path: Path, pattern: re.Pattern[str]) -> list[str]:
    """Lines that match and whose task has no comment: above its dash, inside of it up to that line, or at its end."""
    lines = path.read_text().splitlines()
    found = []
    for number, line in enumerate(lines):
        if not pattern.search(line) or line.lstrip().startswith("#"):
            continue
        start = number
        while start > 0 and not lines[start].lstrip().startswith("- name:"):
            start -= 1
        while start > 0 and lines[start - 1].lstrip().startswith("#"):
            start -= 1
        if not any("# " in text for text in lines[start : number + 1]):
            found.append(f"{relative(path)}:{number + 1}: {line.strip()}")
    return found


@pytest.mark.parametrize("path", all_task_files(), ids=relative)
def test_no_error_is_ignored(path: Path) -> None:
    assert not [str(task) for task in tasks_in(path) if "ignore_errors" in task.body]


@pytest.mark.parametrize("path", all_task_files(), ids=relative)
def test_an_exit_code_is_disregarded_only_with_a_reason(path: Path) -> None:
    assert not without_comment(path, re.compile(r"failed_when: *false"))


@pytest.mark.parametrize("path", all_task_files(), ids=relative)
def test_a_shell_is_used_only_with_a_reason(path: Path) -> None:
    assert not without_comment(path, FREE_FORM)


@pytest.mark.parametrize("path", task_files(), ids=relative)
def test_a_task_is_left_out_of_check_mode_only_with_a_reason(path: Path) -> None:
    """`not ansible_check_mode` is where --check begins to lie."""
    assert not without_comment(path, re.compile(r"not ansible_check_mode"))


@pytest.mark.parametrize("path", playbook_files(), ids=relative)
def test_hosts_of_a_playbook_come_from_a_variable(path: Path) -> None:
    """So that nobody who calls a playbook by its name hits a whole inventory."""
    hosts = [play["hosts"] for play in load_yaml(path) or [] if "hosts" in play]
    assert not [pattern for pattern in hosts if "{{" not in pattern and pattern != "localhost"]


@pytest.mark.parametrize("path", task_files(), ids=relative)
def test_work_on_the_controller_needs_no_sudo_there(path: Path) -> None:
    """The implicit localhost has what an inventory sets for all hosts, and that outdoes `become: false`."""
    delegated = [task for task in tasks_in(path) if task.body.get("delegate_to") == "localhost"]
    assert not [str(task) for task in delegated if task.body.get("vars", {}).get("ansible_become") is not False]

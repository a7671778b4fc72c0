# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in the checkout: files, modules, roles and playbooks, for tests that hold the rules of the house."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parent.parent.parent
MODULE_UTILS = CHECKOUT / "plugins" / "module_utils"
NAMESPACE = "ansible_collections.dbops.fleet"

TASK_LISTS = ("tasks", "pre_tasks", "post_tasks", "handlers", "block", "rescue", "always")


@cache
def tracked_files() -> tuple[Path, ...]:
    """Files that Git knows and that are still there."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, check=True, capture_output=True).stdout
    paths = (CHECKOUT / name.decode() for name in names.split(b"\0") if name)
    return tuple(path for path in paths if path.is_file())


def relative(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def module_names() -> list[str]:
    return sorted(path.stem for path in (CHECKOUT / "plugins" / "modules").glob("*.py"))


def role_names() -> list[str]:
    return sorted(path.name for path in (CHECKOUT / "roles").glob("*") if path.is_dir())


def playbook_files() -> list[Path]:
    """Playbooks that operators call; `NAME.meta.yml` describes NAME.yml and is none."""
    return sorted(path for path in (CHECKOUT / "playbooks").glob("*.yml") if not path.name.endswith(".meta.yml"))


def load_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text()) if path.exists() else None


@dataclass(frozen=True)
class Task:
    """One task of a role, playbook or Molecule scenario."""

    file: Path
    body: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.body.get("name", "(without a name)"))

    def __str__(self) -> str:
        return f"{relative(self.file)}: {self.name}"


def tasks_in(path: Path) -> Iterator[Task]:
    """Every task of a file, those inside of blocks too. A block is given as a task of its own."""

    def walk(items: Any) -> Iterator[Task]:
        for item in items if isinstance(items, list) else []:
            if not isinstance(item, dict):
                continue
            if "hosts" not in item and "import_playbook" not in item:
                yield Task(path, item)
            for key in TASK_LISTS:
                yield from walk(item.get(key))

    yield from walk(load_yaml(path))


def task_files() -> list[Path]:
    """Files with tasks that users run: roles, playbooks and the task files beside them."""
    roles = CHECKOUT / "roles"
    found = [*roles.glob("*/tasks/**/*.yml"), *roles.glob("*/handlers/**/*.yml")]
    found += [path for path in (CHECKOUT / "playbooks").rglob("*.yml") if not path.name.endswith(".meta.yml")]
    return sorted(found)

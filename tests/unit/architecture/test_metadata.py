# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the collection says about itself agrees with what it has."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.tests.support.house import (
    CHECKOUT,
    load_yaml,
    module_names,
    playbook_files,
    relative,
    role_names,
)

GALAXY = load_yaml(CHECKOUT / "galaxy.yml")
RUNTIME = load_yaml(CHECKOUT / "meta" / "runtime.yml")

# A name that Galaxy accepts for what a collection holds.
CONTENT_NAME = re.compile(r"^(?!.*__)[a-z][a-z0-9_]*$")


def documentation(module: str) -> str:
    """The text of DOCUMENTATION, without importing the module."""
    source = (CHECKOUT / "plugins" / "modules" / f"{module}.py").read_text()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DOCUMENTATION":
            assert isinstance(node.value, ast.Constant)
            return str(node.value.value)
    raise AssertionError(f"{module} has no DOCUMENTATION")


def test_every_module_is_in_the_action_group() -> None:
    assert RUNTIME["action_groups"]["fleet"] == module_names()


@pytest.mark.parametrize("module", module_names())
def test_a_module_documents_how_it_behaves_in_check_mode(module: str) -> None:
    assert "check_mode" in documentation(module) or "extends_documentation_fragment" in documentation(module)


@pytest.mark.parametrize("name", [*module_names(), *role_names(), *(path.stem for path in playbook_files())])
def test_a_name_is_acceptable_to_galaxy(name: str) -> None:
    assert CONTENT_NAME.match(name)


@pytest.mark.parametrize("name", [*module_names(), *role_names(), *(path.stem for path in playbook_files())])
def test_the_readme_lists_everything_that_can_be_called(name: str) -> None:
    readme = (CHECKOUT / "README.md").read_text()
    assert re.search(rf"^\|.*\b{name}\b.*\|", readme, flags=re.MULTILINE), f"README.md has no table row about {name}"


def test_requirements_name_the_same_collections_as_galaxy() -> None:
    required = {entry["name"]: entry["version"] for entry in load_yaml(CHECKOUT / "requirements.yml")["collections"]}
    assert required == GALAXY["dependencies"]


def test_collections_that_are_used_are_dependencies() -> None:
    plugin = re.compile(r"\b((?:ansible|community|containers|amazon)\.[a-z_0-9]+)\.[a-z_]+")
    known = {"ansible.builtin", "dbops.fleet", *GALAXY["dependencies"]}
    used: dict[str, str] = {}
    for room in ("roles", "playbooks"):
        for path in (CHECKOUT / room).rglob("*.yml"):
            for name in plugin.findall(path.read_text()):
                used.setdefault(name, relative(path))
    missing = {name: where for name, where in used.items() if name not in known}
    assert not missing, f"galaxy.yml does not name {missing}"


def test_the_supported_cores_start_with_the_oldest_one_promised() -> None:
    oldest = RUNTIME["requires_ansible"].removeprefix(">=").removesuffix(".0")
    tested = re.search(r'^supported="([0-9. ]+)"', (CHECKOUT / "tools" / "sanity").read_text(), flags=re.MULTILINE)
    assert tested is not None
    assert tested[1].split()[0] == oldest


def test_the_version_follows_semantic_versioning_and_is_in_the_changelog() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", GALAXY["version"])
    changelog = (CHECKOUT / "CHANGELOG.md").read_text()
    assert f"## {GALAXY['version']}" in changelog or "## Unreleased" in changelog


def test_files_that_metadata_name_are_there() -> None:
    named = [GALAXY["readme"], GALAXY["license_file"]]
    named += list(load_yaml(CHECKOUT / "meta" / "execution-environment.yml")["dependencies"].values())
    assert not [name for name in named if not Path(CHECKOUT / name).is_file()]

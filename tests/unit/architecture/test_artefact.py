# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The artefact of `ansible-galaxy collection build` has what users need, and works away from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.tests.support.house import (
    CHECKOUT,
    NAMESPACE,
    module_names,
    playbook_files,
    role_names,
)

# What the artefact may have at its top, and what it must have to work.
WORKING = {"meta", "plugins", "roles", "playbooks"}
ALLOWED = WORKING | {
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "FILES.json",
    "LICENSE",
    "MANIFEST.json",
    "README.md",
    "docs",
    "inventories",
    "requirements.yml",
}

# A cluster as operators name theirs: playbooks find what they ask for, hosts are never reached.
INVENTORY = """\
postgres_clusters:
  children:
    orders:
      hosts:
        pg1: {ansible_host: 192.0.2.1}
        pg2: {ansible_host: 192.0.2.2}
"""


def ansible(command: str, *arguments: str, collections: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command of ansible-core that sees only the given collections and those of the `ansible` package."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment |= {"ANSIBLE_COLLECTIONS_PATH": str(collections), "NO_COLOR": "1"}
    return subprocess.run(
        [str(Path(sys.executable).with_name(command)), *arguments],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("artefact")
    build = ("collection", "build", str(CHECKOUT), "--output-path", str(place))
    built = ansible("ansible-galaxy", *build, collections=place, cwd=place)
    assert built.returncode == 0, built.stderr
    return next(place.glob("dbops-fleet-*.tar.gz"))


@pytest.fixture(scope="module")
def installed(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of collections with dbops.fleet alone, stripped of all but the four directories that must do."""
    place = tmp_path_factory.mktemp("collections")
    install = ("collection", "install", "--offline", "--no-deps", "-p", str(place), str(artefact))
    done = ansible("ansible-galaxy", *install, collections=place, cwd=place)
    assert done.returncode == 0, done.stderr
    collection = place / "ansible_collections" / "dbops" / "fleet"
    for entry in collection.iterdir():
        if entry.name not in WORKING:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return place


def members(artefact: Path) -> set[str]:
    with tarfile.open(artefact) as archive:
        return set(archive.getnames())


def test_the_artefact_holds_only_what_users_need(artefact: Path) -> None:
    assert {name.partition("/")[0] for name in members(artefact)} <= ALLOWED
    assert not [name for name in members(artefact) if name.endswith((".pyc", ".retry")) or "/." in name]


def test_the_artefact_holds_no_test_hosts_and_no_secrets(artefact: Path) -> None:
    assert not [name for name in members(artefact) if name.startswith("inventories/demo")]
    assert not [name for name in members(artefact) if name.endswith((".key", ".pem"))]


def test_the_artefact_holds_every_role_and_module(artefact: Path) -> None:
    expected = {f"roles/{role}" for role in role_names()} | {f"plugins/modules/{name}.py" for name in module_names()}
    assert expected <= members(artefact)


def test_every_installed_module_shows_its_documentation(installed: Path) -> None:
    names = [f"dbops.fleet.{name}" for name in module_names()]
    shown = ansible("ansible-doc", "--json", "--type", "module", *names, collections=installed, cwd=installed)
    assert shown.returncode == 0, shown.stderr
    documents = json.loads(shown.stdout)
    assert sorted(documents) == names
    for name, document in documents.items():
        # From the installed files, not from the checkout.
        assert document["doc"]["filename"].startswith(str(installed)), name
        assert document.get("examples"), f"{name} has no EXAMPLES"
        assert document.get("return"), f"{name} has no RETURN"


def test_every_installed_role_shows_its_argument_spec(installed: Path) -> None:
    names = [f"dbops.fleet.{name}" for name in role_names()]
    shown = ansible("ansible-doc", "--json", "--type", "role", *names, collections=installed, cwd=installed)
    assert shown.returncode == 0, shown.stderr
    assert sorted(json.loads(shown.stdout)) == names


@pytest.mark.parametrize("module", module_names())
def test_an_installed_module_finds_all_that_it_imports(module: str, installed: Path) -> None:
    code = f"import {NAMESPACE}.plugins.modules.{module} as module; print(module.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=installed,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed))


@pytest.mark.parametrize("playbook", [path.stem for path in playbook_files()])
def test_an_installed_playbook_is_called_by_its_name(playbook: str, installed: Path, tmp_path: Path) -> None:
    inventory = tmp_path / "inventory.yml"
    inventory.write_text(INVENTORY)
    checked = ansible(
        *("ansible-playbook", f"dbops.fleet.{playbook}", "--syntax-check", "-i", str(inventory)),
        *("-e", "fleet_cluster=orders"),
        collections=installed,
        cwd=tmp_path,
    )
    assert checked.returncode == 0, checked.stderr

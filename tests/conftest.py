# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes `ansible_collections.dbops.fleet` mean this checkout in every test, with plain pytest.

Wherever the checkout lies and whether or not the collection is installed as well, tests see the files beside them.
`ansible-playbook` and other commands that tests start get the same through ANSIBLE_CONFIG and ANSIBLE_COLLECTIONS_PATH.
"""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
COLLECTIONS = CHECKOUT / ".cache" / "collections"


def _link_collection() -> None:
    """Does what tools/link-collection does, so that tests also run before `make venv`."""
    link = COLLECTIONS / "ansible_collections" / "dbops" / "fleet"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(Path("../../../.."), target_is_directory=True)


def _package(name: str, *directories: Path) -> None:
    """Registers a package without __init__.py; its submodules are then found below `directories`."""
    package = types.ModuleType(name)
    package.__path__ = [str(directory) for directory in directories]
    sys.modules[name] = package
    parent, child = name.rpartition(".")[::2]
    if parent:
        setattr(sys.modules[parent], child, package)


def _installed_collections() -> list[Path]:
    """Directories of the collections that the `ansible` package brings, for tests that import from them."""
    candidates = (Path(entry) / "ansible_collections" for entry in sys.path if entry)
    return [directory for directory in candidates if directory.is_dir()]


_link_collection()
_package("ansible_collections", COLLECTIONS / "ansible_collections", *_installed_collections())
_package("ansible_collections.dbops", COLLECTIONS / "ansible_collections" / "dbops")
_package("ansible_collections.dbops.fleet", CHECKOUT)

os.environ["ANSIBLE_CONFIG"] = str(CHECKOUT / "ansible.cfg")
os.environ["ANSIBLE_COLLECTIONS_PATH"] = str(COLLECTIONS)
# Some hosts' own locale has translated messages; every command a test starts speaks one language.
os.environ["LC_ALL"] = "C.UTF-8"

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What no file of the repository may hold, and what each must."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.tests.support.house import CHECKOUT, relative, tracked_files

HEADER = """\
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""

FORBIDDEN = {
    "a path of one machine": re.compile(rf"(?<![\w.}}$])/(?:work/|root/\.|home/\w+/)|{re.escape(str(CHECKOUT))}"),
    "the host of a package or container registry": re.compile(
        r"(?:deb|ftp|security|archive)\.debian\.org|\bpypi\.org|pythonhosted\.org|\b(?:docker|quay|ghcr)\.io\b|galaxy\.ansible\.com"
    ),
    "work left for later": re.compile(r"\b(?:TODO|FIXME|XXX)\b"),
    "an end to processes by name": re.compile(r"\b(?:pkill|killall)\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}


def text_files() -> list[Path]:
    """Tracked files that people write. The licence is not ours, and this file has to name what it forbids."""
    return [path for path in tracked_files() if path.name != "LICENSE" and path != Path(__file__).resolve()]


def python_files() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".py"]


def package_mirrors() -> set[str]:
    """Hosts that this machine gets packages from: they differ from machine to machine, so no file may name one."""
    places = [Path("/etc/apt/sources.list"), Path("/etc/pip.conf"), *Path("/etc/apt").glob("sources.list.d/*")]
    text = "\n".join(place.read_text(errors="replace") for place in places if place.is_file())
    return set(re.findall(r"https?://(?:[^/@\s]*@)?([^/:\s]+)", text))


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    found = [
        f"{relative(path)}:{number}: {line.strip()}"
        for path in text_files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        if FORBIDDEN[what].search(line)
    ]
    assert not found, f"{what}:\n" + "\n".join(found)


def test_no_file_names_the_mirrors_of_this_machine() -> None:
    mirrors = package_mirrors()
    found = [
        (relative(path), mirror)
        for path in text_files()
        for mirror in mirrors
        if mirror in path.read_text(errors="replace")
    ]
    assert not found


@pytest.mark.parametrize("path", python_files(), ids=relative)
def test_a_python_file_begins_with_licence_docstring_and_future(path: Path) -> None:
    source = path.read_text()
    assert source.removeprefix("#!/usr/bin/python\n").startswith(HEADER), "the three lines of copyright and licence"
    tree = ast.parse(source)
    has_docstring = ast.get_docstring(tree) is not None
    # A module has DOCUMENTATION.
    assert has_docstring or path.parent == CHECKOUT / "plugins" / "modules", (
        "a docstring that says what the file is about"
    )
    assert ast.unparse(tree.body[int(has_docstring)]) == "from __future__ import annotations"


@pytest.mark.parametrize("path", [p for p in python_files() if p.name.startswith("test_")], ids=relative)
def test_names_of_tests_are_sentences(path: Path) -> None:
    names = [
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]
    assert names, "a file of tests without a test"
    short = [name for name in names if len(name.split("_")) < 4]
    assert not short


def test_every_exception_from_sanity_says_why() -> None:
    for path in (CHECKOUT / "tests" / "sanity").glob("ignore-*.txt"):
        unexplained = [line for line in path.read_text().splitlines() if line.strip() and " # " not in line]
        assert not unexplained, f"{relative(path)}: {unexplained}"


def test_scripts_are_executable_and_nothing_else_is() -> None:
    for path in tracked_files():
        has_shebang = path.read_bytes()[:2] == b"#!"
        is_module = path.parent == CHECKOUT / "plugins" / "modules"
        if not is_module:
            assert bool(path.stat().st_mode & 0o100) == has_shebang, relative(path)

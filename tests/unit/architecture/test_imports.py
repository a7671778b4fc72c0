# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Arrows of the Python house: modules -> module_utils, acting -> deciding, and rooms in one direction."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.tests.support.house import CHECKOUT, MODULE_UTILS, NAMESPACE, relative

UTILS = f"{NAMESPACE}.plugins.module_utils"

# Files that act: they talk to a server, start processes, read files or a clock. Every other file of module_utils
# decides: it imports only the pure part of the standard library and other deciding files, so that it can be tested
# without anything.
ACTING_FILES: dict[str, tuple[str, ...]] = {
    ".": ("adapter",),
    "certificates": ("issue",),
    "clone": (
        "observe",
        "run",
        "source",
        "worker",
    ),
    "failover": (
        "fencing_command",
        "fencing_ec2",
        "fencing_host",
        "journal",
        "lock",
        "rejoin",
        "rejoin_lost",
        "rejoin_order",
        "rejoin_rewind",
        "rejoin_synchronous",
        "sight",
        "switchover",
        "switchover_engine",
        "switchover_info",
        "switchover_local",
        "switchover_plan",
        "switchover_pooler",
        "switchover_record",
        "switchover_remote",
        "switchover_software",
        "switchover_worker",
        "unplanned_engine",
        "unplanned_failover",
        "unplanned_fence",
        "unplanned_params",
        "unplanned_planning",
        "unplanned_rejoin",
        "unplanned_remote",
        "unplanned_sight",
        "unplanned_worker",
        "wal_end",
    ),
    "files": ("apply",),
    "pooler": (
        "commands",
        "console",
        "deadman",
        "files",
        "guard",
        "loaded",
        "operations",
        "processes",
        "proof",
        "read",
        "trial",
    ),
    "postgres": (
        "instance",
        "session",
    ),
    "repository": (
        "account",
        "backup/operation",
        "backup/packs",
        "backup/stream",
        "backup/take",
        "cli",
        "cli_backup",
        "cli_dump",
        "cli_jobs",
        "cli_maintain",
        "cli_wal",
        "cluster",
        "compression",
        "config",
        "dump/content",
        "dump/extract",
        "dump/load",
        "dump/operation",
        "dump/programs",
        "dump/take",
        "jobs/run",
        "keys",
        "lock",
        "maintain/check",
        "maintain/drill",
        "maintain/drill_place",
        "maintain/expire",
        "repository",
        "restore/files",
        "restore/leftover",
        "restore/operation",
        "restore/place",
        "restore/replay",
        "restore/run",
        "restore/whole",
        "seal",
        "server",
        "shelf",
        "systems",
        "store/directory",
        "store/probe",
        "store/s3",
        "wal/archiver",
        "wal/client",
        "wal/fetch",
        "wal/inventory",
        "wal/operation",
        "wal/places",
        "wal/push",
        "wal/receive",
        "wal/status",
    ),
    "topology": (
        "host",
        "read",
        "running",
        "start",
    ),
}

# What each room may import from. errors.py and outcome.py are everybody's; adapter.py is for modules alone.
ROOMS: dict[str, set[str]] = {
    "postgres": set(),
    "files": set(),
    "certificates": {"files"},
    "topology": {"files", "postgres"},
    "pooler": {"postgres", "files"},
    "clone": {"postgres", "topology", "files"},
    "failover": {"postgres", "topology", "pooler", "clone", "files"},
    "repository": {"postgres", "files"},
}

# The standard library's modules that reach outside of the process, or differ from one call to the next.
ACTING_STDLIB = set(
    "asyncio concurrent fcntl ftplib getpass glob grp http importlib mmap multiprocessing os pathlib platform pwd"
    " random resource secrets select selectors shutil signal smtplib socket socketserver sqlite3 ssl subprocess sys"
    " syslog tempfile threading time urllib uuid".split()
)
# Parts of them that only compute.
PURE_PARTS = {
    "os.path",
    "pathlib.PurePath",
    "pathlib.PurePosixPath",
    "urllib.parse",
    "sys.version_info",
    "importlib.metadata",
    "uuid.UUID",
}


def files() -> list[Path]:
    return sorted(MODULE_UTILS.rglob("*.py"))


def room_of(path: Path) -> str:
    """The room's name; files at the top of module_utils are in none: "."."""
    parts = path.relative_to(MODULE_UTILS).parts
    return parts[0] if len(parts) > 1 else "."


def key_of(path: Path) -> str:
    """Name inside of the room, without .py: `apply`, `store/s3`."""
    parts = path.relative_to(MODULE_UTILS).with_suffix("").parts
    return "/".join(parts[1:] if len(parts) > 1 else parts)


def acts(path: Path) -> bool:
    return key_of(path) in ACTING_FILES.get(room_of(path), ())


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Full names of what a file imports anywhere, except for type checkers alone: `os.path`, `pathlib.Path`, ..."""

    def walk(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from walk(other)
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}: imports go by the full path, not by dots"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    return tuple(dict.fromkeys(walk(ast.parse(path.read_text()))))


def imported_utils(path: Path) -> list[Path]:
    """Files of module_utils that a file imports."""
    found = []
    for name in imports(path):
        if name.startswith(f"{UTILS}."):
            parts = name.removeprefix(f"{UTILS}.").split(".")
            # The last part may be a name inside of the file.
            candidates = (
                MODULE_UTILS.joinpath(*parts[:size]).with_suffix(".py") for size in (len(parts), len(parts) - 1)
            )
            found += [next(candidate for candidate in candidates if candidate.is_file())]
    return found


def reasons_to_call_it_acting(path: Path) -> list[str]:
    """What in a file reaches outside of the process."""
    reasons = []
    for name in imports(path):
        top = name.partition(".")[0]
        if top == "ansible_collections":
            continue
        if top not in sys.stdlib_module_names or (top in ACTING_STDLIB and not name.startswith(tuple(PURE_PARTS))):
            reasons.append(f"imports {name}")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("open", "print", "input") or called.endswith((".now", ".utcnow", ".today")):
                reasons.append(f"calls {called}()")
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os" and node.attr != "path":
            reasons.append(f"uses os.{node.attr}")
    reasons += [f"imports {relative(other)}, which acts" for other in imported_utils(path) if acts(other)]
    return reasons


@pytest.mark.parametrize("path", [p for p in files() if not acts(p)], ids=relative)
def test_a_deciding_file_is_pure(path: Path) -> None:
    reasons = reasons_to_call_it_acting(path)
    assert not reasons, (
        f"{relative(path)} {', '.join(reasons)}. Move what acts to a file of its own and name that in ACTING_FILES"
        f" of {relative(Path(__file__))}."
    )


@pytest.mark.parametrize(
    "path", [MODULE_UTILS / room / f"{key}.py" for room, keys in ACTING_FILES.items() for key in keys], ids=relative
)
def test_a_file_listed_as_acting_does_act(path: Path) -> None:
    assert path.is_file(), f"{relative(path)} is in ACTING_FILES but not in the house"
    assert reasons_to_call_it_acting(path), f"{relative(path)} is pure: take it out of ACTING_FILES"


@pytest.mark.parametrize("path", files(), ids=relative)
def test_a_room_imports_only_from_the_rooms_below_it(path: Path) -> None:
    room = room_of(path)
    assert room == "." or room in ROOMS, f"{room} is a new room: say in ROOMS what it may import from"
    for other in imported_utils(path):
        if room_of(other) == ".":
            assert other.stem != "adapter", f"{relative(path)} imports adapter.py, which is for modules alone"
        else:
            assert room_of(other) == room or room_of(other) in ROOMS.get(room, ()), (
                f"{relative(path)} imports {relative(other)}: {room} may import from {sorted(ROOMS.get(room, ()))}"
            )


def test_rooms_have_no_cycle() -> None:
    TopologicalSorter(ROOMS).prepare()  # raises CycleError


def test_files_have_no_cycle() -> None:
    TopologicalSorter({path: imported_utils(path) for path in files()}).prepare()  # raises CycleError


@pytest.mark.parametrize("path", files(), ids=relative)
def test_only_the_adapter_knows_ansible(path: Path) -> None:
    if path != MODULE_UTILS / "adapter.py":
        assert not [name for name in imports(path) if name.partition(".")[0] == "ansible"]


@pytest.mark.parametrize("path", files(), ids=relative)
def test_module_utils_import_nothing_from_above(path: Path) -> None:
    wrong = [name for name in imports(path) if name.startswith("ansible_collections.") and not name.startswith(UTILS)]
    assert not wrong, f"{relative(path)} imports {wrong}"


@pytest.mark.parametrize("path", sorted((CHECKOUT / "plugins" / "modules").glob("*.py")), ids=relative)
def test_a_module_only_wires(path: Path) -> None:
    allowed = ("__future__", "typing", "collections.abc", "ansible.module_utils.basic", UTILS)
    wrong = [name for name in imports(path) if not name.startswith(allowed)]
    assert not wrong, f"{relative(path)} imports {wrong}: a module has documentation, argument spec and wiring"
    assert MODULE_UTILS / "adapter.py" in imported_utils(path), f"{relative(path)} does not go through adapter.run"


@pytest.mark.parametrize("path", sorted((CHECKOUT / "plugins" / "filter").glob("*.py")), ids=relative)
def test_a_filter_only_wires_what_decides(path: Path) -> None:
    # Chance, as salts need it, comes in here, so that what decides stays pure.
    allowed = ("__future__", "secrets", "typing", "collections.abc", "ansible.errors", UTILS)
    wrong = [name for name in imports(path) if not name.startswith(allowed)]
    assert not wrong, f"{relative(path)} imports {wrong}"
    assert not [relative(other) for other in imported_utils(path) if acts(other)]


def test_module_utils_have_no_init_files() -> None:
    assert not list(MODULE_UTILS.rglob("__init__.py"))

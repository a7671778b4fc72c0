# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a restore may write. Asked before the first byte; nothing is changed here."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Backup
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore import leftover

# Lies in a data directory while a restore has not been finished, and says where its tablespaces are.
MARKER = "dbops-restore.json"
# The same before it is on the disk as a whole.
MARKER_BEFORE = "dbops-restore.new"
# What an empty directory may hold.
_NOTHING = ("lost+found", MARKER_BEFORE)
# Left free for WAL and sorting.
RESERVE_BYTES = 64 << 20


def check(target: Path, backup: Backup, tablespaces: Mapping[int, Path], *, delta: bool) -> None:
    """Refuse to restore where something could be lost or would not work.

    Args:
        target: the new data directory.
        backup: that is restored.
        tablespaces: oid -> directory, complete.
        delta: files that are there already may be used, changed and removed: those of the target, and those of
            tablespaces that are provably the target's own.

    Raises:
        Refused: the server runs, a directory is not empty or not ours, another server uses it, or there is no room.
    """
    if os.geteuid() == 0:
        raise Refused("PostgreSQL's files must belong to its own account", remedy="Run this as the user postgres.")
    if not target.is_absolute():
        raise Refused(f"The target must be an absolute path, not {target}")
    _refuse_running(target)
    own = {target.resolve(), *_own_tablespaces(target)} if delta else set()
    for directory in (target, *tablespaces.values()):
        _refuse_occupied(directory, delta=directory.resolve() in own, remedy=_remedy(directory, target))
    _refuse_used(target, tablespaces.values())
    if delta:
        _refuse_foreign(target)
    _refuse_overlap(target, tablespaces)
    if not delta:
        _refuse_full(target, backup, tablespaces)


@contextlib.contextmanager
def alone(target: Path) -> Iterator[None]:
    """Hold the directory while it is written; made where it is missing. The lock goes with the process.

    Raises:
        Refused: somebody else restores into it.
    """
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"A restore into {target} is running", remedy="Wait for it to end.") from None
        yield
    finally:
        os.close(descriptor)


def mapped(backup: Backup, mapping: Mapping[str, str]) -> dict[int, Path]:
    """Where each tablespace goes.

    Args:
        backup: with its tablespaces' former places.
        mapping: former place or oid -> new directory; what is not named goes where it was.

    Raises:
        Refused: the mapping names a tablespace that the backup does not have, or a relative path.
    """
    known = {name for space in backup.tablespaces for name in (str(space.oid), space.location)}
    unknown = sorted(set(mapping) - known)
    if unknown:
        raise Refused(
            f"The backup has no tablespace {', '.join(unknown)}",
            remedy=f"It has: {', '.join(sorted(space.location for space in backup.tablespaces)) or 'none'}.",
        )
    places = {
        space.oid: Path(mapping.get(str(space.oid)) or mapping.get(space.location) or space.location)
        for space in backup.tablespaces
    }
    for place in places.values():
        if not place.is_absolute():
            raise Refused(f"A tablespace needs an absolute path, not {place}")
    return places


def _own_tablespaces(target: Path) -> set[Path]:
    """Where an unfinished restore has put the target's tablespaces, and where its own links lead."""
    found = set()
    with contextlib.suppress(OSError, ValueError):
        marker = json.loads((target / MARKER).read_text(encoding="utf-8"))
        found = {Path(place) for place in marker.get("tablespaces", ())}
    with contextlib.suppress(OSError):
        found |= {link for link in (target / "pg_tblspc").iterdir() if link.is_symlink()}
    return {path.resolve() for path in found}


def _refuse_running(target: Path) -> None:
    """The server of a restore that was killed is no reason: the next one stops it."""
    try:
        process = int((target / "postmaster.pid").read_text(encoding="ascii").split("\n", 1)[0])
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        process = 0
    if (target / MARKER).exists() and leftover.server(target) is not None:
        return
    if process and Path(f"/proc/{process}").exists():
        raise Refused(f"A server runs in {target} (process {process})", remedy="Stop it first, if it is the right one.")


def _refuse_used(target: Path, tablespaces: Iterable[Path]) -> None:
    """Whatever links and markers say, nothing that a running server of this account stores its data in is touched."""
    for data in _servers():
        if data == target.resolve():
            continue
        used = {data, *(link.resolve() for link in (data / "pg_tblspc").glob("*") if link.is_symlink())}
        for place in tablespaces:
            if any(place.resolve() in (one, *one.parents) for one in used):
                raise Refused(
                    f"{place} belongs to the server that runs in {data}",
                    remedy="Give that tablespace another place.",
                )


def _servers() -> set[Path]:
    """The data directories of the running servers that this account may look at: a server's is where it works."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            directory = Path(os.readlink(process / "cwd"))
            if (directory / "postmaster.pid").exists():
                found.add(directory)
    return found


def _remedy(directory: Path, target: Path) -> str:
    if directory == target:
        return "Move its content away, or use --delta if what lies there may be overwritten with the backup."
    return f"Give that tablespace an empty directory of its own, with --tablespace {directory}=NEW or `tablespaces`."


def _refuse_occupied(directory: Path, *, delta: bool, remedy: str) -> None:
    if not directory.exists():
        parent = next(parent for parent in directory.parents if parent.exists())
        if not os.access(parent, os.W_OK):
            raise Refused(f"Cannot make {directory}: {parent} is not writable", remedy="Make it, owned by postgres.")
        return
    if not directory.is_dir():
        raise Refused(f"{directory} is not a directory")
    if directory.stat().st_uid != os.geteuid():
        raise Refused(
            f"{directory} does not belong to the account that runs this", remedy=f"chown postgres: {directory}"
        )
    if not delta and any(name not in _NOTHING for name in os.listdir(directory)):
        raise Refused(f"{directory} is not empty", remedy=remedy)


def _refuse_foreign(target: Path) -> None:
    """Even a delta restore overwrites nothing but a data directory."""
    occupied = target.is_dir() and any(name not in _NOTHING for name in os.listdir(target))
    if occupied and not (target / "PG_VERSION").exists() and not (target / MARKER).exists():
        raise Refused(f"{target} is no data directory, so nothing in it is overwritten", remedy="Check the path.")


def _refuse_overlap(target: Path, tablespaces: Mapping[int, Path]) -> None:
    places = list(tablespaces.values())
    if len(set(places)) != len(places):
        raise Refused("Two tablespaces cannot share a directory")
    for place in places:
        if place == target or target in place.parents:
            raise Refused(f"The tablespace {place} must not lie inside the data directory {target}")


def _refuse_full(target: Path, backup: Backup, tablespaces: Mapping[int, Path]) -> None:
    """Compare what is needed on each file system with what is free there."""
    needed: dict[int, tuple[int, Path]] = {}
    outside = {space.oid: space.size for space in backup.tablespaces}
    parts: Iterable[tuple[Path, int]] = [
        (target, backup.size - sum(outside.values()) + RESERVE_BYTES),
        *((place, outside[oid]) for oid, place in tablespaces.items()),
    ]
    for place, size in parts:
        existing = next(path for path in (place, *place.parents) if path.exists())
        device = existing.stat().st_dev
        needed[device] = (needed.get(device, (0, existing))[0] + size, existing)
    for size, existing in needed.values():
        free = shutil.disk_usage(existing).free
        if free < size:
            raise Refused(f"{size >> 20} MB are needed at {existing}, {free >> 20} MB are free")

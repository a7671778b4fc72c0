# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a restore may write. Asked before the first byte; nothing is changed here."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Backup

# Lies in a data directory while a restore has not been finished.
MARKER = "dbops-restore.json"
# Left free for WAL and sorting.
RESERVE_BYTES = 64 << 20


def check(target: Path, backup: Backup, tablespaces: Mapping[int, Path], *, delta: bool) -> None:
    """Refuse to restore where something could be lost or would not work.

    Args:
        target: the new data directory.
        backup: that is restored.
        tablespaces: oid -> directory, complete.
        delta: files that are there already may be used, changed and removed.

    Raises:
        Refused: the server runs, the directory is not empty or not ours, or there is no room.
    """
    if os.geteuid() == 0:
        raise Refused("PostgreSQL's files must belong to its own account", remedy="Run this as the user postgres.")
    if not target.is_absolute():
        raise Refused(f"The target must be an absolute path, not {target}")
    _refuse_running(target)
    for directory in (target, *tablespaces.values()):
        _refuse_occupied(directory, delta=delta and directory == target, beside=target)
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


def _refuse_running(target: Path) -> None:
    try:
        process = int((target / "postmaster.pid").read_text(encoding="ascii").split("\n", 1)[0])
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        process = 0
    if process and Path(f"/proc/{process}").exists():
        raise Refused(f"A server runs in {target} (process {process})", remedy="Stop it first, if it is the right one.")


def _refuse_occupied(directory: Path, *, delta: bool, beside: Path) -> None:
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
    content = [name for name in os.listdir(directory) if name != "lost+found"]
    resuming = (beside / MARKER).exists()
    if content and not delta and not (resuming and directory != beside):
        raise Refused(
            f"{directory} is not empty",
            remedy="Move its content away, or use --delta if what lies there may be overwritten with the backup.",
        )


def _refuse_foreign(target: Path) -> None:
    """Even a delta restore overwrites nothing but a data directory."""
    occupied = target.is_dir() and any(name != "lost+found" for name in os.listdir(target))
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

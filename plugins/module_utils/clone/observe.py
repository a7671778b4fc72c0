# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads this host's side of a clone: directories, filesystems, the marker and its worker. Changes nothing."""

from __future__ import annotations

# Runs programs where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import contextlib
import grp
import json
import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from ansible_collections.dbops.fleet.plugins.module_utils.clone.facts import (
    CloneRequest,
    DirectoryState,
    Marker,
    Place,
    Process,
    Target,
)
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.control import ControlData

PROGRAMS = ("pg_basebackup", "pg_controldata", "pg_verifybackup")
_SHOWN_ENTRIES = 5


def read_target(request: CloneRequest) -> Target:
    """What is at the place of the new data directory."""
    data, parent = request.data_directory, os.path.dirname(request.data_directory)
    programs = (os.path.join(request.bin_directory, name) for name in PROGRAMS)
    marker, problem = read_marker(request.marker_path)
    return Target(
        data=read_directory(data, request.bin_directory),
        copy=read_directory(request.copy_directory, request.bin_directory),
        parent_exists=os.path.isdir(parent),
        grandparent_exists=os.path.isdir(os.path.dirname(parent)),
        mount_point=os.path.ismount(data),
        marker=marker,
        marker_problem=problem,
        worker_alive=marker is not None and is_alive(marker.worker),
        missing_program=next((program for program in programs if not os.access(program, os.X_OK)), None),
        owner_known=_known(request.owner, request.group),
    )


def read_directory(directory: str, bin_directory: str) -> DirectoryState:
    """What is in a directory that may be a data directory."""
    try:
        entries = sorted(os.listdir(directory))
    except FileNotFoundError:
        # A dangling link is something too: the name is taken.
        return DirectoryState(exists=os.path.lexists(directory))
    except NotADirectoryError:
        return DirectoryState(exists=True, entries=("(it is no directory)",))
    version = None
    with contextlib.suppress(OSError):
        version = Path(directory, "PG_VERSION").read_text().strip()
    return DirectoryState(
        exists=True,
        entries=tuple(entries[:_SHOWN_ENTRIES]),
        used="postmaster.pid" in entries or "postmaster.opts" in entries,
        running=_server_runs(directory),
        version=version,
        system_identifier=read_system_identifier(directory, bin_directory) if version else None,
    )


def read_system_identifier(directory: str, bin_directory: str) -> str | None:
    """From the control file; None when it cannot be read."""
    try:
        done = subprocess.run(
            [os.path.join(bin_directory, "pg_controldata"), directory],
            capture_output=True,
            text=True,
            env={"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath},
            check=True,
        )
        return ControlData.parse(done.stdout).system_identifier
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None


def read_places(plan_directory: str, tablespaces: Iterable[str], target: Target, remains: bool) -> dict[str, Place]:
    """Room in every directory that bytes will go to; remains of our own earlier clone count as room."""
    ours = target.marker.tablespace_directories if target.marker is not None and target.marker.unfinished else ()
    places = {plan_directory: _place(plan_directory, [plan_directory] if remains else [])}
    for directory in tablespaces:
        left = tablespace_remains(directory, target.marker) if directory in ours else []
        entries = _names(directory) - {os.path.basename(path) for path in left}
        place = _place(directory, left)
        places[directory] = Place(
            place.device, place.mount_point, place.free_bytes, place.reclaimable_bytes, tuple(sorted(entries))
        )
    return places


def tablespace_remains(directory: str, marker: Marker | None) -> list[str]:
    """What a clone puts into a tablespace's directory: one directory per version and catalog, PG_15_202209061."""
    if marker is None:
        return []
    prefix = f"PG_{marker.request.version}_"
    return [os.path.join(directory, name) for name in sorted(_names(directory)) if name.startswith(prefix)]


def read_marker(path: str) -> tuple[Marker | None, str | None]:
    """The marker, or why there is one that must not be believed."""
    try:
        status = os.lstat(path)
        # Remains are removed on its word: it must be from root or from ourselves, not from the owner of the directory.
        if status.st_uid not in {0, os.geteuid()}:
            return None, f"it belongs to user id {status.st_uid}"
        return Marker.from_dict(json.loads(Path(path).read_text())), None
    except (FileNotFoundError, NotADirectoryError):
        return None, None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"it cannot be read ({error})"


def write_marker(marker: Marker, *, durable: bool) -> None:
    """Replace the marker whole; `durable` flushes it to disk, which progress does not need.

    Raises:
        OSError: the old marker is still in place then.
    """
    path = marker.request.marker_path
    directory = os.path.dirname(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=directory)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(marker.to_dict(), file, indent=1)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            if durable:
                os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(directory)


def sync_directory(directory: str) -> None:
    """Flush the names in a directory."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def this_process() -> Process:
    """The calling process."""
    ticks = _start_ticks(os.getpid())
    return Process(os.getpid(), ticks if ticks is not None else -1, _boot_id())


def is_alive(process: Process) -> bool:
    """Whether it still runs: the same process, since the same boot, and no zombie."""
    return process.boot_id == _boot_id() and _start_ticks(process.pid) == process.start_ticks


def processes_writing_to(directory: str) -> list[int]:
    """Process ids of pg_basebackup and pg_verifybackup at work on a directory, whoever started them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            # Every word ends with a zero byte: what comes after the last one is no word.
            *words, _end = path.read_bytes().decode(errors="surrogateescape").split("\0")
            if words and os.path.basename(words[0]) in PROGRAMS and directory in words[1:]:
                found.append(int(path.parent.name))
    return found


def _start_ticks(pid: int) -> int | None:
    try:
        # "pid (name) state ppid ...": the name may hold spaces and parentheses. Field 22 is the start time.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _server_runs(directory: str) -> bool:
    try:
        pid = int(Path(directory, "postmaster.pid").read_text().split("\n", 1)[0])
        # The postmaster works in its data directory; another process with its old id does not.
        return os.path.samefile(f"/proc/{pid}/cwd", directory)
    except (OSError, ValueError):
        return False


def _place(directory: str, remains: list[str]) -> Place:
    existing = directory
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    statistics = os.statvfs(existing)
    return Place(
        device=os.stat(existing).st_dev,
        mount_point=_mount_point(existing),
        # f_bavail leaves out the blocks reserved for root: PostgreSQL cannot have those.
        free_bytes=statistics.f_bavail * statistics.f_frsize,
        reclaimable_bytes=sum(_allocated(path) for path in remains),
    )


def _mount_point(path: str) -> str:
    path = os.path.realpath(path)
    while not os.path.ismount(path):
        path = os.path.dirname(path)
    return path


def _allocated(directory: str) -> int:
    """Bytes that a tree takes on its disk."""
    return sum(status.st_blocks * 512 for status in _statuses(directory))


def _statuses(directory: str) -> Iterator[os.stat_result]:
    for parent, _directories, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                yield os.lstat(os.path.join(parent, name))


def _names(directory: str) -> set[str]:
    try:
        return set(os.listdir(directory))
    except FileNotFoundError:
        return set()
    except NotADirectoryError:
        return {"(it is no directory)"}


def _known(owner: str, group: str) -> bool:
    try:
        pwd.getpwnam(owner)
        grp.getgrnam(group)
    except KeyError:
        return False
    return True

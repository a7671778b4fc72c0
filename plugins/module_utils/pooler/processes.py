# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The PgBouncer processes that run on this host for a main file, wherever they listen, as the kernel tells."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.console import Endpoint
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.ini import Ini

_SOCKET = re.compile(r"(/.*)/\.s\.PGSQL\.(\d+)")
# The flag of a socket that takes connections, in /proc/net/unix.
_LISTENS = 0x10000


@dataclass(frozen=True)
class Process:
    """One that runs.

    Attributes:
        endpoint: its console by unix socket, named by the path of that.
        open_files: how many it may have.
    """

    endpoint: Endpoint
    open_files: int


def running_with(config_file: str) -> list[Process]:
    """The processes that were started with this main file, or with one of their own that includes it.

    Also those of an earlier number, port or directory, which the files say nothing about any more.
    """
    found = []
    for path in _listening_sockets():
        with contextlib.suppress(OSError):  # it has ended meanwhile, or is of somebody who lets nobody look
            pid = _listener(path)
            if pid and _goes_by(pid, os.path.realpath(config_file)):
                directory, _name, port = path.rpartition("/.s.PGSQL.")
                found.append(Process(Endpoint(path, directory, int(port)), _open_files(pid)))
    return found


def _listening_sockets() -> list[str]:
    lines = [line.split(None, 7) for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]]
    paths = [line[7] for line in lines if len(line) == 8 and int(line[3], 16) & _LISTENS]
    return sorted({os.path.realpath(path) for path in paths if _SOCKET.fullmatch(path)})


def _listener(path: str) -> int:
    """The process that listens on a unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        probe.connect(path)
        pid, _uid, _gid = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)


def _goes_by(pid: int, config_file: str) -> bool:
    """Whether the last word of its command is this file, or one that includes it."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    own = os.path.realpath(words[-1])
    if own == config_file:
        return True
    with contextlib.suppress(FleetError):
        included = Ini.parse(Path(own).read_text(errors="replace"), own, behind_include="pgbouncer").includes()
        return config_file in map(os.path.realpath, included)
    return False


def _open_files(pid: int) -> int:
    """The soft limit: PgBouncer does not raise it. To ask the kernel for it takes more rights than to read it."""
    limits = Path(f"/proc/{pid}/limits").read_text()
    found = re.search(r"^Max open files +(\d+)", limits, re.MULTILINE)
    return int(found[1]) if found else sys.maxsize

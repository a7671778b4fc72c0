# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One change of roles at a time: a lock file on this host, and advisory locks on every member that answers.

The lock file's lock is the kernel's (flock): it ends with the process that holds it, however that ends, and with the
boot. The advisory locks keep out a second one that was started on another member's host.
"""

from __future__ import annotations

import fcntl
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused

if TYPE_CHECKING:
    import psycopg

# The first of the two numbers of our advisory locks: "dbops" as a CRC, so that nobody else uses it by chance.
ADVISORY_CLASS = zlib.crc32(b"dbops.fleet role change") & 0x7FFFFFFF


def advisory_key(cluster: str) -> tuple[int, int]:
    """The two numbers for pg_try_advisory_lock."""
    return ADVISORY_CLASS, zlib.crc32(cluster.encode()) & 0x7FFFFFFF


def boot_id() -> str:
    """Changes with every boot of this host."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class LockFile:
    """An exclusive lock for one cluster on this host, held until `release` or the end of the process."""

    def __init__(self, directory: Path, cluster: str) -> None:
        self.path = directory / f"{cluster}.lock"
        self._descriptor: int | None = None

    def acquire(self, operation: str) -> None:
        """Take it.

        Raises:
            Refused: another process has it; the message names its operation and pid.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = self.owner() or "somebody"
            os.close(descriptor)
            raise Refused(
                f"another change of roles is at work on this cluster: {owner}",
                remedy="Wait for its end; running the same playbook again joins it.",
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{operation} pid {os.getpid()}\n".encode())
        self._descriptor = descriptor

    def owner(self) -> str | None:
        """Operation and pid of the process that holds it; None where nobody does."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.read(descriptor, 200).decode(errors="replace").strip() or "a process that has just begun"
        finally:
            os.close(descriptor)
        return None

    def release(self) -> None:
        """Give it back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def lock_members(sessions: Iterable[tuple[str, psycopg.Connection[Any]]], cluster: str) -> None:
    """Take the cluster's advisory lock in each session; it is held as long as the session.

    A standby takes them too, and keeps them through its promotion.

    Raises:
        Refused: one is held by somebody else; the message says who.
    """
    for name, session in sessions:
        row = session.execute("SELECT pg_try_advisory_lock(%s, %s)", advisory_key(cluster)).fetchone()
        if row and row[0]:
            continue
        holder = session.execute(
            "SELECT application_name, pid FROM pg_locks JOIN pg_stat_activity USING (pid)"
            " WHERE locktype = 'advisory' AND classid = %s AND objid = %s AND granted",
            advisory_key(cluster),
        ).fetchone()
        who = f"{holder[0]} (pid {holder[1]})" if holder else "a session that has just ended"
        raise Refused(
            f"another change of roles is at work on this cluster: {who} holds its advisory lock",
            host=name,
            remedy="Wait for its end; running the same playbook again joins it.",
        )

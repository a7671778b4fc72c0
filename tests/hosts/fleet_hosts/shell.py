# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running commands, telling what is going on, and keeping two runs out of each other's way."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fleet_hosts.catalogue import HostsError

_STARTED = time.monotonic()
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def say(text: str) -> None:
    """A progress line with the seconds since the start, on stderr: stdout is for what was asked."""
    print(f"[{time.monotonic() - _STARTED:6.1f} s] {text}", file=sys.stderr, flush=True)


def run(command: Sequence[str], *, text_in: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, output captured; raises HostsError with what it said on stderr."""
    try:
        done = subprocess.run(
            command, input=text_in, capture_output=True, text=True, check=False, preexec_fn=_die_with_parent
        )
    except FileNotFoundError as problem:
        raise HostsError(f"{command[0]} is missing: {problem}") from problem
    if check and done.returncode != 0:
        raise HostsError(
            f"{' '.join(command)} failed ({done.returncode}): {(done.stderr or done.stdout).strip()[-2000:]}"
        )
    return done


def _die_with_parent() -> None:
    """In a child: end with the tool. An orphan that went on working would be in the way of the next run."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def locked(path: Path, *, inherited: bool = False) -> Iterator[int]:
    """Hold the lock file, waiting for another run if need be. It is free again when this process ends, however it ends.

    With `inherited`, the yielded descriptor may be passed on to a child (pass_fds): the lock lasts until that child,
    too, is gone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(descriptor, inherited)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another run of fleet-hosts ({path.name})")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def wait_until(what: str, seconds: float, condition: Callable[[], bool]) -> None:
    """Poll the condition until it is true; raises HostsError saying what was waited for after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise HostsError(f"waited {seconds:.0f} s in vain until {what}")
        time.sleep(0.05)

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a drill works. A drill that is killed leaves a whole copy of the cluster there; the next one removes it."""

from __future__ import annotations

# Works where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore import leftover

_PREFIX = "dbops-drill-"
# The restored data directory inside.
DATA = "data"


@contextlib.contextmanager
def scratch(directory: Path) -> Iterator[Path]:
    """A new directory for one drill, removed at its end.

    Drills of several instances may share the place: each holds a lock on its own, which goes with its process.
    What nobody holds is left over.

    Args:
        directory: the place, on a disk with room for the cluster.

    Raises:
        Refused: this account cannot use it.
    """
    with contextlib.ExitStack() as stack:
        try:
            with _locked(directory):
                for found in directory.glob(f"{_PREFIX}*"):
                    _remove_leftover(found)
                made = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=_PREFIX, dir=directory)))
                stack.enter_context(_locked(made))
        except OSError as error:
            raise Refused(
                f"Cannot use {directory} for a drill: {error.strerror}", remedy="Make it, owned by postgres."
            ) from None
        yield made


def _remove_leftover(found: Path) -> None:
    if found.is_symlink() or not found.is_dir():
        return
    with contextlib.suppress(BlockingIOError), _locked(found, wait=False):
        leftover.stop(found / DATA)
        shutil.rmtree(found, ignore_errors=True)


@contextlib.contextmanager
def _locked(directory: Path, *, wait: bool = True) -> Iterator[None]:
    """Raises BlockingIOError when another process holds it and we do not wait."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)

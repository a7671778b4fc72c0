# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps two of a kind from working for one instance at the same time."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config


@contextlib.contextmanager
def only_one(config: Config, what: str) -> Iterator[None]:
    """Hold the lock. It goes with the process, however that ends.

    Args:
        what: `backup`, for example; names the file of the lock, and the work in the message.

    Raises:
        Refused: another process has it.
    """
    state = Path(config.state_directory)
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state / f"{what.replace(' ', '-')}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"Another {what} of this instance is running", remedy="Wait for it to end.") from None
        yield

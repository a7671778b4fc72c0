# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The private server of a restore, drill or extraction that was killed: it has a session of its own, and lives on."""

from __future__ import annotations

# Sees to processes where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import os
import signal
import time
from pathlib import Path

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed

STOP_SECONDS = 60.0
# Directories that PrivateServer (replay.py) gets its configuration from begin so. An operator's server has another.
_PRIVATE = ("dbops-replay-", "dbops-drill-", "dbops-extract-")


def server(data: Path) -> int | None:
    """The process id of a private server of ours that runs in this data directory; None when there is none."""
    try:
        process = int((data / "postmaster.pid").read_text(encoding="ascii").split("\n", 1)[0])
        here = Path(os.readlink(f"/proc/{process}/cwd")) == data.resolve()
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    files = [Path(os.fsdecode(word.partition(b"=")[2])) for word in words if word.startswith(b"config_file=")]
    return process if here and any(file.parent.name.startswith(_PRIVATE) for file in files) else None


def stop(data: Path) -> None:
    """Stop it. The caller holds the directory, so nobody works with that server any more.

    Raises:
        OperationFailed: it does not stop.
    """
    process = server(data)
    if process is None:
        return
    os.kill(process, signal.SIGQUIT)
    deadline = time.monotonic() + STOP_SECONDS
    while Path(f"/proc/{process}").exists():
        if time.monotonic() > deadline:
            raise OperationFailed(f"The server of an earlier run in {data} (process {process}) does not stop")
        time.sleep(0.1)
    (data / "postmaster.pid").unlink(missing_ok=True)

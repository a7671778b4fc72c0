# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files the processes of a pooler were last seen to have loaded, noted on their host.

PgBouncer tells nobody what it has read: not the passwords, the certificates, most of what stands behind a database. A
run after one that was killed between writing and RELOAD finds files that are as they shall be, and only this says that
they are not in force.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import json
import os
import pwd
from collections.abc import Iterable, Mapping
from pathlib import Path

from ansible_collections.dbops.fleet.plugins.module_utils.files import apply

# One note for each main file. It outlives a boot: then too a process may have read less than there is.
DIRECTORY = Path("/var/lib/dbops-fleet/pgbouncer")


def digests(paths: Iterable[str]) -> dict[str, str]:
    """The files that are there, each with a digest of what it holds."""
    found = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            found[path] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return found


def noted(config_file: str) -> dict[str, str]:
    """The digests of what was loaded last. Without a note that can be read nothing was."""
    try:
        return dict(json.loads(_note(config_file).read_text()))
    except (FileNotFoundError, TypeError, ValueError):
        return {}


def note(config_file: str, paths: Iterable[str], loaded: Mapping[str, str]) -> None:
    """Note, also for after a loss of power, that these files were loaded as they were.

    Args:
        config_file: the main file of the pooler.
        paths: the files that this is about; what is noted of others stays.
        loaded: digests, taken before the processes read the files.
    """
    about = set(paths)
    others = {path: digest for path, digest in noted(config_file).items() if path not in about}
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    own = {
        "path": str(_note(config_file)),
        "content": json.dumps({**others, **loaded}, indent=1, sort_keys=True) + "\n",
        "owner": pwd.getpwuid(os.geteuid()).pw_name,
        "group": grp.getgrgid(os.getegid()).gr_name,
        # A digest of a file of passwords can be compared with guesses.
        "mode": "0600",
    }
    apply.manage({"files": [own]}, check_mode=False)


def _note(config_file: str) -> Path:
    return DIRECTORY / f"{config_file.strip('/').replace('/', '-')}.json"

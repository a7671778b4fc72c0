# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The texts of `archive_command` and `restore_command`.

PostgreSQL runs both with /bin/sh in the data directory. The first half of each is a test of the shell alone, below a
millisecond; Python starts only when nothing was prepared.
"""

from __future__ import annotations

import shlex

# Where the role `backup` puts the engine.
INSTALLED = "/usr/lib/dbops-fleet"
# The pause before the second look for a marker.
LOOK_AGAIN_SECONDS = 0.1
ENGINE = "ansible_collections/dbops/fleet/plugins/module_utils"


def marker_directory(spool_directory: str, system: int) -> str:
    """Markers of segments that are archived, one empty file each. The identifier keeps clusters of one path apart."""
    return f"{spool_directory}/{system}/archived"


def archive_command(spool_directory: str, system: int, *, config_file: str, installed: str = INSTALLED) -> str:
    """For `postgresql.conf`.

    A marker counts only when it is newer than the segment: after a restore to an earlier point the same name is written
    again with other content. It is looked for twice: behind a backlog the archiver is at work on the segment, and then
    to wait a moment takes less of the processor than to start Python and ask.
    """
    marked = f"[ {shlex.quote(marker_directory(spool_directory, system))}/%f -nt %p ]"
    client = shlex.quote(f"{installed}/{ENGINE}/repository/wal/client.py")
    ask = f"/usr/bin/python3 -I -S {client} {shlex.quote(spool_directory)} %p"
    fallback = f"{shlex.quote(installed)}/dbops --config {shlex.quote(config_file)} wal push %p"
    return f"{marked} || {{ sleep {LOOK_AGAIN_SECONDS}; {marked}; }} || {ask} || {fallback}"


def restore_command(
    *, config_file: str, repository: str | None = None, prefetched: str | None = None, installed: str = INSTALLED
) -> str:
    """For `postgresql.conf` or a restore.

    Args:
        config_file: of the engine.
        repository: ask this one alone; None for all, in order.
        prefetched: directory into which a running restore puts checked segments ahead of time.
        installed: where the engine is.
    """
    get = f"exec {shlex.quote(installed)}/dbops --config {shlex.quote(config_file)} wal get"
    get += f" --repository {shlex.quote(repository)} %f %p" if repository else " %f %p"
    if prefetched is None:
        return get
    return f"mv {shlex.quote(prefetched)}/%f %p 2>/dev/null || {get}"


def launcher(installed: str = INSTALLED) -> str:
    """The text of the executable `dbops`.

    Whatever goes wrong before the engine answers must not look to PostgreSQL like the end of the archive, so `wal get`
    then ends with 126 (see wal/answer.py).
    """
    return f"""#!/usr/bin/python3 -I
# Made by dbops.fleet. The engine beside this file is a copy of the collection's module_utils.
import sys

try:
    sys.path.insert(0, {installed!r})
    from ansible_collections.dbops.fleet.plugins.module_utils.repository.cli import main

    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code if isinstance(end.code, int) else 1
    status = 126 if status and "get" in sys.argv else status
except BaseException as error:
    sys.stderr.write(f"dbops: {{type(error).__name__}}: {{error}}\\n")
    status = 126 if "get" in sys.argv else 1
sys.exit(status)
"""

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the write-ahead log on disk ends, asked of pg_waldump: SQL does not know it after a restart or a crash."""

from __future__ import annotations

# Runs programs where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import re
import subprocess

from ansible_collections.dbops.fleet.plugins.module_utils.failover.record_end import record_end
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.instance import Instance
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.wal import DEFAULT_SEGMENT_SIZE

# "error in WAL record at A: invalid record length at B: ...": A is the last record that can be read, B what follows it.
_LAST_RECORD = re.compile(r"error in WAL record at ([0-9A-F]+/[0-9A-F]+)")
_RECORD = re.compile(r"len \(rec/tot\):\s*\d+/\s*(\d+),.*?lsn: ([0-9A-F]+/[0-9A-F]+)")


def wal_end(instance: Instance, timeline: int, start: Lsn, *, timeout: float = 60.0) -> Lsn | None:
    """The end of the last record of this timeline that can be read without a gap.

    Args:
        start: the beginning of some record, or any position before one: nothing before it is read.
        timeout: seconds. pg_waldump reads some hundred megabytes per second.

    Returns:
        None where there is no such segment or pg_waldump cannot tell.
    """
    control = instance.control_data()
    size = control.wal_segment_size if control else DEFAULT_SEGMENT_SIZE
    said = _waldump(instance, timeline, start, "--quiet", timeout=timeout)
    match = _LAST_RECORD.search(said.stderr)
    last = Lsn.parse(match[1]) if match else None
    if last is None:
        if "could not find a valid record after" in said.stderr:
            return start
        # The log ends where a segment does: the last record has to be looked for.
        found = _RECORD.findall(_waldump(instance, timeline, start, timeout=timeout).stdout)
        return record_end(Lsn.parse(found[-1][1]), int(found[-1][0]), size) if found else None
    found = _RECORD.findall(_waldump(instance, timeline, last, "--limit=1", timeout=timeout).stdout)
    return record_end(last, int(found[0][0]), size) if found else None


def _waldump(
    instance: Instance, timeline: int, start: Lsn, *options: str, timeout: float
) -> subprocess.CompletedProcess[str]:
    command = [str(instance.binaries / "pg_waldump"), f"--path={instance.data_directory / 'pg_wal'}"]
    command += [f"--timeline={timeline}", f"--start={start}", *options]
    return subprocess.run(command, capture_output=True, text=True, env={"LC_ALL": "C"}, check=False, timeout=timeout)

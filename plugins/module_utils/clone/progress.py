# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How far a clone is: pg_basebackup's progress lines, and the figures and sentence that are shown of a marker."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.clone.facts import Marker
from ansible_collections.dbops.fleet.plugins.module_utils.clone.plan import megabytes

# "  20496/31231 kB (65%), 0/1 tablespace (...ta.dbops-clone/base/5/1249)"
_LINE = re.compile(r"\s*(\d+)/(\d+) kB \(\d+%\), \d+/\d+ tablespaces?")
_PHASES = {
    "preparing": "prepares",
    "verifying": "verifies every file against the manifest",
    "placing": "writes the settings and renames the copy into place",
}


@dataclass(frozen=True)
class Copied:
    """Bytes copied so far, and the estimate of all of them that the source gave."""

    bytes_done: int
    bytes_total: int


def parse_line(line: str) -> Copied | None:
    """A line of pg_basebackup's standard error under --progress; None if it is another kind of line."""
    match = _LINE.match(line)
    return Copied(int(match[1]) * 1024, int(match[2]) * 1024) if match else None


def figures(marker: Marker, now: float) -> dict[str, Any]:
    """What modules return about a clone: phase, percent, bytes, rate, time left (None where it cannot be told)."""
    done, total = marker.bytes_done, max(marker.bytes_total, marker.bytes_done)
    end = marker.finished_at or now
    seconds = max(end - (marker.copy_started_at or end), 0.001)
    # The average since the first byte: with one figure a second, a shorter window jumps about.
    rate = done / seconds if marker.copy_started_at is not None and done else None
    copying = marker.phase == "copying"
    return {
        "operation_id": marker.operation_id,
        "phase": marker.phase,
        "finished": marker.phase == "finished",
        "percent": 100 if marker.phase == "finished" else int(done * 100 / total) if total else 0,
        "bytes_done": done,
        "bytes_total": total,
        "mb_per_second": round(rate / 1e6, 1) if rate and copying else None,
        "eta_seconds": round((total - done) / rate) if rate and copying else None,
        "elapsed_seconds": round(end - marker.started_at, 1),
    }


def sentence(marker: Marker, now: float) -> str:
    """One line for the operator's terminal."""
    values = figures(marker, now)
    source = marker.request.source.host
    if marker.phase == "finished":
        return f"cloned {megabytes(values['bytes_done'])} from {source} in {values['elapsed_seconds']:.0f} s"
    if marker.phase == "failed":
        return f"the clone of {source} has failed" + (f": {marker.failure.message}" if marker.failure else "")
    if marker.phase == "copying" and values["mb_per_second"] is not None:
        return (
            f"clones {source}: {values['percent']} %, {megabytes(values['bytes_done'])} of "
            f"{megabytes(values['bytes_total'])}, {values['mb_per_second']:.0f} MB/s, {values['eta_seconds']} s left"
        )
    return f"clones {source}: {_PHASES.get(marker.phase, 'waits for the checkpoint that the backup begins with')}"

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures for Prometheus, as text for node_exporter's textfile collector. Alerts look at ages, not at exit codes."""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Listed
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.entry import ListedDump
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.health import ArchiveState


def text(
    cluster: str, repository: str, listed: Sequence[Listed], state: ArchiveState, dumps: Sequence[ListedDump] = ()
) -> str:
    """One repository's figures.

    Args:
        cluster: name, becomes a label.
        repository: name, becomes a label.
        listed: backups, oldest first.
        state: of the archive.
        dumps: oldest first; not those that were taken out of backups.
    """
    labels = f'cluster="{cluster}",repository="{repository}"'
    view = next((one for one in state.repositories if one.name == repository), None)
    gaps = sum(gap.status == "lost" for report in (view.timelines if view else ()) for gap in report.gaps)
    newest = listed[-1].backup if listed else None
    good = [item.verified for item in listed if item.verified and item.verified.good]
    drills = [verified for verified in good if verified.how == "drill"]
    last_drill = max(drills, key=lambda one: one.time, default=None)
    dumped = [item for item in dumps if item.dump.origin is None]
    figures: dict[str, tuple[str, float | None]] = {
        "backup_last_time_seconds": ("when the newest backup ended", newest.stop_time if newest else 0),
        "backup_size_bytes": ("size of the newest backup's files", newest.size if newest else None),
        "backup_sent_bytes": ("what the newest backup added to the repository", newest.sent if newest else None),
        "backups": ("backups in the repository", len(listed)),
        "backups_bad": ("backups that failed a verification", sum(item.bad for item in listed)),
        "backup_last_verified_time_seconds": (
            "when a backup was last proven good",
            max((one.time for one in good), default=0),
        ),
        "drill_last_time_seconds": ("when a restore drill last succeeded", last_drill.time if last_drill else 0),
        "drill_rto_seconds": (
            "how long that restore took",
            last_drill.figures.get("rto_seconds") if last_drill else None,
        ),
        "dumps": ("logical dumps in the repository", len(dumped)),
        "dumps_bad": ("dumps that failed a verification", sum(item.bad for item in dumped)),
        "dump_last_time_seconds": ("when the newest dump ended", dumped[-1].stop_time if dumped else None),
        "wal_archiving": ("1 when WAL is archived as configured", float(state.archiving)),
        "wal_archived_time_seconds": ("when the newest WAL arrived", state.archived_time),
        "wal_rpo_seconds": ("greatest age of changes that are in no archive", state.rpo_seconds),
        "wal_gaps": ("holes in the archive that nobody meant", gaps),
    }
    lines = []
    for name, (told, value) in figures.items():
        if value is not None:
            lines += [
                f"# HELP dbops_{name} {told}",
                f"# TYPE dbops_{name} gauge",
                f"dbops_{name}{{{labels}}} {value:.15g}",
            ]
    return "\n".join(lines) + "\n"

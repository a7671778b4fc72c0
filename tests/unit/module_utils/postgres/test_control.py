# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control file as pg_controldata prints it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.control import ControlData
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn

TEXT = (Path(__file__).parents[2] / "fixtures" / "pg_controldata" / "15.txt").read_text()


def test_reads_a_fresh_cluster() -> None:
    control = ControlData.parse(TEXT)
    assert control.state == "shut down"
    assert control.shut_down_cleanly
    assert control.checkpoint_lsn == Lsn.parse("0/17414F8")
    assert (control.timeline, control.prev_timeline, control.min_recovery_timeline) == (1, 1, 0)
    assert control.data_checksums
    assert not control.wal_log_hints
    assert control.wal_segment_size == 16777216
    assert control.checkpoint_time == "2026-11-21T09:08:53+00:00"
    assert ControlData.from_dict(control.to_dict()) == control


@pytest.mark.parametrize("state", ["in production", "shutting down", "in crash recovery", "in archive recovery"])
def test_other_states_are_no_clean_shutdown(state: str) -> None:
    assert not ControlData.parse(TEXT.replace("shut down\n", f"{state}\n", 1)).shut_down_cleanly


def test_a_missing_or_translated_line_is_named() -> None:
    with pytest.raises(ValueError, match="did not print 'Database cluster state'"):
        ControlData.parse(TEXT.replace("Database cluster state", "Datenbank-Cluster-Status"))
    with pytest.raises(ValueError, match="'Latest checkpoint location' as 'nowhere'"):
        ControlData.parse(TEXT.replace("0/17414F8", "nowhere", 1))

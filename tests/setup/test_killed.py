# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""setup.yml killed in the middle of its first run, on the controller as by SIGKILL: run again it finishes."""

from __future__ import annotations

import os
import signal

import pytest
from fleet import Fleet


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "task",
    [
        "Write the fleet's own files",
        "Make it, with data checksums",
        "Start it, and see a replica stream",
        "Make what is missing in postgres",
        "Clone the data directory",
        "Hand the data to Debian's tools",
        "Write PgBouncer's files",
    ],
)
def test_a_first_run_that_was_killed_is_finished_by_the_next(fleet: Fleet, task: str) -> None:
    fleet.fresh("pg1", "pg2", "pool1")
    fleet.member("pg1", fleet_initial_primary=True)
    fleet.member("pg2")
    fleet.pooler("pool1", "orders")
    process = fleet.start_setup()
    assert process.stdout is not None
    try:
        begun = False
        for line in process.stdout:
            if line.startswith("TASK"):
                begun = task in line
            # On some host: elsewhere it may have been skipped before.
            elif begun and not line.startswith(("skipping", "included")):
                break
        else:
            pytest.fail(f"the run ended before the task {task!r}")
    finally:
        # Its workers and SSH connections too, as when the controller loses power.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    run = fleet.setup()
    assert run.ok
    assert "orders: healthy, primary pg1" in run.text
    assert fleet.sql("pg2", "SELECT status FROM pg_stat_wal_receiver", "postgres") == "streaming"
    assert set(fleet.setup().changed.values()) == {0}

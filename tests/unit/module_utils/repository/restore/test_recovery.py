# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where replay stands, and with what it is started."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import TimelineHistory
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Backup
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore.recovery import (
    NO_MORE_WAL,
    Progress,
    Standing,
    accepts_end_of_archive,
    auto_conf,
    settings,
    standing,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.targets import KINDS, Choice, Target

SIZE = 16 * 1024 * 1024
BACKUP = Backup(
    id="a",
    system="1",
    major=15,
    timeline=1,
    start_lsn=Lsn(2 * SIZE + 40),
    stop_lsn=Lsn(2 * SIZE + 400),
    start_time=0,
    stop_time=1,
    incremental=False,
    source="primary",
    host="db1",
    segment_size=SIZE,
    size=1,
    sent=1,
    files=1,
    index=(),
    packs={},
)
CHOICE = Choice(BACKUP, TimelineHistory.first(), Lsn(10 * SIZE), 100.0)
LAST, EARLY = Lsn(10 * SIZE - 5000), Lsn(5 * SIZE)
# Behind the switch at the end of the last segment but one: nothing of the last one was replayed.
BOUNDARY = Lsn(9 * SIZE)


@pytest.mark.parametrize(
    ("kind", "replayed", "waiting"),
    list(itertools.product(KINDS, (None, EARLY, BOUNDARY, BOUNDARY + 1, LAST), (False, True))),
)
def test_only_the_last_segment_counts_as_the_end_of_the_archive(kind: str, replayed: Lsn | None, waiting: bool) -> None:
    progress = Progress(replayed, False, NO_MORE_WAL if waiting else "RecoveryRead", None)
    found = standing(progress, CHOICE, Target(kind, "x"))
    if replayed is None or not waiting:
        assert found is Standing.GOING_ON
    elif replayed <= BOUNDARY:
        assert found is Standing.STUCK
    else:
        assert found is (Standing.REACHED if kind == "latest" else Standing.EXHAUSTED)


def test_a_pause_is_the_target_and_an_end_by_itself_is_an_alarm() -> None:
    assert standing(Progress(EARLY, True, None, None), CHOICE, Target("lsn", "x")) is Standing.REACHED
    assert standing(Progress(LAST, False, None, None, in_recovery=False), CHOICE, Target()) is Standing.ENDED


def test_only_a_time_may_end_with_the_archive() -> None:
    assert [kind for kind in KINDS if accepts_end_of_archive(Target(kind, "x"))] == ["time"]


@pytest.mark.parametrize("kind", KINDS)
def test_at_most_one_target_is_set_and_nothing_reaches_the_outside(kind: str) -> None:
    values = settings(CHOICE, Target(kind, "x"), restore_command="get", limits={"max_connections": 300})
    targets = [name for name in values if name in ("recovery_target", *(f"recovery_target_{k}" for k in KINDS))]
    assert len(targets) == (0 if kind == "latest" else 1)
    assert values["archive_mode"] == "off"
    assert values["listen_addresses"] == ""
    assert values["primary_conninfo"] == ""
    assert values["recovery_target_timeline"] == "current"
    later = dataclasses.replace(CHOICE, history=TimelineHistory(3))
    values = settings(later, Target(kind, "x"), restore_command="get", limits={"max_connections": 300})
    assert values["recovery_target_timeline"] == "3"
    assert values["max_connections"] == "300"


def test_settings_of_an_earlier_recovery_are_removed() -> None:
    text = "# made by ALTER SYSTEM\nwork_mem = '7MB'\nrecovery_target_time = 'x'\nrestore_command = 'y'\n"
    assert auto_conf(text, scratch=False) == "# made by ALTER SYSTEM\nwork_mem = '7MB'\n"


def test_a_scratch_copy_does_not_archive_however_it_is_started() -> None:
    assert auto_conf("archive_mode = 'always'\n", scratch=True) == "archive_mode = 'off'\n"
    assert auto_conf("archive_mode = 'always'\n", scratch=False) == "archive_mode = 'always'\n"

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal: what a killed writer leaves, what a rerun reads, and which operation is unfinished."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.failover.journal import (
    Entry,
    Journal,
    Progress,
    parse,
    read,
    unfinished,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_record import record_of


def journal(directory: Path, name: str, *events: tuple[str, str | None], **end: str) -> Journal:
    made = Journal.create(directory / f"{name}.jsonl")
    made.append("start", request={"operation": name, "cluster": "orders", "old": {"name": "a"}, "new": {"name": "b"}})
    for event, step in events:
        made.append(event, step)
    if end:
        made.append("end", **end)  # type: ignore[arg-type]
    return made


def test_a_line_survives_the_round_trip() -> None:
    entry = Entry(3, 12.5, "done", "stop", {"checkpoint": "0/28"})
    assert Entry.from_line(entry.to_line()) == entry


def test_a_torn_last_line_is_left_out_and_cut_off(tmp_path: Path) -> None:
    made = journal(tmp_path, "1", ("begin", "pause"))
    with made.path.open("a") as file:
        file.write('{"seq":3,"time":1,"ev')
    assert [entry.event for entry in read(made.path)] == ["start", "begin"]
    again = Journal.open(made.path)
    again.append("done", "pause")
    assert [entry.event for entry in read(made.path)] == ["start", "begin", "done"]
    assert [entry.seq for entry in read(made.path)] == [1, 2, 3]


def test_a_damaged_line_in_the_middle_is_an_error() -> None:
    with pytest.raises(ValueError):
        parse('{"seq":1}\n')


def test_an_unknown_event_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such"):
        journal(tmp_path, "1").append("nonsense")


def test_progress_forgets_what_was_undone() -> None:
    entries = [
        Entry(1, 0, "start", None, {"request": {}}),
        Entry(2, 0, "begin", "tune"),
        Entry(3, 0, "done", "tune", {"x": 1}),
        Entry(4, 0, "begin", "pause"),
        Entry(5, 0, "undo", "pause"),
        Entry(6, 0, "undone", "pause"),
    ]
    progress = Progress.of(entries)
    assert progress.begun == ("tune",)
    assert progress.done == {"tune"}
    assert progress.state == {"x": 1}
    assert progress.open


def test_the_same_name_is_not_used_twice(tmp_path: Path) -> None:
    journal(tmp_path, "1")
    with pytest.raises(FileExistsError):
        journal(tmp_path, "1")


def test_unfinished_is_what_has_no_end_or_ended_with_a_question(tmp_path: Path) -> None:
    assert unfinished(tmp_path / "none") is None
    journal(tmp_path, "1", state="ok")
    assert unfinished(tmp_path) is None
    second = journal(tmp_path, "2", ("begin", "pause"))
    assert unfinished(tmp_path) == second.path
    second.append("end", state="needs_operator")
    assert unfinished(tmp_path) == second.path


def test_one_that_was_refused_does_not_hide_an_unfinished_one(tmp_path: Path) -> None:
    first = journal(tmp_path, "1", ("begin", "pause"))
    journal(tmp_path, "2", state="refused")
    assert unfinished(tmp_path) == first.path
    journal(tmp_path, "3", state="ok")
    assert unfinished(tmp_path) is None


def test_a_resumed_operation_is_unfinished_again(tmp_path: Path) -> None:
    made = journal(tmp_path, "1", state="needs_operator")
    made.append("resume", action="finish", reason="...")
    assert Progress.of(made.entries).end is None


def test_the_record_has_the_pause_and_every_step() -> None:
    entries = [
        Entry(1, 100.0, "start", None, {"request": {"operation": "1", "old": {"name": "a"}, "new": {"name": "b"}}}),
        Entry(2, 100.1, "begin", "pause"),
        Entry(3, 100.2, "done", "pause"),
        Entry(4, 100.2, "begin", "resume"),
        Entry(5, 100.25, "done", "resume"),
        Entry(6, 100.3, "end", None, {"state": "ok", "reason": "b is the primary", "next": "", "problems": []}),
    ]
    record = record_of(entries, "/j")
    assert record["pause_ms"] == 150.0
    assert [(step["name"], step["ms"]) for step in record["timings"]] == [("pause", 100.0), ("resume", 50.0)]
    assert (record["state"], record["old_primary"], record["new_primary"]) == ("ok", "a", "b")


def test_the_record_of_a_rollback_says_how_long_clients_were_held() -> None:
    entries = [
        Entry(1, 100.0, "start", None, {"request": {}}),
        Entry(2, 100.1, "begin", "pause"),
        Entry(3, 100.2, "done", "pause"),
        Entry(4, 100.3, "begin", "stop"),
        Entry(5, 100.4, "failed", "stop", {"reason": "no"}),
        Entry(6, 100.5, "undo", "pause"),
        Entry(7, 100.6, "undone", "pause"),
    ]
    record = record_of(entries, "/j")
    assert record["pause_ms"] == 500.0
    assert [step["result"] for step in record["timings"]] == ["done", "failed", "undone"]


def test_what_a_full_disk_takes_only_half_of_is_not_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.create(tmp_path / "1.jsonl")
    journal.append("start", request={})
    with monkeypatch.context() as full:
        write = os.write
        full.setattr("os.write", lambda descriptor, data: write(descriptor, data[:5]))
        with pytest.raises(OSError, match="No space left"):
            journal.append("begin", "pause")
    journal.append("begin", "stop")
    journal.close()
    assert [(entry.seq, entry.event, entry.step) for entry in read(journal.path)] == [
        (1, "start", None),
        (2, "begin", "stop"),
    ]

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of a switchover, made from its journal: what was done when, with times and positions. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.failover.journal import Entry, Progress


def record_of(entries: Sequence[Entry], path: str) -> dict[str, Any]:
    """JSON-able: the end, both primaries, positions, and each step with its times in milliseconds.

    Args:
        entries: of the journal.
        path: of the journal, for the operator.
    """
    progress = Progress.of(entries)
    request = progress.request.get("request", {})
    end = progress.end or {}
    began = entries[0].time if entries else 0.0
    steps = _steps(entries, began)
    by_name = {step["name"]: step for step in steps if step["result"] == "done"}
    record = {
        "operation": request.get("operation"),
        "cluster": request.get("cluster"),
        "state": end.get("state"),
        "reason": end.get("reason", ""),
        "next": end.get("next", ""),
        "problems": end.get("problems", []),
        "old_primary": request.get("old", {}).get("name"),
        "new_primary": request.get("new", {}).get("name"),
        "started": _time(began),
        "ended": _time(entries[-1].time) if entries else None,
        "seconds": round(entries[-1].time - began, 3) if entries else None,
        "old_timeline": request.get("timeline"),
        "new_timeline": progress.state.get("new_timeline"),
        "shutdown_checkpoint": progress.state.get("checkpoint"),
        "switchpoint": progress.state.get("switchpoint") or progress.state.get("end"),
        "pause_ms": None,
        "timings": steps,
        "journal": path,
    }
    if "pause" in by_name and "resume" in by_name:
        last = by_name["resume"]
        record["pause_ms"] = round(last["at_ms"] + last["ms"] - by_name["pause"]["at_ms"], 1)
    elif "pause" in by_name:
        undone = next((entry for entry in entries if entry.event == "undone" and entry.step == "pause"), None)
        if undone is not None:
            record["pause_ms"] = round((undone.time - began) * 1000 - by_name["pause"]["at_ms"], 1)
    return record


def _steps(entries: Sequence[Entry], began: float) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    open_steps: dict[tuple[str, bool], Entry] = {}
    for entry in entries:
        undoing = entry.event in ("undo", "undone")
        if entry.step is None:
            continue
        if entry.event in ("begin", "undo"):
            open_steps[entry.step, undoing] = entry
            continue
        first = open_steps.pop((entry.step, undoing), None) or open_steps.pop((entry.step, True), None)
        if first is None:
            continue
        step = {
            "name": entry.step,
            "result": entry.event,
            "at_ms": round((first.time - began) * 1000, 1),
            "ms": round((entry.time - first.time) * 1000, 1),
        }
        if "reason" in entry.data:
            step["reason"] = entry.data["reason"]
        steps.append(step)
    steps.extend({"name": name, "result": "interrupted"} for name, _began in open_steps)
    return steps


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")

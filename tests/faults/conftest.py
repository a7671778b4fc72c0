# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps the figures of each fault test, from which table.py makes docs/faults.md.

They go to .cache/results/faults.json. A run of some tests changes only theirs, so the lists can be run in pieces.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

FIGURES = Path(__file__).resolve().parents[2] / ".cache/results/faults.json"
# The module of the load checker, under each of the names that tests import it by.
_LOADS = ("ansible_collections.dbops.fleet.tests.faults.load", "load")


def _load_reports() -> list[Any]:
    return [report for name in _LOADS if name in sys.modules for report in sys.modules[name].REPORTS]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Note when a test begins and which reports of loads there were before it."""
    item.user_properties.append(("began", time.time()))
    item.user_properties.append(("load reports", len(_load_reports())))
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write down how each test ended. A failing set-up or clean-up counts as a failure of the test."""
    report = yield
    if Path(__file__).parent not in item.path.parents:
        return report
    noted: dict[str, Any] = dict(item.user_properties)
    noted["worst"] = "failed" if report.failed else noted.get("worst", report.outcome)
    if report.skipped:
        noted["worst"] = "skipped"
    item.user_properties[:] = list(noted.items())
    if report.when == "teardown":
        loads = _load_reports()[noted["load reports"] :]
        _keep(
            f"{item.path.name}::{item.name}",
            {
                "outcome": noted["worst"],
                "seconds": round(time.time() - noted["began"], 1),
                "acknowledged": sum(load.acknowledged for load in loads),
                "lost": sum(load.lost for load in loads),
                "duplicated": sum(load.duplicated for load in loads),
                "under load": bool(loads),
            },
        )
    return report


def _keep(test: str, figures: dict[str, Any]) -> None:
    FIGURES.parent.mkdir(parents=True, exist_ok=True)
    with FIGURES.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
        known[test] = figures
        new = FIGURES.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(known, indent=1, sort_keys=True))
        new.replace(FIGURES)

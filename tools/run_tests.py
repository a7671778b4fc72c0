# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the parts of the test suite one after the other and ends with a table and one line, `N passed, N failed`.

    run_tests.py             every part of `make test`
    run_tests.py unit mypy   these parts only

A failing part does not stop the others; the exit code is 1 when anything failed. `make test`, `make lint` and their
siblings call this through the Makefile, which sets PATH and Ansible's environment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

CHECKOUT = Path(__file__).resolve().parent.parent
RESULTS = CHECKOUT / ".cache" / "results"

# A part that hangs is ended after this long, so that the summary is always reached.
LIMIT_SECONDS = 30 * 60

# `make test` leaves slow tests to `make test-faults`.
PYTEST = ["pytest", "-q", "-m", "not slow"]
# Two files of tests at a time, where each makes the servers that it needs: they wait more than they compute.
SIDE_BY_SIDE = [*PYTEST, "--numprocesses=2", "--dist=loadfile"]

PARTS: dict[str, list[str]] = {
    "ansible-lint": ["ansible-lint", "--strict"],
    "yamllint": ["yamllint", "--strict", "."],
    "shellcheck": ["tools/shellcheck-all"],
    "ruff": ["ruff", "check"],
    "ruff-format": ["ruff", "format", "--check"],
    "mypy": ["mypy"],
    "unit": [*SIDE_BY_SIDE, "tests/unit", "tests/hosts/test_catalogue.py", "tests/hosts/test_sudo.py"],
    "sanity": ["tools/sanity"],
    "integration": [*SIDE_BY_SIDE, "tests/integration"],
    "hosts": ["make", "--no-print-directory", "hosts"],
    "faults": [*SIDE_BY_SIDE, "tests/faults"],
    "molecule": ["molecule", "test", "--no-command-borders", "--scenario-name"],
    "setup": [*PYTEST, "tests/setup"],
}
# Where Molecule notes what it has done with the hosts. After a killed run they would let the next one leave out a step.
MOLECULE_NOTES = CHECKOUT / ".cache" / "molecule-notes"
# Scenarios that `make test` leaves to `make test-faults`: they cut power, or take backups.
LONG_SCENARIOS = ("backup", "disaster_recovery", "failover", "rejoin", "restore")
LINT = ("ansible-lint", "yamllint", "shellcheck", "ruff", "ruff-format", "mypy")


@dataclass(frozen=True)
class Result:
    """What one part came to. A part that is no test suite of its own counts as one test."""

    part: str
    seconds: float
    passed: int
    failed: int
    skipped: int = 0
    failures: tuple[str, ...] = ()


def scenarios() -> list[str]:
    """The Molecule scenarios of `make test`. `default` only makes and removes the shared hosts."""
    found = sorted(file.parent.name for file in (CHECKOUT / "molecule").glob("*/molecule.yml"))
    return [name for name in found if name not in ("default", *LONG_SCENARIOS)]


def expand(names: list[str]) -> list[tuple[str, list[str]]]:
    """Parts by name with their commands; `lint` stands for its tools, `molecule` and `long-molecule` for scenarios."""
    expanded: list[tuple[str, list[str]]] = []
    for name in names:
        if name == "lint":
            expanded += [(tool, PARTS[tool]) for tool in LINT]
        elif name == "long-molecule":
            expanded += [(f"molecule {each}", [*PARTS["molecule"], each]) for each in LONG_SCENARIOS]
        elif name == "molecule":
            # Without any scenario the plain name stays: Molecule then fails and says so.
            expanded += [(f"molecule {each}", [*PARTS[name], each]) for each in scenarios()] or [(name, PARTS[name])]
        elif name in PARTS:
            expanded.append((name, PARTS[name]))
        else:
            raise SystemExit(f"There is no part named {name}. Parts: lint, {', '.join(PARTS)}.")
    return expanded


def execute(command: list[str]) -> int:
    """Runs a command, its output going where ours goes. Returns its exit code, or 124 when it took too long."""
    try:
        process = subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(f"{command[0]} cannot be run: {error}")
        return 127
    try:
        return process.wait(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"Ended after {LIMIT_SECONDS} seconds: {' '.join(command)}")
        return 124
    finally:
        if process.poll() is None:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a command and its children; tests get time to clean up before all that is left is killed."""
    for number, patience_seconds in ((signal.SIGINT, 60), (signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(timeout=patience_seconds)


def interrupt(*_args: object) -> None:
    raise KeyboardInterrupt


def count(report: Path, exit_code: int) -> tuple[int, int, int]:
    """Passed, failed and skipped tests of a pytest run. A run that died without saying so counts as one failure."""
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    if report.exists():
        for suite in ElementTree.parse(report).iter("testsuite"):
            for key in totals:
                totals[key] += int(suite.get(key, "0"))
    failed = totals["failures"] + totals["errors"]
    # An error in a fixture's end comes on top of the test's own result.
    passed = max(totals["tests"] - failed - totals["skipped"], 0)
    if exit_code != 0 and failed == 0:
        failed = 1
    return passed, failed, totals["skipped"]


def failures(report: Path) -> list[str]:
    """The names of the tests of a pytest run that failed, as `file::test`."""
    if not report.exists():
        return []
    cases = ElementTree.parse(report).iter("testcase")
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    return [f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}" for case in bad]


def run(part: str, command: list[str]) -> Result:
    print(f"\n=== {part}: {' '.join(command)}", flush=True)
    report = RESULTS / f"{part}.xml"
    report.unlink(missing_ok=True)
    shutil.rmtree(MOLECULE_NOTES, ignore_errors=True)
    is_pytest = command[0] == "pytest"
    started = time.monotonic()
    exit_code = execute([*command, f"--junitxml={report}"] if is_pytest else command)
    seconds = time.monotonic() - started
    if is_pytest:
        return Result(part, seconds, *count(report, exit_code), failures=tuple(failures(report)))
    return Result(part, seconds, passed=int(exit_code == 0), failed=int(exit_code != 0))


def table(results: list[Result]) -> str:
    lines = [f"{'part':<32} {'seconds':>8} {'passed':>7} {'failed':>7} {'skipped':>8}  result"]
    lines += [
        f"{r.part:<32} {r.seconds:>8.1f} {r.passed:>7} {r.failed:>7} {r.skipped:>8}  {'FAILED' if r.failed else 'ok'}"
        for r in results
    ]
    # Named once more at the end: whoever reads only the end of a long log needs no more to begin.
    lines += [f"FAILED {name}" for r in results for name in r.failures]
    return "\n".join(lines)


def main() -> int:
    chosen = expand(sys.argv[1:] or list(PARTS))
    signal.signal(signal.SIGTERM, interrupt)
    os.environ["MOLECULE_EPHEMERAL_DIRECTORY"] = str(MOLECULE_NOTES)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "summary").unlink(missing_ok=True)
    results = [run(part, command) for part, command in chosen]
    failed = sum(r.failed for r in results)
    summary = f"{sum(r.passed for r in results)} passed, {failed} failed"
    (RESULTS / "summary").write_text(summary + "\n")
    print(f"\n{table(results)}\n\n{summary}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the figures of the last runs of the fault tests into docs/faults.md: `python tests/faults/table.py`.

`make test-faults` runs all of them and then this. The figures are in .cache/results/faults.json (conftest.py).
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
FIGURES = CHECKOUT / ".cache/results/faults.json"
PAGE = CHECKOUT / "docs/faults.md"
BEGIN, END = "<!-- figures begin -->", "<!-- figures end -->"
LISTS = {"S": "Switchover", "F": "Failover", "R": "Rejoin", "A": "WAL archive", "B": "Backups"}


def row_of(test: str) -> tuple[str, str, str]:
    """The list, the scenario and the sentence of a test such as `test_failover.py::test_f02_a_power_cut[pg1]`."""
    file, _, name = test.partition("::")
    name = name.partition("[")[0].removeprefix("test_")
    letter = file.removeprefix("test_")[0].upper()
    numbered = re.match(r"[sfr]?(\d\d(?:_and_\d\d)*)_(.*)", name)
    if numbered is None:
        return letter, "", name.replace("_", " ")
    scenario = f"{letter}{numbered[1].replace('_and_', f', {letter}')}"
    return letter, scenario, numbered[2].replace("_", " ")


def table(figures: dict[str, dict[str, Any]]) -> str:
    """One line per test; the variants of a test together, with the time of the slowest."""
    rows: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for test, figure in figures.items():
        rows.setdefault(row_of(test), []).append(figure)
    lines = []
    for letter in sorted({row[0] for row in rows}, key=[*LISTS, *map(chr, range(65, 91))].index):
        lines += [f"### {LISTS.get(letter, 'Others')} (list {letter})", ""]
        lines += ["| scenario | what is shown | outcome | seconds | acknowledged rows | lost | twice |"]
        lines += ["|---|---|---|---:|---:|---:|---:|"]
        for (of_list, scenario, sentence), variants in sorted(rows.items()):
            if of_list == letter:
                lines.append(f"| {scenario} | {sentence} | {' | '.join(_cells(variants))} |")
        lines.append("")
    return "\n".join(lines)


def _cells(variants: list[dict[str, Any]]) -> list[str]:
    passed = sum(one["outcome"] == "passed" for one in variants)
    outcomes = {one["outcome"] for one in variants}
    outcome = outcomes.pop() if len(variants) == 1 else f"{passed} of {len(variants)} passed"
    loaded = [one for one in variants if one["under load"]]
    rows = [str(sum(one[name] for one in loaded)) if loaded else "" for name in ("acknowledged", "lost", "duplicated")]
    return [outcome, f"{max(one['seconds'] for one in variants):.0f}", *rows]


def main() -> None:
    """Put the table between its marks."""
    figures = json.loads(FIGURES.read_text())
    passed = sum(one["outcome"] == "passed" for one in figures.values())
    loads = [one for one in figures.values() if one["under load"]]
    counts = {name: sum(one[name] for one in loads) for name in ("acknowledged", "lost", "duplicated")}
    summary = (
        f"{time.strftime('%Y-%m-%d', time.gmtime(FIGURES.stat().st_mtime))}: {passed} of {len(figures)} tests passed, "
        f"{len(loads)} of them under load with {counts['acknowledged']} acknowledged rows: {counts['lost']} lost, "
        f"{counts['duplicated']} there twice."
    )
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{summary}\n\n{table(figures)}{END}{after}")
    print(summary)


if __name__ == "__main__":
    main()

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long setup.yml takes: from bare hosts against the same work by hand, again on a fleet that is right already, and
how that grows with the fleet. The figures for docs/benchmarks.md, section "Setting up"."""

from __future__ import annotations

import argparse
import difflib
import os
import shutil
import statistics
import tempfile
from pathlib import Path

from setup_fleet import BenchmarkFleet, Cost, Hosts, Run

SMALL, LARGE = 3, 12
FIGURES = {"seconds": "seconds", "CPU seconds of all hosts": "hosts_cpu", "CPU seconds of the controller": "cpu"}


def main() -> None:
    """Run the parts that were asked for and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind; medians are printed (default: 3)")
    parser.add_argument("--part", choices=["bare", "second"], help="only this part (default: both)")
    parser.add_argument("--keep", action="store_true", help="keep the hosts of the set `bench` afterwards")
    arguments = parser.parse_args()
    hosts = Hosts("bench")
    directory = Path(tempfile.mkdtemp(prefix="dbops-bench-setup-"))
    fleet = BenchmarkFleet(hosts, directory)
    try:
        if arguments.part != "second":
            bare_hosts(hosts, fleet, arguments.rounds)
        if arguments.part != "bare":
            second_runs(hosts, fleet, arguments.rounds)
    finally:
        if not arguments.keep:
            hosts.tool("down")
            shutil.rmtree(directory)


def bare_hosts(hosts: Hosts, fleet: BenchmarkFleet, rounds: int) -> None:
    """Three bare hosts to a serving cluster: by hand and by setup.yml in turn, each on fresh disks."""
    by_hand: list[Cost] = []
    by_playbook: list[Cost] = []
    for number in range(rounds):
        hosts.reset(*fleet.names(SMALL), bare=True)
        by_hand.append(fleet.set_up_by_hand(SMALL))
        wanted = fleet.fingerprint(SMALL)
        hosts.reset(*fleet.names(SMALL), bare=True)
        fleet.forget_secrets()
        by_playbook.append(fleet.run_setup(SMALL).cost)
        say(f"round {number + 1}: by hand {by_hand[-1]}, setup.yml {by_playbook[-1]}")
        refuse_difference(wanted, fleet.fingerprint(SMALL))
    print(f"\n| {SMALL} bare hosts, {rounds} rounds in turn: medians | by hand | setup.yml | ratio (each round) |")
    print("|---|---|---|---|")
    for title, figure in FIGURES.items():
        hand = [getattr(cost, figure) for cost in by_hand]
        playbook = [getattr(cost, figure) for cost in by_playbook]
        ratios = [one / other for one, other in zip(playbook, hand, strict=True)]
        print(
            f"| {title} | {statistics.median(hand):.1f} | {statistics.median(playbook):.1f} "
            f"| {statistics.median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)}) |"
        )


def second_runs(hosts: Hosts, fleet: BenchmarkFleet, rounds: int) -> None:
    """Runs on a fleet that is right already: of three hosts, then of the same three and nine more replicas."""
    hosts.reset(*fleet.names(LARGE))
    fleet.forget_secrets()
    first: dict[int, Run] = {}
    runs: dict[int, list[Run]] = {}
    for size in (SMALL, LARGE):
        first[size] = fleet.run_setup(size)
        say(f"{size} hosts: first run {first[size].cost}")
        runs[size] = []
        for _ in range(rounds):
            runs[size].append(fleet.run_setup(size))
            say(f"{size} hosts: second run {runs[size][-1].cost}")
            if any(runs[size][-1].changed.values()):
                raise SystemExit(f"A second run on {size} hosts changed something: {runs[size][-1].changed}")
    print(f"\n| second run, {rounds} each: medians | {SMALL} hosts | {LARGE} hosts | ratio |")
    print("|---|---|---|---|")
    for title, figure in FIGURES.items():
        small, large = (statistics.median(getattr(run.cost, figure) for run in runs[size]) for size in (SMALL, LARGE))
        print(f"| {title} | {small:.1f} | {large:.1f} | {large / small:.2f} |")
    print()
    print("| per host | task results | of these skipped | modules run |\n|---|---|---|---|")
    for size in (SMALL, LARGE):
        for title, run in ((f"first run to {size} hosts", first[size]), (f"second run on {size} hosts", runs[size][0])):
            for host, part in (("pg1", "primary, pooler"), ("pg2", "replica, pooler"), ("pg12", "replica")):
                if host in run.tasks:
                    print(f"| {title}: {part} | {run.tasks[host]} | {run.skipped[host]} | {run.modules[host]} |")


def refuse_difference(by_hand: dict[str, list[str]], by_playbook: dict[str, list[str]]) -> None:
    """The comparison is fair only when both ways leave the same on every host."""
    for host, wanted in by_hand.items():
        lines = difflib.unified_diff(wanted, by_playbook[host], "by hand", "setup.yml", n=0, lineterm="")
        difference = "\n".join(lines)
        if difference:
            raise SystemExit(f"{host}: the two ways did not do the same:\n{difference}")


def say(line: str) -> None:
    """Progress, with the machine's load, for a run that takes minutes."""
    print(f"{line} (load {os.getloadavg()[0]:.1f})", flush=True)


if __name__ == "__main__":
    main()

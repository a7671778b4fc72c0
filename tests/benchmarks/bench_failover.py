# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Power cuts of a synchronous cluster's primary under load: how long until a commit is acknowledged again, rows lost.

    bench_failover.py [--repetitions 5]

Three database hosts with `ANY 1`, one pooler, 16 clients that write through it. Every repetition cuts the power of
whoever is the primary, a little later in the second than the one before, runs failover.yml at once with the power
commands of the test hosts as the confirming fence, compares what clients were told with the rows, boots the old primary
and runs rejoin.yml. Prints a section for docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import conftest  # noqa: F401  (makes ansible_collections.dbops.fleet this checkout)

from ansible_collections.dbops.fleet.tests.faults.on_hosts import (
    HostCluster,
    Hosts,
    PowerCut,
    cut_power_under_load,
)


def one(fleet: HostCluster, number: int) -> tuple[PowerCut, float, float]:
    """One repetition, with the machine's load average at its start and the seconds of the rejoin."""
    busy = os.getloadavg()[0]
    cut = cut_power_under_load(fleet, after_seconds=1.0 + number % 10 / 10)
    if not cut.play.ok:
        raise SystemExit(f"failover.yml failed: {cut.play.text}")
    fleet.hosts.power_on(cut.old)
    rejoin = fleet.play("rejoin")
    if not rejoin.ok:
        raise SystemExit(f"rejoin.yml failed: {rejoin.text}")
    return cut, busy, rejoin.seconds


def section(cuts: list[tuple[PowerCut, float, float]]) -> str:
    """What goes into docs/benchmarks.md."""
    first = [cut.seconds for cut, _, _ in cuts]
    lines = [
        "## Failover after a power cut",
        "",
        f"`tests/benchmarks/bench_failover.py --repetitions {len(cuts)}`:",
        "three database hosts, `ANY 1`, one pooler, 16 clients.",
        "Seconds from the start of failover.yml. Load is the machine's load average when a repetition began, on "
        f"{os.cpu_count()} cores.",
        "",
        "| cut | first acknowledged commit | whole playbook | longest wait of a client "
        "| acknowledged rows | lost | twice | rejoin.yml | load |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for number, (cut, busy, rejoin) in enumerate(cuts, 1):
        lines.append(
            f"| {number} | {cut.seconds:.1f} | {cut.play.seconds:.1f} | {cut.outage:.1f} | {cut.load.acknowledged} "
            f"| {cut.load.lost} | {cut.load.duplicated} | {rejoin:.1f} | {busy:.1f} |"
        )
    lost = sum(cut.load.lost for cut, _, _ in cuts)
    lines += [
        "",
        f"First acknowledged commit: median {statistics.median(first):.1f} s, maximum {max(first):.1f} s. "
        f"Acknowledged rows lost: {lost}.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    wanted = parser.parse_args()
    hosts = Hosts(os.environ.get("FLEET_HOSTS_SET") or "failover")
    with tempfile.TemporaryDirectory() as directory:
        fleet = HostCluster(hosts, Path(directory), synchronous=True)
        cuts: list[tuple[PowerCut, float, float]] = []
        try:
            with redirect_stdout(sys.stderr):
                fleet.set_up()
                for number in range(wanted.repetitions):
                    cuts.append(one(fleet, number))
        finally:
            if cuts:
                print(section(cuts))
            hosts.tool("down")


if __name__ == "__main__":
    main()

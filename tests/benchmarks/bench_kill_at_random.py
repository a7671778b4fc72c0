# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A synchronous cluster's primary killed at random moments under load, each time failed over: is any acknowledged row
lost or there twice?

    bench_kill_at_random.py [--repetitions 50] [--seed N]

Three PostgreSQL servers of this machine's version on loopback with `ANY 1`, 16 clients. Every repetition makes the
cluster anew, kills all processes of the primary (SIGKILL) at a random moment, and lets the planner and the worker of
failover.yml do the rest. Power cuts of whole hosts with the playbook itself: bench_failover.py.
Prints a table for docs/benchmarks.md, section "Killed at random".
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import conftest  # noqa: F401  (makes ansible_collections.dbops.fleet this checkout)

from ansible_collections.dbops.fleet.tests.faults.load import Load, LoadReport
from ansible_collections.dbops.fleet.tests.faults.loopback import OFF, LoopbackCluster
from ansible_collections.dbops.fleet.tests.integration.servers import Servers, wait_until

CLIENTS = 16


def kill_once(directory: Path, after_seconds: float) -> tuple[LoadReport, float]:
    """One cluster, one kill; what the clients saw against the rows, and the seconds of the failover."""
    with Servers() as servers:
        cluster = LoopbackCluster(servers, directory, synchronous_standby_names="ANY 1 (n1, n2, n3)")
        Load.make_table(cluster.n1.conninfo())
        with Load([cluster.n1.conninfo()], clients=CLIENTS) as load:
            wait_until(lambda: cluster.n1.value("SELECT count(*) > 100 FROM load"), "the clients to write")
            # The moment is what is random here; nothing is waited for.
            threading.Event().wait(after_seconds)
            cluster.n1.kill()
            cluster.cut.add("n1")
            end = cluster.fail_over(OFF)
        if end["state"] != "ok":
            raise SystemExit(f"The failover did not end with ok: {end}")
        new = cluster.servers[end["record"]["candidate"]]
        if cluster.primaries() != [new.name]:
            raise SystemExit(f"Primaries: {cluster.primaries()}")
        return load.report(new.conninfo()), end["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    wanted = parser.parse_args()
    print(f"seed {wanted.seed}", flush=True)
    moments = random.Random(wanted.seed)
    done: list[tuple[LoadReport, float]] = []
    for number in range(1, wanted.repetitions + 1):
        with tempfile.TemporaryDirectory() as directory:
            done.append(kill_once(Path(directory), moments.uniform(0.0, 2.0)))
        report, seconds = done[-1]
        print(
            f"{number}: acknowledged {report.acknowledged}, lost {report.lost}, twice {report.duplicated}, "
            f"failover {seconds:.1f} s",
            flush=True,
        )
    seconds_each = [seconds for _, seconds in done]
    print(f"\n| kills | {len(done)} (seed {wanted.seed}) |\n|---|---|")
    print(f"| acknowledged rows | {sum(report.acknowledged for report, _ in done)} |")
    print(f"| of these lost | {sum(report.lost for report, _ in done)} |")
    print(f"| rows there twice | {sum(report.duplicated for report, _ in done)} |")
    print(f"| worker, median (maximum) | {statistics.median(seconds_each):.1f} ({max(seconds_each):.1f}) s |")
    print(f"| load average at the end, {os.cpu_count()} processors | {os.getloadavg()[0]:.1f} |")


if __name__ == "__main__":
    main()

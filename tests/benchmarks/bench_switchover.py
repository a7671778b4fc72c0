# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What clients notice of switchover.yml, back and forth between two hosts under load through two poolers, how long the
playbook takes, and what it leaves behind. The figures for docs/benchmarks.md, section "Switchover"."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import conftest  # noqa: F401  (makes ansible_collections.dbops.fleet this checkout)

from ansible_collections.dbops.fleet.tests.faults.load import LoadReport
from ansible_collections.dbops.fleet.tests.faults.on_hosts import HostCluster, Hosts


@dataclass(frozen=True)
class One:
    """One switchover.

    Attributes:
        playbook: seconds of ansible-playbook from start to end.
        pause: milliseconds that the poolers were paused.
        began, ended: of the worker, in seconds since the epoch.
        steps: milliseconds by step.
        load: the machine's load average of a minute.
    """

    playbook: float
    pause: float
    began: float
    ended: float
    steps: dict[str, float]
    load: float


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--switchovers", type=int, default=50, help="how many in a row (default: 50)")
    parser.add_argument("--replicas", type=int, default=2, help="2 to 11; the pause must not depend on it (default: 2)")
    parser.add_argument("--clients", type=int, default=16, help="that write through both poolers (default: 16)")
    parser.add_argument("--think-ms", type=int, default=20, help="of a client between two rows (default: 20)")
    parser.add_argument("--set", default=os.environ.get("FLEET_HOSTS_SET") or "bench", help="of hosts (default: bench)")
    parser.add_argument("--directory", type=Path, help="keep inventory and passwords there, and the hosts; set up once")
    arguments = parser.parse_args()
    directory = arguments.directory or Path(tempfile.mkdtemp(prefix="dbops-bench-switchover-"))
    members = tuple(f"pg{number}" for number in range(1, arguments.replicas + 2))
    hosts = Hosts(arguments.set)
    cluster = HostCluster(hosts, directory, fencing=False, members=members, poolers=("pool1", "pool2"))
    try:
        cluster.set_up(fresh=not arguments.directory)
        measure(cluster, arguments.switchovers, arguments.clients, arguments.think_ms)
    finally:
        if not arguments.directory:
            cluster.hosts.tool("down")


def measure(cluster: HostCluster, count: int, clients: int, think_ms: int) -> None:
    """Switch over `count` times under one load, then look at what is left."""
    before = left_over(cluster)
    done: list[One] = []
    load = cluster.load(clients, think_seconds=think_ms / 1000)
    with load:
        for number in range(1, count + 1):
            done.append(switch(cluster))
            one = done[-1]
            say(f"{number}: playbook {one.playbook:.1f} s, pause {one.pause:.0f} ms (load {one.load:.1f})")
    after = left_over(cluster)
    print_waits(done, cluster.report(load), clients)
    print_steps(done)
    print_left_over(before, after)


def switch(cluster: HostCluster) -> One:
    """One switchover, which has to end with "ok"."""
    played = cluster.switch(cluster.next_candidate())
    if played.state != "ok":
        raise SystemExit(f"It did not end with ok:\n{played.text[-5000:]}")
    record = played.record
    steps = {step["name"]: step["ms"] for step in record["timings"]}
    began, ended = (_epoch(record[key]) for key in ("started", "ended"))
    return One(played.seconds, record["pause_ms"], began, ended, steps, os.getloadavg()[0])


def left_over(cluster: HostCluster) -> dict[str, Any]:
    """What could pile up on a member: slots, write-ahead log; and when pg_rewind last worked on it."""
    data, primary = "/var/lib/postgresql/*/main", cluster.primary()
    found = {}
    for name in cluster.members:
        words = cluster.hosts.ssh(name, f"du -sm {data}/pg_wal | cut -f1; stat -c %Y {data}/backup_label.old || echo 0")
        wal, rewound = words.split()[:2]
        slots = cluster.sql(name, "SELECT slot_name FROM pg_replication_slots ORDER BY 1").split()
        found[name] = {"slots": slots, "wal_mb": int(wal), "rewound": rewound, "primary": name == primary}
    return found


def print_waits(done: Sequence[One], report: LoadReport, clients: int) -> None:
    """The table of the goals."""
    waits = [report.longest_between(one.began, one.ended) for one in done]
    print(f"\n| {len(done)} switchovers, {clients} clients | |\n|---|---|")
    print(f"| rows acknowledged | {report.acknowledged} |")
    print(f"| errors, lost rows, duplicated rows | {len(report.errors)}, {report.lost}, {report.duplicated} |")
    print(f"| longest wait of any client, per switchover | {spread(waits, 1000)} ms |")
    print(f"| poolers paused | {spread([one.pause for one in done])} ms |")
    print(f"| playbook, start to end | {spread([one.playbook for one in done], 1, 1)} s |")
    print(f"| load average of the machine (2 processors) | {spread([one.load for one in done], 1, 1)} |")
    for error in report.errors[:5]:
        print(error)


def print_steps(done: Sequence[One]) -> None:
    """Where the time goes."""
    print("\n| step | milliseconds |\n|---|---|")
    for name in done[-1].steps:
        print(f"| {name} | {spread([one.steps[name] for one in done if name in one.steps])} |")


def print_left_over(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Slots and write-ahead log on each member."""
    print("\n| member | slots | pg_wal before | after | rewound |\n|---|---|---|---|---|")
    for name, now in after.items():
        role = f"{name} (primary)" if now["primary"] else name
        rewound = "no" if now["rewound"] == before[name]["rewound"] else "yes"
        slots = ", ".join(now["slots"]) or "none"
        print(f"| {role} | {slots} | {before[name]['wal_mb']} MB | {now['wal_mb']} MB | {rewound} |")


def spread(values: Sequence[float], factor: float = 1, digits: int = 0) -> str:
    """Median and maximum."""
    scaled = [value * factor for value in values]
    return f"median {statistics.median(scaled):.{digits}f}, maximum {max(scaled):.{digits}f}"


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def say(line: str) -> None:
    """Progress."""
    print(line, flush=True)


if __name__ == "__main__":
    main()

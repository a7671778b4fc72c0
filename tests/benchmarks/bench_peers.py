# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""dbops.fleet, Patroni and repmgr side by side: what 16 writing clients notice of switchovers and of power cuts.

    bench_peers.py [--repetitions 5] [--cuts 2] [--contender patroni] [--json FILE]

Each contender in turn is set up on fresh hosts (setup.yml, peers_patroni.sh, peers_repmgr.sh). Every repetition is
under a load of its own, which ends when every client can write again; then what clients were told is compared with the
rows. Prints a table for docs/benchmarks.md, section "Against Patroni and repmgr", and JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import conftest  # noqa: F401  (makes ansible_collections.dbops.fleet this checkout)

from ansible_collections.dbops.fleet.tests.benchmarks.peers_contenders import CONTENDERS, Contender
from ansible_collections.dbops.fleet.tests.faults.load import Load, LoadReport
from ansible_collections.dbops.fleet.tests.faults.on_hosts import Hosts

CLIENTS = 16
THINK_SECONDS = 0.02
# A new client can write before those that a proxy still leads to the old primary.
FINISH_SECONDS = 60.0


@dataclass(frozen=True)
class One:
    """One switchover or power cut.

    Attributes:
        contender, event, route, replication: what was measured; replication is asynchronous or synchronous.
        gap: seconds without an acknowledgement to any client, at most.
        wait: seconds that a client waited, at most.
        command: seconds of the operator's command; 0 where there is none.
        acknowledged, lost, duplicated: rows.
        failed_statements: of all clients; failed_logins: attempts, which clients repeat after 20 ms.
        clients_with_errors: of CLIENTS.
        load: the machine's load average at the start.
    """

    contender: str
    event: str
    route: str
    replication: str
    gap: float
    wait: float
    command: float
    acknowledged: int
    lost: int
    duplicated: int
    failed_statements: int
    failed_logins: int
    clients_with_errors: int
    load: float


def measure(
    contender: Contender, event: str, route: str, replication: str, act: Callable[[], None], settle: Callable[[], str]
) -> One:
    """Do it under load, and compare what clients were told with what the primary has afterwards.

    Args:
        act: the operator's command.
        settle: waits until the clients can write; returns the primary.
    """
    busy = os.getloadavg()[0]
    routes = contender.routes[route]
    with Load(routes, clients=CLIENTS, think_seconds=THINK_SECONDS, finish_seconds=FINISH_SECONDS) as load:
        time.sleep(2)  # of undisturbed load, as a measure of its own
        began = time.monotonic()
        act()
        command = time.monotonic() - began
        settle()
        time.sleep(1)  # so that every client has had its turn
    return one(
        load.report(rows_of=contender.routes[route][0]), contender.name, event, route, replication, command, busy
    )


def one(
    report: LoadReport, contender: str, event: str, route: str, replication: str, command: float, busy: float
) -> One:
    """The figures of a repetition."""
    logins = [error for error in report.errors if " connecting: " in error]
    return One(
        contender,
        event,
        route,
        replication,
        gap=max((length for _, length in report.gaps), default=0.0),
        wait=report.longest_wait,
        command=command,
        acknowledged=report.acknowledged,
        lost=report.lost,
        duplicated=report.duplicated,
        failed_statements=len(report.errors) - len(logins),
        failed_logins=len(logins),
        # "SECONDS client NUMBER: ..." or "SECONDS client NUMBER connecting: ..."
        clients_with_errors=len({error.split()[2].rstrip(":") for error in report.errors}),
        load=busy,
    )


def switch(contender: Contender, route: str) -> One:
    """A switchover between pg1 and pg2."""
    candidate = "pg2" if contender.settle() == "pg1" else "pg1"
    return measure(
        contender, "switchover", route, "asynchronous", lambda: contender.switch_over(candidate), contender.settle
    )


def cut(contender: Contender, replication: str) -> One:
    """The primary loses its power; afterwards it comes back as a replica."""
    old, route = contender.settle(), next(iter(contender.routes))

    def act() -> None:
        contender.hosts.power_off(old)
        contender.fail_over()

    def settle() -> str:
        contender.wait_until_writable(route)
        return ""

    done = measure(contender, "power cut", route, replication, act, settle)
    contender.hosts.power_on(old)
    contender.take_back(old)
    contender.settle()
    return done


def compete(contender: Contender, repetitions: int, cuts: int, done: list[One]) -> None:
    """All of one contender; what has been measured is in `done`, also when it fails on the way."""

    def note(result: One) -> None:
        done.append(result)
        print(
            f"{result.contender}: {result.event} ({result.route}, {result.replication}): gap {result.gap:.2f} s, "
            f"wait {result.wait:.2f} s, {result.failed_statements}+{result.failed_logins} errors, {result.lost} lost "
            f"(load {result.load:.1f})",
            flush=True,
        )

    began = time.monotonic()
    contender.set_up()
    print(f"{contender.name}: set up in {time.monotonic() - began:.0f} s", flush=True)
    for route in contender.routes:
        for _ in range(repetitions):
            note(switch(contender, route))
    if contender.fails_over and cuts:
        for _ in range(cuts):
            note(cut(contender, "asynchronous"))
        contender.make_synchronous()
        for _ in range(cuts):
            note(cut(contender, "synchronous"))


def table(done: Sequence[One]) -> str:
    """One line per contender, event, way of the clients and kind of replication."""
    lines = [
        "| | clients by | replication | n | write gap, s | longest wait, s | failed statements | failed logins "
        "| clients with errors | acknowledged rows | lost | twice | command, s | load |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups = dict.fromkeys((each.event, each.contender, each.route, each.replication) for each in done)
    for group in sorted(groups, key=lambda key: (key[0] != "switchover", key[3])):
        ones = [each for each in done if (each.event, each.contender, each.route, each.replication) == group]
        event, name, route, replication = group
        figures = [
            f"{name}: {event}",
            route,
            replication,
            str(len(ones)),
            spread([each.gap for each in ones], 2),
            spread([each.wait for each in ones], 2),
            spread([each.failed_statements for each in ones], 0),
            spread([each.failed_logins for each in ones], 0),
            spread([each.clients_with_errors for each in ones], 0),
            str(sum(each.acknowledged for each in ones)),
            str(sum(each.lost for each in ones)),
            str(sum(each.duplicated for each in ones)),
            spread([each.command for each in ones], 1),
            spread([each.load for each in ones], 1),
        ]
        lines.append(f"| {' | '.join(figures)} |")
    return "\n".join(lines)


def spread(values: Sequence[float], digits: int) -> str:
    """Median and maximum, of one repetition: median (maximum)."""
    return f"{statistics.median(values):.{digits}f} ({max(values):.{digits}f})"


def main() -> None:
    """Measure, print, and leave no hosts behind."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5, help="switchovers of each (default: 5)")
    parser.add_argument("--cuts", type=int, default=2, help="power cuts of each (default: 2)")
    parser.add_argument("--contender", choices=CONTENDERS, action="append", help="only this one; may be repeated")
    parser.add_argument("--json", type=Path, help="write all repetitions there (default: only the table is printed)")
    parser.add_argument("--keep", action="store_true", help="keep the hosts afterwards")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the hosts go then, too
    hosts = Hosts(os.environ.get("FLEET_HOSTS_SET") or "peers")
    done: list[One] = []
    try:
        for name in arguments.contender or CONTENDERS:
            with tempfile.TemporaryDirectory(prefix="dbops-bench-peers-") as directory, redirect_stdout(sys.stderr):
                compete(CONTENDERS[name](hosts, Path(directory)), arguments.repetitions, arguments.cuts, done)
    finally:
        if done:
            print(table(done))
            print(f"\nMedian (maximum); {CLIENTS} clients; load: of the machine, with {os.cpu_count()} processors.")
        if arguments.json:
            arguments.json.write_text(json.dumps([asdict(each) for each in done], indent=2) + "\n")
        if not arguments.keep:
            hosts.tool("down")


if __name__ == "__main__":
    main()

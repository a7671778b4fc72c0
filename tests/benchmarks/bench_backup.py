# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backup, restore and WAL archiving beside Debian's pgBackRest, barman-cloud and pg_basebackup: the same data, the same
kind of repository, interleaved rounds, medians.

    bench_backup.py [--repository s3] [--gigabytes 5] [--rounds 1] [--part archive] [--json FILE]

It runs itself on the test host pg1 (Debian 13, PostgreSQL 17), where it also makes the S3 server (radosgw); with --here
on this machine instead, which must have the packages. Prints tables for docs/benchmarks.md, section "Backups".
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import conftest  # noqa: F401  (makes ansible_collections.dbops.fleet this checkout)

from ansible_collections.dbops.fleet.tests.benchmarks import backup_data
from ansible_collections.dbops.fleet.tests.benchmarks.backup_contenders import (
    CONTENDERS,
    Contender,
    DbopsFleet,
    versions,
)
from ansible_collections.dbops.fleet.tests.benchmarks.backup_parts import (
    Figures,
    Replay,
    archive,
    marked,
    taking_part,
    turn,
)
from ansible_collections.dbops.fleet.tests.benchmarks.backup_places import BUCKET, KEY, PLACES, SECRET
from ansible_collections.dbops.fleet.tests.integration.servers import Servers

CHECKOUT = Path(__file__).resolve().parents[2]
PARTS = ("backup", "restore", "second", "archive", "replay")
HOST = "pg1"
ON_HOST = "/var/tmp/dbops-bench"
PACKAGES = "barman-cli-cloud pgbackrest python3-boto3 python3-psycopg python3-zstandard"

# Figures of each contender, and how they are called. `~` asks for how many times better the first contender is.
ROWS = {
    "backup_s": "full backup, s",
    "backup_mb_s": "full backup, MB/s",
    "~backup_s": "time of the full backup, dbops.fleet = 1",
    "backup_sent_mb": "full backup, MB sent",
    "backup_rss_mb": "full backup, largest process, MB",
    "restore_s": "restore, s",
    "restore_mb_s": "restore, MB/s",
    "~restore_s": "time of the restore, dbops.fleet = 1",
    "restore_rss_mb": "restore, largest process, MB",
    "second_s": "second backup, 1 % of rows changed, s",
    "second_sent_mb": "second backup, MB sent",
    "second_share_percent": "second backup, % of what the first one sent",
    "delta_s": "delta restore, 1 % of rows changed, s",
    "segments_s": "WAL backlog, segments/s",
    "~segments_s": "segments/s, dbops.fleet = 1",
    "archiver_rss_mb": "archiver, MB",
    "archive_command_ms": "archive_command behind look-ahead, median ms",
    "archive_command_max_ms": "archive_command behind look-ahead, maximum ms",
    "replay_s": "replay, `dbops restore`, s",
    "local_replay_s": "replay, WAL in a local directory, s",
    "replay_speed": "replay, speed where a local directory is 1",
}

Rounds = dict[str, list[Figures]]


def measure(wanted: argparse.Namespace) -> dict[str, Any]:
    """Everything that is asked for, on this machine."""
    parts = set(wanted.part or PARTS)
    found: Rounds = {}
    with Servers() as servers:
        place = PLACES[wanted.repository](servers.root)
        begun = time.monotonic()
        server = backup_data.filled(servers, wanted.gigabytes)
        say(f"{backup_data.size(server) / 1e9:.2f} GB in {time.monotonic() - begun:.0f} s")
        contenders = [one(servers, server, place) for one in taking(wanted.contender, place.kind)]
        about = {"gigabytes": backup_data.size(server) / 1e9, "repository": place.kind, "processors": os.cpu_count()}
        about |= versions(server) | {"load_before": os.getloadavg()[0]}
        for number in range(wanted.rounds):
            for contender in contenders:
                if parts & {"backup", "restore", "second"}:
                    note(found, contender.name, turn(servers, contender, number, parts))
        for _ in range(wanted.rounds):
            for contender in contenders:
                if "archive" in parts and contender.name in ("dbops.fleet", "pgBackRest"):
                    note(found, contender.name, archive(contender, wanted.segments))
        for contender in contenders:
            if isinstance(contender, DbopsFleet):
                more(found, servers, contender, parts, wanted)
        about |= {"load_after": os.getloadavg()[0], "seconds": time.monotonic() - begun}
    return {"about": about, "rounds": found}


def more(found: Rounds, servers: Servers, contender: DbopsFleet, parts: set[str], wanted: argparse.Namespace) -> None:
    """What is measured of our own engine alone."""
    if "archive" in parts:
        note(found, contender.name, marked(contender))
    if "replay" in parts:
        with taking_part(contender):
            # Twice as many: what starting and promoting take is part of both.
            replay = Replay(servers, contender, 2 * wanted.segments)
            for _ in range(wanted.rounds):
                note(found, contender.name, replay.measure())


def note(found: Rounds, name: str, figures: Figures) -> None:
    """Keep the figures of a round, and show them at once."""
    found.setdefault(name, []).append(figures)
    say(f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in figures.items()))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def taking(wanted: list[str] | None, kind: str) -> list[type[Contender]]:
    """Who takes part; of the others it is said why not."""
    chosen = []
    for contender in CONTENDERS:
        if wanted and contender.name not in wanted:
            continue
        absent = contender.missing(kind)
        if absent is None:
            chosen.append(contender)
        else:
            say(f"{contender.name} is left out: it {absent}")
    return chosen


def values(rounds: list[Figures], key: str) -> list[float]:
    return [figures[key] for figures in rounds if key in figures]


def ratio(found: Rounds, name: str, key: str) -> list[float]:
    """Round by round, this contender's figure by ours."""
    ours = values(found.get(DbopsFleet.name, []), key)
    return [theirs / own for theirs, own in zip(values(found[name], key), ours, strict=False)]


def table(result: dict[str, Any]) -> str:
    """Medians, in Markdown."""
    about, found = result["about"], result["rounds"]
    head = f"{about['repository']}, {about['gigabytes']:.1f} GB, PostgreSQL {about['postgresql'].split()[0]}"
    head += f", load {about['load_before']:.1f} to {about['load_after']:.1f}"
    lines = [f"| {head} | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    for key, text in ROWS.items():
        cells = []
        for name in found:
            every = ratio(found, name, key[1:]) if key.startswith("~") else values(found[name], key)
            cells.append(figure(statistics.median(every)) if every else "")
        if any(cells):
            lines.append(f"| {text} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def on_test_host(arguments: list[str], repository: str) -> dict[str, Any]:
    """Run this very file there, on a fresh copy of the checkout."""
    from hosts.fixtures import Hosts

    from ansible_collections.dbops.fleet.tests.support import on_host

    hosts = Hosts()
    hosts.up(HOST)
    install = "apt-get --quiet=2 update && apt-get --quiet=2 --no-install-recommends install"
    hosts.ssh(HOST, f"dpkg --status {PACKAGES} >/dev/null 2>&1 || {{ {install} {PACKAGES}; }}", timeout=600)
    if repository == "s3":
        script = (CHECKOUT / "tests/support/radosgw.sh").read_text()
        words = f"bash -s -- {KEY} {SECRET} {BUCKET}"
        hosts.ssh(HOST, f"{words} <<'END_OF_SCRIPT'\n{script}\nEND_OF_SCRIPT\n", timeout=600)
    on_host.send(hosts, HOST, ON_HOST, "ansible.cfg", "plugins", "tests")
    # /tmp is in memory there.
    run = f"cd {ON_HOST} && TMPDIR=/var/tmp python3 tests/benchmarks/{Path(__file__).name}"
    run += f" {shlex.join(arguments)} --here --json - "
    try:
        done = subprocess.run(hosts.ssh_command(HOST, run), check=True, stdout=subprocess.PIPE, text=True)
    finally:
        hosts.ssh(HOST, f"rm -rf {ON_HOST}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--gigabytes", type=float, default=5, help="of data (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--segments", type=int, default=128, help="of WAL, to archive and to replay")
    parser.add_argument("--repository", choices=PLACES, default="directory", help="default: %(default)s")
    parser.add_argument("--part", choices=PARTS, action="append", help="more than once for several (default: all)")
    names = [one.name for one in CONTENDERS]
    parser.add_argument("--contender", choices=names, action="append", help="likewise")
    parser.add_argument("--here", action="store_true", help="on this machine, not on the test host")
    parser.add_argument("--json", metavar="FILE", help="all figures of all rounds; `-` for stdout, without the tables")
    wanted = parser.parse_args()
    result = measure(wanted) if wanted.here else on_test_host(sys.argv[1:], wanted.repository)
    if wanted.json == "-":
        print(json.dumps(result))
        return
    if wanted.json:
        Path(wanted.json).write_text(json.dumps(result, indent=1))
    about = result["about"]
    print(f"{about['seconds']:.0f} s in all; {', '.join(f'{key} {value}' for key, value in about.items())}\n")
    print(table(result))


if __name__ == "__main__":
    main()

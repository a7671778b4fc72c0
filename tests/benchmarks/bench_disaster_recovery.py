# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All database hosts of a cluster and their disks are lost: how long until disaster_recovery.yml has it back, phase by
phase, and how does that grow with the data?

    bench_disaster_recovery.py [--gigabytes 5 --gigabytes 20] [--json FILE]

Three database hosts and a pooler (Debian 13), and an S3 server on a host of its own that outlives them. Each size is a
cluster made anew, filled, backed up and lost; hosts with nothing but Debian take its place. Prints a table for
docs/benchmarks.md, section "Everything lost".
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import conftest  # noqa: F401  (makes ansible_collections.dbops.fleet this checkout)

from ansible_collections.dbops.fleet.tests.faults.on_hosts import HostCluster, Hosts, Play

CHECKOUT = Path(__file__).resolve().parents[2]
MEMBERS, POOLER, STORE = ("pg1", "pg2", "pg3"), "pool1", "store1"
PHASES = ("install", "restore and replay", "start and prove", "replicas and poolers", "first backup")
KEY, SECRET, BUCKET = "bench", "of-test-hosts-alone", "orders"
# The S3 server has its disk in memory, so most of the data compress well: nine tenths pgbench, a tenth noise.
ACCOUNTS_BYTES, NOISE_BYTES = 15_000_000, 1_050
FILL = """
cd / && runuser -u postgres -- /usr/lib/postgresql/17/bin/pgbench --quiet --initialize --scale={scale} orders 2>&1
"""
NOISE = """
CREATE EXTENSION IF NOT EXISTS pgcrypto;
CREATE TABLE noise AS SELECT i AS id, gen_random_bytes(1000) AS body FROM generate_series(1, {rows}) i;
CHECKPOINT;
"""
# A playbook that takes longer than this hangs.
PLAY_SECONDS = 3600
# What must come back the same.
CONTENT = """
SELECT (SELECT count(*) || ' ' || sum(abalance) FROM pgbench_accounts),
       (SELECT count(*) || ' ' || md5(string_agg(md5(body), '' ORDER BY id)) FROM noise WHERE id % 100 = 0)
"""


def measure(hosts: Hosts, gigabytes: float) -> dict[str, Any]:
    """Set up, fill, back up, lose and recover a cluster of this size; sizes and seconds."""
    with tempfile.TemporaryDirectory() as directory:
        fleet = HostCluster(hosts, Path(directory), members=MEMBERS, poolers=(POOLER,), fencing=False)
        fleet.set_up()
        script = (CHECKOUT / "tests/support/radosgw.sh").read_text()
        hosts.up(STORE)
        hosts.ssh(
            STORE, f"bash -s -- {KEY} {SECRET} {BUCKET} <<'END_OF_SCRIPT'\n{script}\nEND_OF_SCRIPT\n", timeout=600
        )
        begun = time.monotonic()
        noise = gigabytes * 1e9 / 10
        hosts.ssh("pg1", FILL.format(scale=round((gigabytes * 1e9 - noise) / ACCOUNTS_BYTES)), timeout=1800)
        hosts.ssh(
            "pg1",
            f"cd / && runuser -u postgres -- psql -Xq -v ON_ERROR_STOP=1 -d orders <<'END_OF_SQL'\n"
            f"{NOISE.format(rows=round(noise / NOISE_BYTES))}\nEND_OF_SQL\n",
            timeout=1800,
        )
        size = int(fleet.sql("pg1", "SELECT sum(pg_database_size(oid)) FROM pg_database"))
        say(f"{size / 1e9:.1f} GB in {time.monotonic() - begun:.0f} s")
        # Archiving and the first backup begin here, so that the S3 server need not keep the WAL of filling.
        done(fleet.start("setup", named=False, backup_repositories=repositories(hosts))(PLAY_SECONDS))
        fleet.sql("pg1", "INSERT INTO pgbench_history (aid, mtime) VALUES (1, now())")
        hosts.ssh("pg1", "dbops wal prove", timeout=300)
        content = fleet.sql("pg1", CONTENT)
        say("backed up; now it is lost")
        hosts.reset(*MEMBERS, bare=True)
        names = {"disaster_recovery_cluster": "orders", "disaster_recovery_confirm": "orders"}
        load_before = os.getloadavg()[0]
        play = fleet.start("disaster_recovery", named=False, backup_repositories=repositories(hosts), **names)(
            PLAY_SECONDS
        )
        done(play)
        if fleet.sql("pg1", CONTENT) != content or fleet.written_to() != hosts.address("pg1"):
            raise SystemExit("What came back is not what was lost")
        say(json.dumps(play.record))
        return {"gigabytes": size / 1e9, "seconds": play.seconds, "load_before": load_before, "record": play.record}


def repositories(hosts: Hosts) -> list[dict[str, Any]]:
    place = {"name": "store", "type": "s3", "bucket": BUCKET, "endpoint": f"http://{hosts.address(STORE)}:8080"}
    return [place | {"region": "default", "path_style": True, "access_key": KEY, "secret_key": SECRET}]


def done(play: Play) -> None:
    if not play.ok:
        raise SystemExit(play.text)


def say(text: str) -> None:
    print(f"{text} (load {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True)


def table(found: list[dict[str, Any]]) -> str:
    """In Markdown: seconds per phase, and how many times that of the first size."""
    sizes = [f"{one['gigabytes']:.1f} GB" for one in found]
    lines = [f"| seconds | {' | '.join(sizes)} | ratio |", "|---" * (len(found) + 2) + "|"]
    phases = {name: [one["record"]["phases"][name] for one in found] for name in PHASES}
    for name, seconds in (phases | {"whole playbook": [one["seconds"] for one in found]}).items():
        cells = " | ".join(f"{value:.1f}" for value in seconds)
        lines.append(f"| {name} | {cells} | {seconds[-1] / seconds[0]:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--gigabytes", type=float, action="append", help="more than once for several (default: 5, 20)")
    parser.add_argument("--json", metavar="FILE")
    wanted = parser.parse_args()
    hosts = Hosts("bench")
    found = []
    try:
        with redirect_stdout(sys.stderr):
            for gigabytes in wanted.gigabytes or [5, 20]:
                found.append(measure(hosts, gigabytes))
                if wanted.json:
                    Path(wanted.json).write_text(json.dumps(found, indent=1))
    finally:
        hosts.tool("down")
    print(table(found))


if __name__ == "__main__":
    main()

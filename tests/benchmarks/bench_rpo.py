# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A primary under load loses its host and its disk at a random moment: how much is lost, with archiving alone and with
the receiver?

    bench_rpo.py [--losses 20] [--at-once 4] [--seed N] [--json FILE]

Each loss has a PostgreSQL server of this machine's version on loopback with a directory repository, an archiver and a
receiver (`dbops wal receive`), all with the defaults of the role `backup`. At the moment all of them are killed
(SIGKILL) and the data directory is deleted. It is restored twice: without what the receiver sent, and with it.
Prints a table for docs/benchmarks.md, section "Host and disk lost".
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import conftest  # noqa: F401  (makes ansible_collections.dbops.fleet this checkout)

from ansible_collections.dbops.fleet.tests.faults.load import Load
from ansible_collections.dbops.fleet.tests.integration.repository.engine import Engine, clean, directory
from ansible_collections.dbops.fleet.tests.integration.servers import Servers

# Of roles/backup/defaults.
ARCHIVE_TIMEOUT_SECONDS, RECEIVE_SECONDS = 60, 2.0
# Few enough that archive_timeout ends the segments, not their size: that is where archiving alone loses most.
CLIENTS, THINK_SECONDS = 4, 0.02


@dataclass(frozen=True)
class Loss:
    """What one restore brought back.

    Attributes:
        age: seconds between the newest commit that came back and the moment of the loss.
        lost: acknowledged rows that did not come back.
        acknowledged: rows.
    """

    age: float
    lost: int
    acknowledged: int


def lose(after_seconds: float) -> tuple[Loss, Loss]:
    """One loss, so long after a segment was archived; restored with archiving alone, and with the receiver."""
    with Servers() as servers, Engine.with_primary(servers) as engine:
        server = engine.server
        server.configure(archive_timeout=str(ARCHIVE_TIMEOUT_SECONDS)).reload()
        engine.configure(wal={"receive_seconds": RECEIVE_SECONDS})
        archiver = engine.start_archiver()
        Load.make_table(server.conninfo())
        server.sql("ALTER TABLE load ADD at timestamptz DEFAULT clock_timestamp()")
        engine.dbops("backup")
        with Load([server.conninfo()], clients=CLIENTS, think_seconds=THINK_SECONDS) as load:
            receiver = subprocess.Popen(
                engine.command("wal", "receive"), env=clean(), stderr=subprocess.DEVNULL, start_new_session=True
            )
            try:
                engine.archive()
                # The moment is what is random here; nothing is waited for.
                threading.Event().wait(after_seconds)
            finally:
                for process in (archiver, receiver):
                    os.killpg(process.pid, signal.SIGKILL)
                lost_at = time.time()
                server.kill()
                receiver.wait()
        shutil.rmtree(server.data)
        # Right after a segment was archived the receiver may have sent nothing yet.
        tails = list(Path(engine.settings["repositories"][0]["path"]).glob("*/tail"))
        away = [(tail, tail.rename(servers.root / "tail")) for tail in tails]
        alone = _restored(engine, load, lost_at, "alone")
        for tail, place in away:
            place.rename(tail)
        return alone, _restored(engine, load, lost_at, "received")


def _restored(engine: Engine, load: Load, lost_at: float, name: str) -> Loss:
    path = directory(engine.servers.root / f"to-{name}") / "data"
    engine.dbops("restore", "--to", str(path), "--action", "scratch")
    server = engine.servers.server(name, version=engine.server.version)
    path.rename(server.data)
    own = {"unix_socket_directories": str(server.socket_directory), "port": str(server.port), "archive_mode": "off"}
    server.settings = {**engine.server.settings, **own}
    server.configure().start()
    newest = float(server.value("SELECT extract(epoch FROM max(at)) FROM load") or 0)
    report = load.report(server.conninfo())
    server.stop()
    return Loss(lost_at - newest, report.lost, report.acknowledged)


def _row(text: str, done: list[tuple[Loss, Loss]], figure: Callable[[Loss], float]) -> None:
    cells = []
    for way in range(2):
        values = [figure(pair[way]) for pair in done]
        cells.append(f"{statistics.median(values):.1f} ({max(values):.1f})")
    print(f"| {text} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--losses", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=4, help="clusters that run side by side")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--json", metavar="FILE")
    wanted = parser.parse_args()
    print(f"seed {wanted.seed}", flush=True)
    chance = random.Random(wanted.seed)
    moments = [chance.uniform(0, ARCHIVE_TIMEOUT_SECONDS) for _ in range(wanted.losses)]
    done: list[tuple[Loss, Loss]] = []
    with ThreadPoolExecutor(wanted.at_once) as clusters:
        for number, pair in enumerate(clusters.map(lose, moments), start=1):
            done.append(pair)
            alone, received = pair
            print(
                f"{number}: lost {alone.age:.1f} s, {alone.lost} of {alone.acknowledged} rows; "
                f"with the receiver {received.age:.2f} s, {received.lost} rows",
                flush=True,
            )
    if wanted.json:
        Path(wanted.json).write_text(json.dumps([[asdict(loss) for loss in pair] for pair in done], indent=1))
    print(f"\n| {len(done)} losses (seed {wanted.seed}), load {os.getloadavg()[0]:.1f} | archiving alone | receiver |")
    print("|---|---|---|")
    _row("age of the newest commit that came back, median (maximum), s", done, lambda loss: loss.age)
    _row("acknowledged rows lost, median (maximum)", done, lambda loss: loss.lost)


if __name__ == "__main__":
    main()

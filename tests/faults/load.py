# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients that write numbered rows, and the check that none of the acknowledged ones is lost or there twice.

    with Load(["host=... port=6432 dbname=app user=app"], clients=16) as load:
        ...                             # switch over, kill, partition
    report = load.report(rows_of=server.conninfo())
    assert report.lost == 0 and report.duplicated == 0 and report.errors == []

The clients are threads of a process of their own, so that what the test does does not slow them down. Each one inserts
its next number, waits for the commit, notes it, thinks for a moment, and so on. A row whose commit was not acknowledged
may be there or not; it counts as an error, not as lost.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

# Waits that are shorter are not worth listing.
LONG_WAIT_SECONDS = 0.05
# Every report of this process, for the figures that conftest.py keeps.
REPORTS: list[LoadReport] = []


@dataclass(frozen=True)
class LoadReport:
    """What the clients saw, and what the database has.

    Attributes:
        acknowledged: rows whose commit was acknowledged.
        lost: of these, the ones that are not in the table.
        duplicated: rows that are there more than once.
        errors: messages, each with the time of day; "connecting" where it is the login that failed, not a statement.
        longest_wait: seconds from sending an INSERT to its acknowledgement, or to the next success after errors.
        waits: (when it began in seconds since the epoch, how long) of all waits over LONG_WAIT_SECONDS.
        gaps: the same of the times in which no client at all got an acknowledgement.
    """

    acknowledged: int
    lost: int
    duplicated: int
    errors: list[str]
    longest_wait: float
    waits: list[tuple[float, float]]
    gaps: list[tuple[float, float]]

    def longest_between(self, start: float, end: float) -> float:
        """The longest wait that was going on at any moment between two times (seconds since the epoch)."""
        return max((length for began, length in self.waits if began <= end and began + length >= start), default=0.0)


class Load:
    """Clients at work while the `with` block lasts.

    Args:
        conninfos: of libpq; the clients take them in turn.
        think_seconds: of a client between two rows.
        finish_seconds: at the end, how long clients that meet errors go on until their next acknowledged row.
    """

    def __init__(
        self,
        conninfos: Sequence[str],
        *,
        clients: int = 16,
        think_seconds: float = 0.004,
        finish_seconds: float = 0.0,
    ) -> None:
        self.settings = {
            "conninfos": list(conninfos),
            "clients": clients,
            "think_seconds": think_seconds,
            "finish_seconds": finish_seconds,
        }
        self._process: subprocess.Popen[str] | None = None
        self._result: dict[str, Any] | None = None

    @staticmethod
    def make_table(conninfo: str) -> None:
        """The table that the clients write to; without a key, so that duplicates would be seen."""
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS load (client int, n int)")

    def start(self) -> Self:
        """Begin; returns when every client has written its first row."""
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), json.dumps(self.settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line != "all are writing\n":
            raise RuntimeError(f"the load did not start: {line!r}")
        return self

    def stop(self) -> None:
        """End; every client finishes its statement."""
        if self._process is not None and self._result is None:
            output, _ = self._process.communicate(timeout=120)
            self._result = json.loads(output)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._process is not None:
            self._process.kill()
            self._process.wait()
        else:
            self.stop()

    def report(self, rows_of: str) -> LoadReport:
        """Compare with the table.

        Args:
            rows_of: conninfo of the server that should have the rows.
        """
        assert self._result is not None, "stop the load first"
        with psycopg.connect(rows_of, autocommit=True) as connection:
            rows = connection.execute("SELECT client, n, count(*) FROM load GROUP BY client, n").fetchall()
        there = {(client, n) for client, n, _ in rows}
        acked = {(client, n) for client, numbers in enumerate(self._result["acked"]) for n in numbers}
        report = LoadReport(
            acknowledged=len(acked),
            lost=len(acked - there),
            duplicated=sum(1 for _, _, count in rows if count > 1),
            errors=self._result["errors"],
            longest_wait=max((length for _, length in self._result["waits"]), default=0.0),
            waits=[(began, length) for began, length in self._result["waits"]],
            gaps=[(began, length) for began, length in self._result["gaps"]],
        )
        REPORTS.append(report)
        return report


def _client(number: int, settings: dict[str, Any], stop: threading.Event, ready: threading.Event, out: Any) -> None:
    conninfo = settings["conninfos"][number % len(settings["conninfos"])]
    n = int(time.time() * 1000) % 1_000_000_000
    connection: psycopg.Connection[Any] | None = None
    waiting_since: float | None = None
    while not stop.is_set() or (waiting_since and time.time() < out["stopped"] + settings["finish_seconds"]):
        n += 1
        waiting_since = waiting_since or time.time()
        try:
            if connection is None:
                connection = psycopg.connect(conninfo, autocommit=True, prepare_threshold=None, connect_timeout=30)
            connection.execute("INSERT INTO load VALUES (%s, %s)", (number, n))
        except psycopg.Error as error:
            doing = "" if connection else " connecting"
            out["errors"].append(f"{time.time():.3f} client {number}{doing}: {' '.join(str(error).split())}")
            if connection is not None and connection.closed:
                connection = None
            time.sleep(0.02)
            continue
        now = time.time()
        out["acked"][number].append(n)
        if out["newest"] and now - out["newest"] > LONG_WAIT_SECONDS:
            out["gaps"].append((out["newest"], now - out["newest"]))
        out["newest"] = now
        waited = now - waiting_since
        if waited > LONG_WAIT_SECONDS:
            out["waits"].append((waiting_since, waited))
        waiting_since = None
        ready.set()
        time.sleep(settings["think_seconds"])
    if connection is not None:
        connection.close()


def _main() -> None:
    settings = json.loads(sys.argv[1])
    clients = range(settings["clients"])
    out: dict[str, Any] = {
        "acked": [[] for _ in clients],
        "errors": [],
        "waits": [],
        "gaps": [],
        "newest": None,
        "stopped": 0.0,
    }
    stop = threading.Event()
    ready = [threading.Event() for _ in clients]
    threads = [threading.Thread(target=_client, args=(n, settings, stop, ready[n], out), daemon=True) for n in clients]
    for thread in threads:
        thread.start()
    if all(event.wait(30) for event in ready):
        print("all are writing", flush=True)
    else:
        print(f"some clients cannot write: {out['errors'][-1:]}", flush=True)
    sys.stdin.read()
    out["stopped"] = time.time()
    stop.set()
    for thread in threads:
        thread.join(60 + settings["finish_seconds"])
    print(json.dumps(out))


if __name__ == "__main__":
    _main()

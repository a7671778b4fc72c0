# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A walk through the collection on the test hosts, each step a command that you can type yourself.

What is printed of clients (rows acknowledged, errors, longest wait, rows lost) is counted by real clients of poolers.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT / "tests"))

from faults.load import Load, LoadReport  # noqa: E402

POOLERS = ["10.87.0.31", "10.87.0.32"]
SECRETS = CHECKOUT / ".cache" / "secrets"
LIMIT = "--limit=orders,orders_poolers"


def headline(text: str) -> None:
    """A step's title, set off from what the commands print."""
    print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def run(*command: str) -> float:
    """Show a command, run it, and return its seconds. A failure ends the demo with its exit code."""
    print(f"$ {shlex.join(command)}", flush=True)
    began = time.monotonic()
    done = subprocess.run(command, cwd=CHECKOUT, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return time.monotonic() - began


@contextlib.contextmanager
def passwords() -> Iterator[None]:
    """A password file for the clients: no secret in an argument."""
    with tempfile.NamedTemporaryFile("w", prefix="dbops-demo-") as file:
        for role in ("orders_app", "orders_read"):
            file.write(f"*:*:*:{role}:{(SECRETS / 'passwords' / 'orders' / role).read_text()}\n")
        file.flush()
        os.environ["PGPASSFILE"] = file.name
        yield


def through(pooler: str, database: str = "orders", user: str = "orders_app") -> str:
    """Connection string of a client that checks the pooler's certificate."""
    return f"host={pooler} port=6432 dbname={database} user={user} sslmode=verify-full sslrootcert={SECRETS}/ca/ca.crt"


def say(report: LoadReport) -> None:
    """What the clients saw."""
    print(
        f"   {report.acknowledged} rows acknowledged, {len(report.errors)} errors, {report.lost} lost, "
        f"{report.duplicated} duplicated, longest wait of a client {report.longest_wait:.2f} s"
    )


def under_load(work: Callable[[], object]) -> None:
    """Do it while sixteen clients write through both poolers, and say what they saw."""
    with Load([through(pooler) for pooler in POOLERS]) as load:
        work()
        time.sleep(2)
    say(load.report(rows_of=through(POOLERS[1])))


def primary() -> str:
    """Name of the host that takes writes, asked through a pooler."""
    with psycopg.connect(through(POOLERS[0])) as connection:
        row = connection.execute("SELECT current_setting('cluster_name')").fetchone()
    return str(row[0]).rpartition("/")[2] if row else ""


def playbook(name: str) -> list[str]:
    """The command of a playbook for the cluster of the demo."""
    return ["ansible-playbook", "-i", "inventories/demo", f"playbooks/{name}.yml", "-e", "fleet_cluster=orders"]


def main() -> None:
    """The whole walk."""
    os.environ["PATH"] = f"{CHECKOUT / '.venv' / 'bin'}:{os.environ['PATH']}"
    os.environ.setdefault("ANSIBLE_DISPLAY_SKIPPED_HOSTS", "false")
    os.environ.setdefault("ANSIBLE_DISPLAY_OK_HOSTS", "true")
    headline("Set up a primary, two replicas and two poolers")
    seconds = run("ansible-playbook", "-i", "inventories/demo", "playbooks/setup.yml", LIMIT)
    print(f"   setup took {seconds:.0f} s")
    with passwords():
        headline("Sixteen clients write through both poolers for ten seconds")
        Load.make_table(through(POOLERS[0]))
        under_load(lambda: time.sleep(10))
        headline("Switchover: another member becomes primary while they write")
        under_load(lambda: run(*playbook("switchover")))
        headline("Failover: the primary's power is cut while they write")
        old_primary = primary()
        under_load(lambda: (run("tests/hosts/fleet-hosts", "power-off", old_primary), run(*playbook("failover"))))
        headline("Rejoin: its host is back, and it becomes a replica of the new primary")
        run("tests/hosts/fleet-hosts", "power-on", old_primary)
        run(*playbook("rejoin"), "-e", f"fleet_rejoin_member={old_primary}")
    headline("What to type next")
    print(f"   ansible-playbook -i inventories/demo playbooks/setup.yml {LIMIT} --check --diff   # nothing to change")
    print("   tests/hosts/fleet-hosts status   # the hosts, and their faults")
    print("   make hosts-destroy               # remove every trace")


if __name__ == "__main__":
    main()

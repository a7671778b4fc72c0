# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A walk through the collection on the test hosts, each step a command that you can type yourself.

What is printed of clients (rows acknowledged, errors, longest wait, rows lost) is counted by real clients of poolers.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import yaml

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT / "tests"))

from faults.load import Load, LoadReport  # noqa: E402

# The inventory names the hosts of the set `main`. Those of another one come with a second inventory over it.
SET = os.environ.get("FLEET_HOSTS_SET") or "main"
SECRETS = CHECKOUT / ".cache" / ("secrets" if SET == "main" else f"secrets-{SET}")
DATABASES = ["pg1", "pg2", "pg3"]
POOLERS = ["pool1", "pool2"]
LIMIT = "--limit=orders,orders_poolers"
# With these variables the cluster has a repository.
BACKUP = "-e=@tools/demo_backup.yml"


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


@functools.cache
def addresses() -> dict[str, str]:
    """Address of every host that the demo uses."""
    names = [*DATABASES, *POOLERS, "store1"]
    text = subprocess.run(
        ["tests/hosts/fleet-hosts", "inventory", *names], cwd=CHECKOUT, check=True, capture_output=True, text=True
    ).stdout
    if SET != "main":
        (CHECKOUT / ".cache" / f"demo-{SET}.yml").write_text(text)
    return {name: host["ansible_host"] for name, host in yaml.safe_load(text)["all"]["hosts"].items()}


def inventory() -> list[str]:
    """Options of ansible-playbook."""
    if SET == "main":
        return ["-i", "inventories/demo"]
    return ["-i", "inventories/demo", "-i", f".cache/demo-{SET}.yml", "-e", f"fleet_secrets_directory={SECRETS}"]


def through(pooler: str, database: str = "orders", user: str = "orders_app") -> str:
    """Connection string of a client that checks the pooler's certificate."""
    trusted = f"sslmode=verify-full sslrootcert={SECRETS}/ca/ca.crt"
    return f"host={addresses()[pooler]} port=6432 dbname={database} user={user} {trusted}"


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


def playbook(name: str, *options: str) -> list[str]:
    """The command of a playbook."""
    return ["ansible-playbook", *inventory(), f"playbooks/{name}.yml", *options]


def make_store() -> None:
    """An S3 server on a host of its own, which outlives the others."""
    run("tests/hosts/fleet-hosts", "up", "store1")
    known = f"UserKnownHostsFile=.cache/hosts/{SET}/known_hosts"
    login = ["ssh", "-i", ".cache/hosts/id_ed25519", "-o", known, f"root@{addresses()['store1']}"]
    command = [*login, "bash", "-s", "--", "demo", "of-test-hosts-alone", "orders"]
    print(f"$ {shlex.join(command)} < tests/support/radosgw.sh", flush=True)
    with (CHECKOUT / "tests" / "support" / "radosgw.sh").open() as script:
        if subprocess.run(command, cwd=CHECKOUT, stdin=script, check=False).returncode:
            sys.exit("The store could not be made.")


def lose_everything() -> None:
    """Bare hosts in the place of all three, and what comes back of the rows that clients were promised."""
    with Load([through(pooler) for pooler in POOLERS]) as load:
        time.sleep(30)
    run("tests/hosts/fleet-hosts", "reset", "--bare", *DATABASES)
    headline("Disaster recovery: the cluster from the repository, on bare hosts")
    confirmed = ["-e", "disaster_recovery_cluster=orders", "-e", "disaster_recovery_confirm=orders"]
    seconds = run(*playbook("disaster_recovery", *confirmed, BACKUP))
    report = load.report(rows_of=through(POOLERS[1]))
    print(
        f"   {seconds:.0f} s from bare hosts to a cluster with replicas, poolers, archive and a new backup\n"
        f"   {report.acknowledged - report.lost} of the last {report.acknowledged} rows are back, {report.lost} came "
        f"after the last archived segment and are lost, {report.duplicated} duplicated"
    )


def main() -> None:
    """The whole walk."""
    os.environ["PATH"] = f"{CHECKOUT / '.venv' / 'bin'}:{os.environ['PATH']}"
    os.environ.setdefault("ANSIBLE_DISPLAY_SKIPPED_HOSTS", "false")
    os.environ.setdefault("ANSIBLE_DISPLAY_OK_HOSTS", "true")
    addresses()
    cluster = ("-e", "fleet_cluster=orders")
    headline("Set up a primary, two replicas and two poolers")
    seconds = run(*playbook("setup", LIMIT))
    print(f"   setup took {seconds:.0f} s")
    with passwords():
        headline("Sixteen clients write through both poolers for ten seconds")
        Load.make_table(through(POOLERS[0]))
        under_load(lambda: time.sleep(10))
        headline("Switchover: another member becomes primary while they write")
        under_load(lambda: run(*playbook("switchover", *cluster)))
        headline("Failover: the primary's power is cut while they write")
        old_primary = primary()
        power_off = ("tests/hosts/fleet-hosts", "power-off", old_primary)
        under_load(lambda: (run(*power_off), run(*playbook("failover", *cluster))))
        headline("Rejoin: its host is back, and it becomes a replica of the new primary")
        run("tests/hosts/fleet-hosts", "power-on", old_primary)
        run(*playbook("rejoin", *cluster, "-e", f"fleet_rejoin_member={old_primary}"))
        headline("Backups: archive continuously and take a first one, into an S3 store on another host")
        make_store()
        run(*playbook("setup", LIMIT, BACKUP))
        headline("Loss of everything: clients write for half a minute, then all database hosts are gone")
        lose_everything()
    headline("What to type next")
    run_book = "ansible-playbook -i inventories/demo playbooks"
    for line in (
        ". .venv/bin/activate             # the Ansible of this checkout",
        f"{run_book}/setup.yml {LIMIT} {BACKUP} --check --diff   # nothing to change",
        f"{run_book}/drill.yml --limit=orders {BACKUP}           # prove the newest backup",
        "tests/hosts/fleet-hosts status   # the hosts, and their faults",
        "make hosts-destroy               # remove them",
    ):
        print(f"   {line}")


if __name__ == "__main__":
    main()

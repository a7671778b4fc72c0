# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cluster `orders` on test hosts, set up and switched over by the playbooks, with load through its poolers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_TESTS = Path(__file__).resolve().parent.parent
CHECKOUT = _TESTS.parent
sys.path[:0] = [entry for entry in (str(_TESTS), str(_TESTS / "faults")) if entry not in sys.path]

from hosts.fixtures import Hosts  # noqa: E402
from load import Load, LoadReport  # noqa: E402

DATABASE, OWNER = "orders", "orders_app"


@dataclass(frozen=True)
class Played:
    """One run of a playbook.

    Attributes:
        seconds: from the start of ansible-playbook to its end.
        returncode: of ansible-playbook.
        output: what it said.
        record: what `set_stats` left, for switchover.yml under fleet_switchover; empty where it did not come so far.
    """

    seconds: float
    returncode: int
    output: str
    record: dict[str, Any]

    @property
    def state(self) -> str:
        """The end state of switchover.yml."""
        return str(self.record.get("state", "none"))


class HostsCluster:
    """Members pg1 to pgN and the poolers pool1 and pool2.

    Args:
        hosts: the set of test hosts.
        directory: for inventory and secrets; hosts that were set up from it before are used as they are.
        members: number of database hosts.
    """

    def __init__(self, hosts: Hosts, directory: Path, members: int = 3) -> None:
        self.hosts = hosts
        self.directory = directory
        self.members = [f"pg{number}" for number in range(1, members + 1)]
        self.poolers = ["pool1", "pool2"]
        self.variables: dict[str, Any] = {}

    def set_up(self) -> None:
        """Have the hosts up and the cluster on them. Raises AssertionError with what Ansible said."""
        self.hosts.up(*self.members, *self.poolers)
        self.write_inventory()
        if not self._is_set_up():
            done = self.play("setup")
            assert done.returncode == 0, done.output[-3000:]
        self._write_passfile()
        self.sql(self.primary(), f'SET ROLE "{OWNER}"; CREATE TABLE IF NOT EXISTS load (client int, n int)')

    def _is_set_up(self) -> bool:
        known = (self.directory / "secrets/passwords/orders" / OWNER).is_file()
        return known and None not in [self.recovery(name) for name in self.members]

    def write_inventory(self) -> Path:
        """As an operator writes one."""
        inventory = yaml.safe_load(self.hosts.inventory(*self.members, *self.poolers))["all"]
        inventory["vars"] |= {
            "fleet_postgres_profile": "small",
            "fleet_secrets_directory": str(self.directory / "secrets"),
            **self.variables,
        }
        for name in self.members:
            inventory["hosts"][name] |= {"fleet_cluster": "orders"}
        inventory["hosts"]["pg1"]["fleet_initial_primary"] = True
        databases = [{"name": DATABASE, "owner": OWNER, "extensions": ["pg_stat_statements"]}]
        orders = {"hosts": {name: {} for name in self.members}, "vars": {"postgres_primary_databases": databases}}
        inventory["children"] = {
            "postgresql": {"children": {"orders": orders}},
            "pgbouncer": {"hosts": {name: {} for name in self.poolers}, "vars": {"pgbouncer_clusters": ["orders"]}},
        }
        path = self.directory / "hosts.yml"
        path.write_text(yaml.safe_dump({"all": inventory}))
        return path

    # Playbooks.

    def command(self, playbook: str, **extra: Any) -> list[str]:
        """The command line of a playbook."""
        ansible_playbook = str(Path(sys.executable).parent / "ansible-playbook")
        command = [ansible_playbook, "-i", str(self.directory / "hosts.yml"), f"playbooks/{playbook}.yml"]
        return command + (["-e", json.dumps(extra)] if extra else [])

    def environment(self) -> dict[str, str]:
        """What `set_stats` leaves and the times of the tasks are shown."""
        return {
            **os.environ,
            "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / ".cache/collections"),
            "ANSIBLE_SHOW_CUSTOM_STATS": "true",
            "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
            "ANSIBLE_NOCOLOR": "true",
        }

    def play(self, playbook: str, **extra: Any) -> Played:
        """Run a playbook to its end."""
        return self.finish(self.start(playbook, **extra))

    def start(self, playbook: str, **extra: Any) -> Playing:
        """Start a playbook, in a session of its own so that all of it can be killed."""
        process = subprocess.Popen(
            self.command(playbook, **extra),
            cwd=CHECKOUT,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return Playing(process, time.monotonic())

    def finish(self, playing: Playing) -> Played:
        """Wait for its end; its output is kept beside the inventory."""
        output, _ = playing.process.communicate(timeout=900)
        (self.directory / f"play-{time.time_ns() // 1_000_000}.log").write_text(output)
        return Played(time.monotonic() - playing.began, playing.process.returncode, output, _record(output))

    def switch(self, candidate: str | None = None, **extra: Any) -> Played:
        """Run switchover.yml."""
        wanted = {"switchover_candidate": candidate} if candidate else {}
        return self.play("switchover", fleet_cluster="orders", **wanted, **extra)

    # What is so.

    def sql(self, host: str, query: str, database: str = DATABASE) -> str:
        """Run SQL as superuser on a host; the rows as text, columns separated by |."""
        quoted = query.replace("'", "'\\''")
        return str(
            self.hosts.ssh(host, f"cd / && runuser -u postgres -- psql -XAtq -d {database} -c '{quoted}'")
        ).strip()

    def recovery(self, host: str) -> bool | None:
        """Whether a member is a standby; None where it does not answer."""
        try:
            return self.sql(host, "SELECT pg_is_in_recovery()", "postgres") == "t"
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return None

    def primaries(self) -> list[str]:
        """The members that take writes."""
        return [name for name in self.members if self.recovery(name) is False]

    def primary(self) -> str:
        """The only one."""
        names = self.primaries()
        assert len(names) == 1, f"primaries: {names}"
        return names[0]

    def next_candidate(self) -> str:
        """pg1 and pg2 in turn."""
        return "pg2" if self.primary() == "pg1" else "pg1"

    # Load.

    def _write_passfile(self) -> None:
        password = (self.directory / "secrets/passwords/orders" / OWNER).read_text().strip()
        path = self.directory / "pgpass"
        path.touch(mode=0o600)
        path.write_text(f"*:*:*:{OWNER}:{password}\n")

    def conninfo(self, host: str, port: int) -> str:
        """How the application logs in."""
        root = self.directory / "secrets/ca/ca.crt"
        return (
            f"host={self.hosts.address(host)} port={port} dbname={DATABASE} user={OWNER} sslmode=verify-full "
            f"sslrootcert={root} passfile={self.directory / 'pgpass'}"
        )

    def load(self, clients: int = 16, poolers: Sequence[str] = ()) -> Load:
        """Clients that write through the poolers."""
        return Load([self.conninfo(name, 6432) for name in poolers or self.poolers], clients=clients)

    def report(self, load: Load) -> LoadReport:
        """Against what the primary has, after the load has ended."""
        return load.report(self.conninfo(self.primary(), 5432))


@dataclass(frozen=True)
class Playing:
    """A playbook at work."""

    process: subprocess.Popen[str]
    began: float


def _record(output: str) -> dict[str, Any]:
    """The custom statistics of the recap: one line of JSON."""
    for line in reversed(output.splitlines()):
        text = line.strip().removeprefix("RUN: ")
        if text.startswith("{") and "fleet_switchover" in text:
            return dict(json.loads(text)["fleet_switchover"])
    return {}

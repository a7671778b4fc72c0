# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One cluster `orders` on test hosts, set up, switched over, failed over and rejoined by the shipped playbooks.

    fleet = HostCluster(hosts, directory, synchronous=True)
    fleet.set_up()
    hosts.power_off(fleet.primary())
    end = fleet.play("failover")        # .state, .text, .seconds

Power is cut by fleet-hosts, which is also the driver of the fence: a command to switch off, a command that tells.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from ansible_collections.dbops.fleet.tests.faults.load import Load, LoadReport

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "tests"))

from hosts.fixtures import Hosts  # noqa: E402

MEMBERS = ("pg1", "pg2", "pg3")
POOLERS = ("pool1",)


@dataclass(frozen=True)
class Play:
    """How a playbook ended.

    Attributes:
        started: seconds since 1970.
        seconds: from the start of ansible-playbook to its end.
        text: its output, every run of white space as one blank.
        record: what it left for job templates by set_stats.
    """

    returncode: int
    started: float
    seconds: float
    text: str
    record: dict[str, Any]

    @property
    def ok(self) -> bool:
        return self.returncode == 0

    @property
    def state(self) -> str | None:
        """The end state."""
        state: str | None = self.record.get("state")
        return state


@dataclass(frozen=True)
class Playing:
    """A playbook at work. Calling it waits for its end."""

    playbook: str
    process: subprocess.Popen[str]
    started: float

    def __call__(self, timeout: float = 280) -> Play:
        output, _ = self.process.communicate(timeout=timeout)
        print(output)  # for the report of a failed test
        seconds = time.time() - self.started
        record = _record(output, f"fleet_{self.playbook}")
        return Play(self.process.returncode, self.started, seconds, " ".join(output.split()), record)

    def kill(self) -> Play:
        """kill -9 of ansible-playbook and all its processes, as when the controller dies."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return self()


class HostCluster:
    """The cluster. Who is the primary is asked, never remembered.

    Args:
        hosts: the set of test hosts.
        directory: for inventory, passwords and certificates; private.
        synchronous: commits wait for one replica, whichever is first.
        fencing: the inventory names commands that switch a host off.
        variables: further ones of the inventory, for all hosts.
    """

    def __init__(
        self,
        hosts: Hosts,
        directory: Path,
        *,
        synchronous: bool = False,
        fencing: bool = True,
        members: tuple[str, ...] = MEMBERS,
        poolers: tuple[str, ...] = POOLERS,
        **variables: Any,
    ) -> None:
        self.hosts, self.directory, self.members, self.poolers = hosts, directory, members, poolers
        self._passfile = directory / "pgpass"
        self._variables: dict[str, Any] = {
            "fleet_postgres_profile": "small",
            "fleet_secrets_directory": str(directory / "secrets"),
            "postgres_primary_databases": [{"name": "orders"}],
            # Tests fail over again and again.
            "fleet_failover_cooldown_seconds": 0,
            **variables,
        }
        if synchronous:
            self._variables["fleet_synchronous"] = {"method": "ANY", "number": 1, "members": list(members)}
        if fencing:
            tool = f"env FLEET_HOSTS_SET={hosts.set_name} {CHECKOUT}/tests/hosts/fleet-hosts"
            self._variables |= {
                "fencing_power_off_command": f"{tool} power-off {{{{ inventory_hostname }}}}",
                "fencing_power_state_command": f"{tool} power-state {{{{ inventory_hostname }}}}",
                "fencing_power_off_pattern": "off",
            }

    def set_up(self, *, fresh: bool = True) -> None:
        """Have the hosts up (fresh: with new disks) and the cluster on them, by setup.yml.

        Raises:
            RuntimeError: setup.yml failed; with its output.
        """
        names = dict.fromkeys((*self.members, *self.poolers))
        (self.hosts.reset if fresh else self.hosts.up)(*names)
        done = self.play("setup", named=False)
        if not done.ok:
            raise RuntimeError(done.text)
        # Once: whoever logs in while it is written anew would find no password.
        secret = (self.directory / "secrets/passwords/orders/orders_app").read_text().strip()
        self._passfile.touch(0o600)
        self._passfile.write_text(f"*:*:*:orders_app:{secret}\n")
        Load.make_table(self.through_poolers()[0])

    def play(self, playbook: str, *arguments: str, named: bool = True, **extra: Any) -> Play:
        """Run a playbook to its end; with `named` for this cluster."""
        return self.start(playbook, *arguments, named=named, **extra)()

    def start(self, playbook: str, *arguments: str, named: bool = True, **extra: Any) -> Playing:
        """Start a playbook, in a session of its own so that all of it can be killed."""
        extra |= {"fleet_cluster": "orders"} if named else {}
        command = [
            str(Path(sys.executable).parent / "ansible-playbook"),
            *(f"--inventory={path}" for path in self._inventory()),
            str(CHECKOUT / "playbooks" / f"{playbook}.yml"),
            *arguments,
            *(["--extra-vars", json.dumps(extra)] if extra else []),
        ]
        environment = {
            **os.environ,
            "NO_COLOR": "1",
            "ANSIBLE_SHOW_CUSTOM_STATS": "true",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": f"/tmp/fleet-{os.getpid()}",
            "ANSIBLE_TIMEOUT": "5",
        }
        process = subprocess.Popen(
            command,
            cwd=CHECKOUT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return Playing(playbook, process, time.time())

    def switch(self, candidate: str | None = None, **extra: Any) -> Play:
        """Run switchover.yml to its end."""
        wanted = {"switchover_candidate": candidate} if candidate else {}
        return self.play("switchover", **wanted, **extra)

    def _inventory(self) -> list[Path]:
        connection, cluster = self.directory / "connection.yml", self.directory / "cluster.yml"
        connection.write_text(self.hosts.inventory(*dict.fromkeys((*self.members, *self.poolers))))
        orders: dict[str, Any] = {name: {} for name in self.members}
        orders[self.members[0]]["fleet_initial_primary"] = True
        poolers = {name: {"pgbouncer_clusters": ["orders"]} for name in self.poolers}
        children = {
            "postgresql": {"children": {"orders": {"hosts": orders, "vars": {"fleet_cluster": "orders"}}}},
            "pgbouncer": {"hosts": poolers},
        }
        cluster.write_text(json.dumps({"all": {"vars": self._variables, "children": children}}))
        return [connection, cluster]

    def conninfo(self, name: str, port: int = 6432) -> str:
        """How the application logs in to a host. The password comes from a file."""
        return (
            f"host={self.hosts.address(name)} port={port} dbname=orders user=orders_app sslmode=verify-full "
            f"sslrootcert={self.directory / 'secrets/ca/ca.crt'} passfile={self._passfile}"
        )

    def through_poolers(self) -> list[str]:
        """How the application logs in, one way per pooler."""
        return [self.conninfo(name) for name in self.poolers]

    def load(self, clients: int = 16, *, poolers: tuple[str, ...] = (), think_seconds: float = 0.004) -> Load:
        """Clients that write through the poolers (all of them by default)."""
        targets = [self.conninfo(name) for name in poolers or self.poolers]
        return Load(targets, clients=clients, think_seconds=think_seconds)

    def report(self, load: Load) -> LoadReport:
        """Against what the primary has, after the load has ended."""
        return load.report(rows_of=self.conninfo(self.primary(), 5432))

    def sql(self, name: str, statement: str, database: str = "orders") -> str:
        """Run a statement on a member as the superuser; returns what psql prints, unaligned."""
        command = f"cd / && runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 -d {database}"
        return self.hosts.ssh(name, f"{command} <<'END_OF_SQL'\n{statement}\nEND_OF_SQL\n").strip()

    def primaries(self) -> list[str]:
        """Members that take writes now."""
        found = []
        for name in self.members:
            with suppress(subprocess.SubprocessError):
                if self.sql(name, "SELECT pg_is_in_recovery()") == "f":
                    found.append(name)
        return found

    def primary(self) -> str:
        """The only one."""
        names = self.primaries()
        assert len(names) == 1, f"primaries: {names}"
        return names[0]

    def next_candidate(self) -> str:
        """The first two members in turn."""
        return self.members[1] if self.primary() == self.members[0] else self.members[0]

    def written_to(self) -> str:
        """The address of the server that a client of the first pooler writes to."""
        with psycopg.connect(self.through_poolers()[0], autocommit=True, prepare_threshold=None) as connection:
            row = connection.execute("SELECT host(inet_server_addr()), pg_is_in_recovery()").fetchone()
        assert row is not None
        assert row[1] is False, "it is a replica"
        return str(row[0])


@dataclass(frozen=True)
class PowerCut:
    """A failover under load.

    Attributes:
        old, new: the primary that lost its power, and the one after it (None: there is none).
        seconds: from the start of the playbook to the first commit that a client saw acknowledged.
        outage: the longest that any client waited, from the power cut on.
    """

    old: str
    new: str | None
    play: Play
    load: LoadReport
    seconds: float
    outage: float


def cut_power_under_load(fleet: HostCluster, *, clients: int = 16, after_seconds: float = 1.0) -> PowerCut:
    """Cut the primary's power while clients write, fail over at once, and compare what they were told with the rows."""
    old = fleet.primary()
    targets = fleet.through_poolers()
    with Load(targets, clients=clients) as load:
        time.sleep(after_seconds)
        cut = time.time()
        fleet.hosts.power_off(old)
        play = fleet.play("failover")
        # Every client should have its turn again.
        time.sleep(1)
    report = load.report(rows_of=targets[0])
    ends = [began + length for began, length in report.waits if began < play.started < began + length]
    new = fleet.primaries()
    return PowerCut(
        old,
        new[0] if len(new) == 1 else None,
        play,
        report,
        min(ends, default=float("inf")) - play.started,
        report.longest_between(cut, time.time()),
    )


def _record(output: str, name: str) -> dict[str, Any]:
    """The record in what Ansible prints of set_stats, which is JSON after `RUN:`."""
    _, _, tail = output.partition("CUSTOM STATS:")
    for line in tail.splitlines():
        _, found, text = line.strip().partition("RUN: ")
        if found:
            stats: dict[str, Any] = json.loads(text)
            record: dict[str, Any] = stats.get(name, {})
            return record
    return {}

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is compared by bench_peers.py, each on the same hosts: pg1 to pg3 with PostgreSQL 17, pool1 and pool2.

A contender sets its cluster up on fresh hosts, tells how its clients log in, switches over, does what it does when the
primary has lost its power, and takes the old primary back. Which host is the primary is asked, never remembered.
"""

from __future__ import annotations

import io
import secrets
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from ansible_collections.dbops.fleet.tests.faults.on_hosts import MEMBERS, HostCluster, Hosts

HERE = Path(__file__).resolve().parent
POOLERS = ("pool1", "pool2")
SETTLED_SECONDS = 180


def wait_for(what: str, condition: Callable[[], bool], seconds: float) -> None:
    """Look every 0.2 s until it is so. Raises SystemExit that says what was waited for."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"Waited {seconds:.0f} s in vain for {what}.")
        time.sleep(0.2)


class Contender(ABC):
    """One way to run the cluster.

    Args:
        hosts: the set of test hosts.
        directory: private, for passwords and inventories.

    Attributes:
        routes: the ways of clients to the primary: the name of each and the conninfos, which the clients share in turn.
            The first one is taken for power cuts.
        fails_over: whether power cuts are part of it.
    """

    name = ""
    fails_over = True

    def __init__(self, hosts: Hosts, directory: Path) -> None:
        self.hosts, self.directory = hosts, directory
        self.routes: dict[str, list[str]] = {}

    @abstractmethod
    def set_up(self) -> None:
        """From fresh hosts to a cluster with the table `load`."""

    @abstractmethod
    def switch_over(self, candidate: str) -> None:
        """The planned switchover, from the operator's command to its end. Raises SystemExit when it fails."""

    def fail_over(self) -> None:
        """What the operator does at once when the primary has lost its power: nothing, unless a contender has a way."""
        return

    def take_back(self, old: str) -> None:
        """What the operator does when the old primary has booted: nothing, unless a contender has a way."""
        return

    def make_synchronous(self) -> None:
        """From now on a commit waits for one replica."""
        raise NotImplementedError

    def sql(self, name: str, statement: str) -> str:
        """What psql prints for a superuser's statement on a host; nothing where the server does not answer."""
        command = "cd / && runuser -u postgres -- psql -XAtq"
        try:
            return self.hosts.ssh(name, f"{command} <<'END'\n{statement}\nEND\n", timeout=10).strip()
        except subprocess.SubprocessError:
            return ""

    def primaries(self) -> list[str]:
        """Hosts that take writes now."""
        return [name for name in MEMBERS if self.sql(name, "SELECT pg_is_in_recovery()") == "f"]

    def settle(self) -> str:
        """Wait until one primary feeds all the others and clients get there on every route; returns its name."""
        streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"

        def settled() -> bool:
            found = self.primaries()
            return len(found) == 1 and self.sql(found[0], streaming) == str(len(MEMBERS) - 1)

        wait_for(f"{self.name} to have one primary with {len(MEMBERS) - 1} replicas", settled, SETTLED_SECONDS)
        self.wait_until_writable(*self.routes)
        return self.primaries()[0]

    def wait_until_writable(self, *routes: str) -> None:
        """Until a new client can write on each of these routes."""
        for conninfo in [each for route in routes for each in self.routes[route]]:
            wait_for(f"{self.name} to be writable", partial(_writable, conninfo), SETTLED_SECONDS)


def _writable(conninfo: str) -> bool:
    try:
        with psycopg.connect(conninfo, connect_timeout=2, prepare_threshold=None) as connection:
            row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
            return row == (False,)
    except psycopg.Error:
        return False


def _quiet() -> redirect_stdout[io.StringIO]:
    """Playbooks say a lot, and what they said is in the exception of one that failed."""
    return redirect_stdout(io.StringIO())


class Fleet(Contender):
    """dbops.fleet as setup.yml makes it, with the power commands of the test hosts as the fence of failover.yml."""

    name = "dbops.fleet"

    def __init__(self, hosts: Hosts, directory: Path) -> None:
        super().__init__(hosts, directory)
        self._cluster = HostCluster(hosts, directory, poolers=POOLERS)

    def set_up(self) -> None:
        with _quiet():
            self._cluster.set_up()
        self.routes = {"PgBouncer": self._cluster.through_poolers()}

    def switch_over(self, candidate: str) -> None:
        self._play("switchover", switchover_candidate=candidate)

    def fail_over(self) -> None:
        self._play("failover")

    def take_back(self, old: str) -> None:
        self._play("rejoin")

    def make_synchronous(self) -> None:
        self._cluster = HostCluster(self.hosts, self.directory, poolers=POOLERS, synchronous=True)
        with _quiet():
            self._cluster.set_up(fresh=False)

    def _play(self, playbook: str, **variables: Any) -> None:
        with _quiet():
            done = self._cluster.play(playbook, **variables)
        if not done.ok:
            raise SystemExit(f"{playbook}.yml failed: {done.text[-5000:]}")


class Peer(Contender):
    """A contender whose set-up is a shell script beside this file, NAME in peers_NAME.sh."""

    script = ""
    hosts_used: tuple[str, ...] = MEMBERS

    def set_up(self) -> None:
        self.hosts.reset(*MEMBERS, *POOLERS)
        for secret in ("application", "replication", "rewind"):
            path = self.directory / secret
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(16))
        passfile = self.directory / "pgpass"
        passfile.touch(mode=0o600)
        passfile.write_text(f"*:*:*:orders_app:{(self.directory / 'application').read_text()}\n")
        addresses = [f"{name}={self.hosts.address(name)}" for name in self.hosts_used]
        command = [str(HERE / self.script), str(self.directory), str(self._ssh_config()), *addresses]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{self.script} failed: {done.stdout[-3000:]}{done.stderr[-3000:]}")

    def login(self) -> str:
        """The part of a conninfo that is the same for every route."""
        return f"dbname=orders user=orders_app passfile={self.directory / 'pgpass'}"

    def multi_host(self) -> str:
        """libpq looks for the primary itself."""
        addresses = ",".join(self.hosts.address(name) for name in MEMBERS)
        return f"host={addresses} port=5432 target_session_attrs=read-write {self.login()}"

    def run(self, name: str, command: str) -> None:
        """A command of the operator on a host. Raises SystemExit with what it said."""
        try:
            self.hosts.ssh(name, command, timeout=300)
        except subprocess.CalledProcessError as problem:
            raise SystemExit(
                f"{command} on {name} failed: {problem.stdout[-3000:]}{problem.stderr[-3000:]}"
            ) from problem

    def _ssh_config(self) -> Path:
        """How to log in as root, with one connection per host that is kept for the time of the set-up."""
        state = self.hosts.state
        path = self.directory / "ssh_config"
        path.write_text(
            f"User root\nIdentityFile {state}/id_ed25519\nIdentitiesOnly yes\nBatchMode yes\n"
            f"UserKnownHostsFile {state}/{self.hosts.set_name}/known_hosts\n"
            f"ControlMaster auto\nControlPath {self.directory}/ssh-%h\nControlPersist 10\n"
        )
        return path


class Patroni(Peer):
    """Patroni with etcd. Clients by HAProxy, as its documentation has it, or by libpq's search for the primary."""

    name, script, hosts_used = "Patroni", "peers_patroni.sh", (*MEMBERS, *POOLERS)
    control = "patronictl -c /etc/patroni/17-main.yml"

    def set_up(self) -> None:
        super().set_up()
        haproxy = [f"host={self.hosts.address(name)} port=5000 {self.login()}" for name in POOLERS]
        self.routes = {"HAProxy": haproxy, "libpq": [self.multi_host()]}

    def switch_over(self, candidate: str) -> None:
        self.run(candidate, f"{self.control} switchover --leader {self.primaries()[0]} --candidate {candidate} --force")

    def make_synchronous(self) -> None:
        primary = self.primaries()[0]
        self.run(primary, f"{self.control} edit-config --set synchronous_mode=true --force")
        synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        wait_for(
            "Patroni to have a synchronous replica", lambda: self.sql(primary, synchronous) == "1", SETTLED_SECONDS
        )


class Repmgr(Peer):
    """repmgr without repmgrd: `standby switchover`. Clients by libpq's search for the primary."""

    name, script, fails_over = "repmgr", "peers_repmgr.sh", False

    def set_up(self) -> None:
        super().set_up()
        self.routes = {"libpq": [self.multi_host()]}

    def switch_over(self, candidate: str) -> None:
        repmgr = "cd / && runuser -u postgres -- repmgr -f /etc/repmgr.conf"
        self.run(candidate, f"{repmgr} standby switchover --siblings-follow")


CONTENDERS: dict[str, type[Contender]] = {"fleet": Fleet, "patroni": Patroni, "repmgr": Repmgr}

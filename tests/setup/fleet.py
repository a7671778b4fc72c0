# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet on test hosts: writes its inventory, runs the shipped setup.yml over it, and looks at what came out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hosts.fixtures import Hosts

CHECKOUT = Path(__file__).resolve().parents[2]
PLAYBOOK = CHECKOUT / "playbooks" / "setup.yml"
_RECAP = re.compile(r"^(\S+)\s*: ok=\d+\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """What a run of setup.yml said.

    Attributes:
        text: all of its output, with every run of white space as one blank, so that wrapped messages can be searched.
        changed: number of changed tasks by host.
        failed: hosts with a failed task.
    """

    returncode: int
    text: str
    changed: dict[str, int]
    failed: set[str]

    @property
    def ok(self) -> bool:
        return self.returncode == 0

    def says(self, *parts: str) -> bool:
        """Whether it failed with all of these in its output."""
        return not self.ok and all(part in self.text for part in parts)


class Fleet:
    """An inventory of some test hosts.

    Args:
        hosts: the test hosts.
        directory: where inventory and secrets are kept.
    """

    def __init__(self, hosts: Hosts, directory: Path) -> None:
        self.hosts = hosts
        self.directory = directory
        self.secrets = directory / "secrets"
        self.members: dict[str, dict[str, Any]] = {}
        self.poolers: dict[str, dict[str, Any]] = {}
        self.variables: dict[str, Any] = {}

    def member(self, name: str, cluster: str = "orders", **variables: Any) -> None:
        """Have a database host in the inventory."""
        self.members[name] = {"fleet_cluster": cluster, **variables}

    def pooler(self, name: str, *clusters: str) -> None:
        """Have a pooler in the inventory that serves these clusters."""
        self.poolers[name] = {"pgbouncer_clusters": list(clusters)}

    def setup(self, *arguments: str, **extra: Any) -> Run:
        """Run setup.yml to its end."""
        process = self.start_setup(*arguments, **extra)
        output, _ = process.communicate(timeout=280)
        recap = _RECAP.findall(output)
        print(output)  # for the report of a failed test
        return Run(
            process.returncode,
            " ".join(output.split()),
            {host: int(changed) for host, changed, _, _ in recap},
            {host for host, _, _, failed in recap if failed != "0"},
        )

    def start_setup(self, *arguments: str, **extra: Any) -> subprocess.Popen[str]:
        """Start setup.yml in a process group of its own."""
        names = [*self.members, *self.poolers]
        connection = self.directory / "connection.yml"
        connection.write_text(self.hosts.inventory(*names))
        clusters: dict[str, Any] = {}
        for name, member in self.members.items():
            clusters.setdefault(member["fleet_cluster"], {"hosts": {}})["hosts"][name] = member
        groups = {"postgresql": {"children": clusters}, "pgbouncer": {"hosts": self.poolers}}
        variables = {
            "fleet_postgres_profile": "small",
            "fleet_secrets_directory": str(self.secrets),
            "postgres_primary_databases": [{"name": "orders"}],
            **self.variables,
        }
        inventory = self.directory / "inventory.yml"
        inventory.write_text(json.dumps({"all": {"vars": variables, "children": groups}}))
        command = [
            str(Path(sys.executable).parent / "ansible-playbook"),
            f"--inventory={connection}",
            f"--inventory={inventory}",
            str(PLAYBOOK),
            *arguments,
            *(["--extra-vars", json.dumps(extra)] if extra else []),
        ]
        environment = {
            **os.environ,
            "NO_COLOR": "1",
            # Connections of a host that has been made anew since lead nowhere.
            "ANSIBLE_SSH_CONTROL_PATH_DIR": f"/tmp/fleet-{os.getpid()}",
            "ANSIBLE_TIMEOUT": "5",
        }
        return subprocess.Popen(
            command,
            cwd=CHECKOUT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def fresh(self, *names: str) -> None:
        """Make hosts anew, and mark the time for `touched`."""
        self.hosts.reset(*names)
        for name in names:
            self.mark(name)

    def mark(self, name: str) -> None:
        """Mark the time on a host for `touched`."""
        self.hosts.ssh(name, "touch /var/tmp/mark")

    def touched(self, name: str) -> list[str]:
        """Files of PostgreSQL, PgBouncer and the fleet that came or changed on a host since it was marked."""
        places = "/etc/postgresql* /etc/dbops-fleet /etc/pgbouncer /var/lib/postgresql /var/lib/dbops-fleet"
        return self.hosts.ssh(name, f"find {places} -cnewer /var/tmp/mark 2>/dev/null || true").split()

    def sql(self, name: str, statement: str, database: str = "orders") -> str:
        """Run a statement on the host itself as the superuser; returns what psql prints, unaligned."""
        command = f"cd / && runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 -d {database}"
        return self.hosts.ssh(name, f"{command} <<'END_OF_SQL'\n{statement}\nEND_OF_SQL\n").strip()

    def identity(self, name: str) -> str:
        """What must never change unasked: system identifier, timeline, start of the server, role, rows."""
        return self.sql(
            name,
            "CHECKPOINT; SELECT system_identifier, timeline_id, pg_postmaster_start_time(), pg_is_in_recovery(), "
            "(SELECT string_agg(what, ',' ORDER BY what) FROM sold) FROM pg_control_system(), pg_control_checkpoint()",
        )

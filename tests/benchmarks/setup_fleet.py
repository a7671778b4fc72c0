# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet that bench_setup.py sets up: its inventory, the two ways to set it up, and what they leave on the hosts."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
sys.path.insert(0, str(CHECKOUT / "tests"))

import yaml  # noqa: E402
from hosts.fixtures import Hosts  # noqa: E402

# Actions that are done on the controller alone: no module goes to a host for them.
ON_CONTROLLER = {
    "ansible.builtin.assert",
    "ansible.builtin.debug",
    "ansible.builtin.include_role",
    "ansible.builtin.include_tasks",
    "ansible.builtin.meta",
    "ansible.builtin.set_fact",
    "ansible.builtin.set_stats",
    "ansible.builtin.validate_argument_spec",
}


@dataclass(frozen=True)
class Cost:
    """What one set-up took.

    Attributes:
        seconds: from its start to its end, as an operator waits.
        hosts_cpu: CPU seconds of all hosts together; hardly depends on what else the machine does.
        cpu: CPU seconds of the controller's processes.
    """

    seconds: float
    hosts_cpu: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s (CPU {self.hosts_cpu:.1f} + {self.cpu:.1f} s)"


@dataclass(frozen=True)
class Run:
    """One run of setup.yml.

    Attributes:
        cost: what it took.
        changed: tasks that changed something, by host.
        tasks, skipped, modules: by host: task results, those of them that were skipped, and executions of a module
            (each item of a loop is one).
    """

    cost: Cost
    changed: dict[str, int]
    tasks: Counter[str]
    skipped: Counter[str]
    modules: Counter[str]


class BenchmarkFleet:
    """One cluster `orders`: pg1 is made the primary, pg2 and so on replicas; PgBouncer runs on pg1 to pg3.

    Args:
        hosts: the set of test hosts.
        directory: a private directory for inventory, passwords and certificates.
    """

    def __init__(self, hosts: Hosts, directory: Path) -> None:
        self._hosts = hosts
        self._directory = directory

    def forget_secrets(self) -> None:
        """Remove the passwords and certificates that setup.yml made on the controller: their hosts are gone."""
        shutil.rmtree(self._directory / "secrets", ignore_errors=True)

    @staticmethod
    def names(number: int) -> list[str]:
        """pg1 to pgNUMBER."""
        return [f"pg{index}" for index in range(1, number + 1)]

    def inventory(self, number: int) -> Path:
        """Write the inventory of the first `number` hosts."""
        names = self.names(number)
        inventory = yaml.safe_load(self._hosts.inventory(*names))["all"]
        inventory["vars"] = {
            "fleet_cluster": "orders",
            "fleet_postgres_profile": "small",
            "fleet_secrets_directory": str(self._directory / "secrets"),
            "pgbouncer_clusters": ["orders"],
            "postgres_primary_databases": [{"name": "orders", "extensions": ["pg_stat_statements"]}],
        }
        for host in inventory["hosts"].values():
            host["ansible_user"] = "root"  # as setup_by_hand.sh logs in
        inventory["hosts"]["pg1"]["fleet_initial_primary"] = True
        inventory["children"] = {
            "postgresql": {"children": {"orders": {"hosts": {name: {} for name in names}}}},
            "pgbouncer": {"hosts": {name: {} for name in names[:3]}},
        }
        path = self._directory / f"hosts-{number}.yml"
        path.write_text(yaml.safe_dump({"all": inventory}))
        return path

    def run_setup(self, number: int) -> Run:
        """Run setup.yml on the first `number` hosts, timed and counted by Ansible's JSON callback.

        Raises CalledProcessError, with the end of what Ansible said as a note, when it fails.
        """
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_DEPRECATION_WARNINGS": "false",
        }
        ansible_playbook = Path(sys.executable).parent / "ansible-playbook"
        command = [str(ansible_playbook), "-i", str(self.inventory(number)), "playbooks/setup.yml"]
        done, cost = self._timed(number, command, environment)
        report = json.loads(done.stdout[done.stdout.index("{") :])
        changed = {host: stats["changed"] for host, stats in report["stats"].items()}
        return Run(cost, changed, *_counted(report))

    def set_up_by_hand(self, number: int) -> Cost:
        """Run setup_by_hand.sh on the first `number` hosts. Raises CalledProcessError when it fails."""
        names = self.names(number)
        secrets = self._directory / "by-hand"
        addresses = [f"{name}={self._hosts.address(name)}" for name in names]
        command = [str(HERE / "setup_by_hand.sh"), str(secrets), str(self._ssh_config()), *addresses]
        return self._timed(number, command, dict(os.environ))[1]

    def _timed(
        self, number: int, command: list[str], environment: dict[str, str]
    ) -> tuple[subprocess.CompletedProcess[str], Cost]:
        """Run a command that works on the first `number` hosts. A failure says what the command said last."""
        hosts_before, cpu_before, began = self._hosts_cpu(number), _children_cpu(), time.monotonic()
        done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - began
        cpu = _children_cpu() - cpu_before
        if done.returncode:
            problem = subprocess.CalledProcessError(done.returncode, command)
            problem.add_note(done.stdout[-3000:] + done.stderr[-3000:])
            raise problem
        return done, Cost(seconds, self._hosts_cpu(number) - hosts_before, cpu)

    def _hosts_cpu(self, number: int) -> float:
        """CPU seconds that the first `number` hosts have used since they were made."""
        usage = (self._hosts.ssh(name, "cat /sys/fs/cgroup/cpu.stat").split()[1] for name in self.names(number))
        return sum(int(microseconds) for microseconds in usage) / 1e6

    def _ssh_config(self) -> Path:
        """How to log in as root, with one connection per host that is kept, as Ansible keeps it."""
        state = self._hosts.state
        path = self._directory / "ssh_config"
        path.write_text(
            f"User root\nIdentityFile {state}/id_ed25519\nIdentitiesOnly yes\nBatchMode yes\n"
            f"UserKnownHostsFile {state}/{self._hosts.set_name}/known_hosts\n"
            f"ControlMaster auto\nControlPath {self._directory}/ssh-%h\nControlPersist 60\n"
        )
        return path

    def fingerprint(self, number: int) -> dict[str, list[str]]:
        """What a set-up left, by host: packages, settings, log-in rules, roles, privileges, certificates, pooler."""
        script = (HERE / "setup_fingerprint.sh").read_text()
        return {name: self._hosts.ssh(name, script).splitlines() for name in self.names(number)}


def _children_cpu() -> float:
    """CPU seconds of the processes that this one has started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _counted(report: dict[str, Any]) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Task results, skipped ones and module executions by host, from the JSON callback's report."""
    tasks: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    modules: Counter[str] = Counter()
    for play in report["plays"]:
        for task in play["tasks"]:
            for host, result in task["hosts"].items():
                tasks[host] += 1
                if result.get("skipped"):
                    skipped[host] += 1
                elif result["action"] not in ON_CONTROLLER:
                    items = result.get("results", [result])
                    modules[host] += sum(1 for item in items if not item.get("skipped"))
    return tasks, skipped, modules

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The test hosts for pytest: `from hosts.fixtures import hosts` in a conftest.py gives the fixture `hosts`.

Faults are context managers: whatever happens in the test, the host is as before afterwards. Should pytest itself be
killed, the next `hosts.up(...)` takes every fault away.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_HERE = Path(__file__).resolve().parent
_CHECKOUT = _HERE.parents[1]


class Hosts:
    """A set of test hosts and what can be done to them.

    Args:
        set_name: the set; by default that of FLEET_HOSTS_SET, or `main`.
    """

    def __init__(self, set_name: str | None = None) -> None:
        self.set_name = set_name or os.environ.get("FLEET_HOSTS_SET") or "main"
        self.state = Path(os.environ.get("FLEET_HOSTS_STATE") or _CHECKOUT / ".cache/hosts")
        self._addresses: dict[str, str] = {}

    def tool(self, *arguments: str) -> str:
        """Run fleet-hosts; returns its stdout. Raises CalledProcessError with a note of what it said."""
        command = [str(_HERE / "fleet-hosts"), *arguments]
        environment = {**os.environ, "FLEET_HOSTS_SET": self.set_name, "FLEET_HOSTS_STATE": str(self.state)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            problem = subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
            problem.add_note(done.stderr)
            raise problem
        return done.stdout

    def up(self, *names: str, bare: bool = False) -> None:
        """Have these hosts up, answering and free of faults."""
        self.tool("up", *(["--bare"] if bare else []), *names)

    def reset(self, *names: str, bare: bool = False) -> None:
        """Make these hosts anew, with fresh disks."""
        self.tool("reset", *(["--bare"] if bare else []), *names)

    def inventory(self, *names: str) -> str:
        """A YAML inventory of these hosts (without names: of all that exist)."""
        return self.tool("inventory", *names)

    def address(self, name: str) -> str:
        """The host's IPv4 address."""
        if name not in self._addresses:
            self._addresses[name] = self.tool("address", name).strip()
        return self._addresses[name]

    def ssh(self, name: str, command: str, *, user: str = "root", timeout: float = 60) -> str:
        """Run a shell command on the host over SSH; returns its stdout.

        Raises CalledProcessError when it fails (255: no connection) and TimeoutExpired after `timeout` seconds.
        """
        done = subprocess.run(
            self.ssh_command(name, command, user=user), capture_output=True, text=True, timeout=timeout, check=False
        )
        if done.returncode != 0:
            problem = subprocess.CalledProcessError(done.returncode, ["ssh", name, command], done.stdout, done.stderr)
            problem.add_note(done.stderr)
            raise problem
        return done.stdout

    def ssh_command(self, name: str, command: str, *, user: str = "root") -> list[str]:
        """The words that run a shell command on the host, for whoever wants its output while it runs."""
        options = {
            "UserKnownHostsFile": self.state / self.set_name / "known_hosts",
            "IdentityFile": self.state / "id_ed25519",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": "3",
        }
        arguments = [f"-o{key}={value}" for key, value in options.items()]
        return ["ssh", "-F", "none", *arguments, f"{user}@{self.address(name)}", command]

    def answers(self, name: str) -> bool:
        """Whether a login over SSH works."""
        try:
            self.ssh(name, "true", timeout=6)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return False
        return True

    def power_off(self, name: str) -> None:
        """Cut the power; see power_loss for a way that puts it back."""
        self.tool("power-off", name)

    def power_on(self, name: str) -> None:
        """Boot the host and wait until it answers."""
        self.tool("power-on", name)

    @contextmanager
    def power_loss(self, name: str) -> Iterator[None]:
        """The host is without power inside; it boots at the end."""
        self.power_off(name)
        try:
            yield
        finally:
            self.power_on(name)

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """Every process of the host stands still inside."""
        self.tool("freeze", name)
        try:
            yield
        finally:
            self.tool("up", name)  # also right when the test has cut its power meanwhile

    @contextmanager
    def cut(self, name: str, *, peers: list[str]) -> Iterator[None]:
        """No packet passes between the host and these peers (hosts, "controller" or "all") inside."""
        self.tool("cut", name, "--from", *peers)
        try:
            yield
        finally:
            self.tool("heal", name)

    @contextmanager
    def full_disk(self, name: str, path: str = "/", *, leave_mb: int) -> Iterator[None]:
        """Only so many MiB are free on the host's disk inside."""
        self.tool("fill-disk", name, path, "--leave-mb", str(leave_mb))
        try:
            yield
        finally:
            self.tool("up", name)  # frees the disk, and boots the host should it be off


@pytest.fixture(scope="session")
def hosts() -> Hosts:
    """The test hosts of the environment's set. A test begins with `hosts.up(...)` of those it needs: quick when up."""
    return Hosts()

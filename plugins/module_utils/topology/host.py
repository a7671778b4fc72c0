# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads this host and the instance that a cluster wants on it, in one go: the work of `instance_info`.

It replaces Ansible's fact gathering for the fleet, so it is quick, and it works on a host with nothing installed.
"""

from __future__ import annotations

# Runs programs where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import json
import os
import pwd
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.instance import Instance
from ansible_collections.dbops.fleet.plugins.module_utils.topology import host_facts
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts
from ansible_collections.dbops.fleet.plugins.module_utils.topology.instance_facts import (
    Found,
    InstanceFacts,
    OtherInstance,
    Owner,
    classify,
)
from ansible_collections.dbops.fleet.plugins.module_utils.topology.read import read_local
from ansible_collections.dbops.fleet.plugins.module_utils.topology.running import with_answers

_MANAGERS = ("patroni*", "repmgrd*", "pgautofailover*", "pg_autoctl*", "pacemaker*", "corosync*", "stolon*")
_CLONE_MARKER = ".dbops-clone.json"


def instance_info(params: Mapping[str, Any], _check_mode: bool, *, root: Path = Path("/")) -> Outcome:
    """Parameters and results as documented in the module.

    Args:
        root: of the file system, for tests.

    Raises:
        FleetError: the version cannot be known, or what is there cannot be read.
    """
    host = read_host(params["packages"], root)
    version = params["version"] or host_facts.SHIPPED_POSTGRESQL.get(host["distribution_major_version"])
    if not version:
        raise FleetError(
            f"it is not known which PostgreSQL {host['distribution']} {host['distribution_version']} ships",
            remedy="Set postgres_server_version for this host.",
        )
    instance = Instance.debian(version, params["name"], data_directory=params["data_directory"], root=root)
    facts = read_instance(instance, host["default_address"] or host["hostname"], root)
    facts = with_answers(facts, instance, params["roles"])
    return Outcome(changed=False, result={"version": version, "host": host, "instance": facts.to_dict()})


def read_host(packages: list[str], root: Path = Path("/")) -> dict[str, Any]:
    """The host itself: memory, processors, release, addresses, packages."""
    addresses = [
        *host_facts.ipv4_addresses(_text(root / "proc/net/fib_trie")),
        *host_facts.ipv6_addresses(_text(root / "proc/net/if_inet6")),
    ]
    limits = (_text(root / "sys/fs/cgroup/memory.max"),)
    installed = sorted(int(path.parts[-3]) for path in (root / "usr/lib/postgresql").glob("[0-9]*/bin/postgres"))
    return {
        "hostname": socket.gethostname(),
        "memory_mb": host_facts.memory_mb(_text(root / "proc/meminfo"), limits),
        "cpus": len(os.sched_getaffinity(0)),
        **host_facts.os_release(_text(root / "etc/os-release")),
        "addresses": addresses,
        "default_address": _default_address() or next(iter(addresses), None),
        "packages": host_facts.installed_packages(_text(root / "var/lib/dpkg/status"), packages),
        "postgresql_installed": installed,
        "postgresql_shipped": host_facts.SHIPPED_POSTGRESQL.get(
            host_facts.os_release(_text(root / "etc/os-release"))["distribution_major_version"]
        ),
        "systemd": (root / "run/systemd/system").is_dir(),
    }


def read_instance(instance: Instance, address: str, root: Path = Path("/")) -> InstanceFacts:
    """The instance in its place, with its member's facts; the member has the host's name until the cluster names it."""
    name = socket.gethostname()
    control_error = None
    try:
        member = read_local(instance, name, address)
    except FleetError as error:
        control_error = str(error)
        member = MemberFacts(name, address, instance.port, "stopped", error=control_error)
        if instance.running:
            # Without psycopg nobody can ask it, but it is there.
            member = MemberFacts(name, address, instance.port, "unreachable", error=control_error)
    found = Found(
        data_directory=str(instance.data_directory),
        exists=instance.exists,
        empty=instance.empty,
        running=instance.running,
        configured=instance.config_directory is not None,
        data_version=instance.data_version,
        control=member.control,
        control_error=control_error,
        owner=_owner(instance, root),
        clone=_json(instance.data_directory.with_name(instance.data_directory.name + _CLONE_MARKER)),
        member_state=member.state,
    )
    state, reason = classify(found, instance.version)
    total, free = _disk(instance.data_directory)
    return InstanceFacts(
        version=instance.version,
        name=instance.name,
        state=state,
        reason=reason,
        port=instance.port,
        data_directory=found.data_directory,
        data_directory_owner=_user(instance.owner_uid),
        configured=found.configured,
        unit=instance.unit,
        owner=found.owner,
        clone=found.clone,
        disk_total_mb=total,
        disk_free_mb=free,
        member=_with_orchestrators(member),
        others=tuple(_others(instance, root)),
    )


def owner_file(version: int, name: str, root: Path = Path("/")) -> Path:
    """Where the roles leave the mark that an instance is of this fleet."""
    return root / "var/lib/dbops-fleet" / f"instance-{version}-{name}.json"


def _owner(instance: Instance, root: Path) -> Owner | None:
    path = owner_file(instance.version, instance.name, root)
    mark = _json(path)
    if mark is None:
        return None
    try:
        return Owner.from_dict(mark)
    except ValueError as error:
        raise FleetError(
            f"the mark {path} cannot be read: {error}",
            remedy='It should be {"cluster": "<name>", "system_identifier": "<as pg_controldata prints it>"}.',
        ) from error


def _others(wanted: Instance, root: Path) -> Iterator[OtherInstance]:
    places = {
        (path.parts[-2], path.parts[-1])
        for top in ("etc/postgresql", "var/lib/postgresql")
        for path in (root / top).glob("[0-9]*/*")
        if path.is_dir()
    }
    for version, name in sorted(places):
        # Copies that a clone or a rejoin keeps beside the directory are no instances.
        if (version, name) == (str(wanted.version), wanted.name) or "." in name or not version.isdigit():
            continue
        other = Instance.debian(int(version), name, root=root)
        if other.config_directory is None and other.empty:
            continue
        yield OtherInstance(
            version=other.version,
            name=name,
            data_directory=str(other.data_directory),
            port=other.port if other.config_directory or other.running else None,
            configured=other.config_directory is not None,
            running=other.running,
            empty=other.empty,
            owner=_owner(other, root),
        )


def _with_orchestrators(member: MemberFacts) -> MemberFacts:
    """Which active systemd units manage PostgreSQL on this host."""
    if not Path("/run/systemd/system").is_dir():
        return member
    command = ["systemctl", "list-units", "--state=active", "--plain", "--no-legend", "--type=service", *_MANAGERS]
    try:
        result = subprocess.run(
            command, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=False, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return member
    units = tuple(line.split()[0] for line in result.stdout.splitlines() if line.strip())
    return MemberFacts.from_dict({**member.to_dict(), "orchestrators": units})


def _default_address() -> str | None:
    """The address that packets to the world would come from. Connecting a UDP socket sends none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # reserved for documentation
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _disk(path: Path) -> tuple[int | None, int | None]:
    """MiB in total and free for others than root, of the nearest directory that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        found = os.statvfs(path)
    except OSError:
        return None, None
    return found.f_blocks * found.f_frsize >> 20, found.f_bavail * found.f_frsize >> 20


def _user(uid: int | None) -> str | None:
    if uid is None:
        return None
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _json(path: Path) -> dict[str, Any] | None:
    """A JSON object; one that cannot be read is there all the same, so it gives {"unreadable": ...}."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        return {"unreadable": str(error)}
    try:
        value = json.loads(text)
    except ValueError as error:
        return {"unreadable": str(error)}
    return value if isinstance(value, dict) else {"unreadable": "no JSON object"}


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""

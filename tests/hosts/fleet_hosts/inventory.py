# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Inventories for sets that have no written one: who is where, and how to log in. Pure."""

from __future__ import annotations

from pathlib import Path

from fleet_hosts.catalogue import Addresses, HostSpec


def inventory_yaml(specs: list[HostSpec], addresses: Addresses, key: Path, known_hosts: Path) -> str:
    """A YAML inventory of these hosts with the connection variables; groups are the caller's business."""
    # On the hosts themselves: variables of `all` hold for the controller as well, where tasks would become root through
    # sudo and lose their environment, the name of the set with it.
    lines = ["---", "all:", "  hosts:"]
    for spec in specs:
        lines += [f"    {spec.name}:", f"      ansible_host: {addresses.of(spec)}"]
        lines += ["      ansible_user: fleet", "      ansible_become: true"]
        lines += [f'      ansible_ssh_private_key_file: "{key}"']
        lines += [f'      ansible_ssh_common_args: "-o UserKnownHostsFile={known_hosts} -o IdentitiesOnly=yes"']
        lines += ["      ansible_python_interpreter: /usr/bin/python3"]
    return "\n".join(lines) + "\n"

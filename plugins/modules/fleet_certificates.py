#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: the fleet's CA and the certificates of its hosts."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_certificates
short_description: Make a fleet's CA and the certificates of its hosts
version_added: 0.1.0
description:
  - Runs on the controller, once for all hosts. What is there and right stays as it is.
  - A certificate is made where there is none, where the host has other names now, where another CA has signed it, and
    near its end. A private key that is there is kept.
  - Keys are on the curve P-256. Everything that is missing is written, or nothing.
author:
  - dbops.fleet contributors (@dbops)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: Shows which certificates are made and why, never a key.
  platform:
    platforms: posix
requirements:
  - cryptography >= 42
options:
  directory:
    description:
      - Directory of its owner alone; made where it is missing. It gets C(ca/ca.crt), C(ca/ca.key), and for each host
        C(hosts/NAME/host.crt) and C(hosts/NAME/host.key).
    type: path
    required: true
  hosts:
    description: The hosts.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name in the inventory.
        type: str
        required: true
      address:
        description: Address or name that the others reach it by.
        type: str
        required: true
  ca_kept:
    description: Refuse where the CA is missing, because hosts with certificates of it are there.
    type: bool
    default: false
  days:
    description: Days that a host's certificate is valid.
    type: int
    default: 825
  renew_days:
    description: Days before its end at which a certificate is made anew.
    type: int
    default: 30
seealso:
  - module: dbops.fleet.managed_files
"""

EXAMPLES = r"""
- name: Make what is missing
  dbops.fleet.fleet_certificates:
    directory: /srv/dbops-fleet/secrets
    hosts:
      - {name: orders-db1, address: 192.0.2.11}
      - {name: orders-db2, address: 192.0.2.12}
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
ca_made:
  description: Whether there was no CA, and one was made.
  type: bool
  returned: success
made:
  description: Hosts whose certificate was made, and why.
  type: dict
  returned: success
  sample: {orders-db1: it has none}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.certificates.issue import fleet_certificates


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "hosts": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "address": {"type": "str", "required": True},
                },
            },
            "ca_kept": {"type": "bool", "default": False},
            "days": {"type": "int", "default": 825},
            "renew_days": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    adapter.run(module, fleet_certificates)


if __name__ == "__main__":
    main()

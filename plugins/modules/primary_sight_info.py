#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: how this host sees the primary of a cluster, and its own instance."""

from __future__ import annotations

DOCUMENTATION = r"""
module: primary_sight_info
short_description: See the members of a cluster from this host
version_added: 0.1.0
description:
  - Probes every member, by its protocol and from database hosts by a query, each within O(timeout).
  - On a database host it also reads the local instance, its walreceiver at two moments, and where the write-ahead log
    on disk ends if SQL does not tell.
  - Run on all hosts of a cluster and on the controller, it gives M(dbops.fleet.failover_plan_info) what it
    decides from. Changes nothing.
author:
  - dbops.fleet contributors (@dbops)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - dbops.fleet.members
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: debian
options:
  cluster:
    description: The cluster.
    type: str
    required: true
  vantage:
    description: Inventory name of this host, or V(controller).
    type: str
    required: true
  kind:
    description: V(replica) is any database host, whatever its role.
    type: str
    choices: [controller, replica, pooler]
    required: true
  version:
    description: Major version of the instance on this host. V(0) or not given is the one that its Debian ships.
    type: int
  name:
    description: Debian's name of the instance.
    type: str
    default: main
  timeout:
    description: Seconds for each attempt to connect and for the first answer.
    type: float
    default: 1.0
seealso:
  - module: dbops.fleet.failover_plan_info
"""

EXAMPLES = r"""
- name: See the members from here
  dbops.fleet.primary_sight_info:
    cluster: orders
    vantage: "{{ inventory_hostname }}"
    kind: replica
    members:
      - {name: pg1, address: 10.0.0.11}
      - {name: pg2, address: 10.0.0.12}
  register: seen
"""

RETURN = r"""
sight:
  description: What was seen. Hand it to O(dbops.fleet.failover_plan_info#module:sights) as it is.
  type: dict
  returned: success
  sample: {vantage: pg2, kind: replica, probes: [[pg1, {vantage: pg2, kind: replica, answer: silent}]]}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_sight import sight_info


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "cluster": {"type": "str", "required": True},
            "vantage": {"type": "str", "required": True},
            "kind": {"type": "str", "required": True, "choices": ["controller", "replica", "pooler"]},
            "members": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "address": {"type": "str", "required": True},
                    "port": {"type": "int", "default": 5432},
                    "slot": {"type": "str"},
                    "priority": {"type": "int", "default": 100},
                    "conninfo": {"type": "str"},
                },
            },
            "version": {"type": "int"},
            "name": {"type": "str", "default": "main"},
            "timeout": {"type": "float", "default": 1.0},
        },
        supports_check_mode=True,
    )
    adapter.run(module, sight_info)


if __name__ == "__main__":
    main()

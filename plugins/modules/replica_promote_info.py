#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: the switchovers that were made from this host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: replica_promote_info
short_description: Read the records of switchovers, whether one was interrupted, and the instance
version_added: 0.1.0
description:
  - Reads the journals that M(dbops.fleet.replica_promote) left on this host. A host has those of the switchovers that
    began when it was primary.
  - Reads the instance as M(dbops.fleet.instance_info) does, because a switchover needs both of every host, and each run
    of a module costs clients nothing but the operator time.
  - Changes nothing.
author:
  - dbops.fleet contributors (@dbops)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: debian
options:
  cluster:
    description: Name of the cluster.
    type: str
    required: true
  version:
    description: The one of M(dbops.fleet.instance_info).
    type: int
  instance:
    description: Debian's name of the instance.
    type: str
    default: main
  count:
    description: How many of the last records to return.
    type: int
    default: 1
  state_directory:
    description: The one of M(dbops.fleet.replica_promote).
    type: path
    default: /var/lib/dbops-fleet
  lock_directory:
    description: The one of M(dbops.fleet.replica_promote).
    type: path
    default: /run/dbops-fleet
seealso:
  - module: dbops.fleet.replica_promote
"""

EXAMPLES = r"""
- name: Read the last ten switchovers
  dbops.fleet.replica_promote_info:
    cluster: orders
    count: 10
  register: found

- name: Show how long clients waited
  ansible.builtin.debug:
    msg: "{{ found.records | map(attribute='pause_ms') }}"
"""

RETURN = r"""
pending:
  description: The record of the operation that running M(dbops.fleet.replica_promote) again would go on with, or null.
  type: dict
  returned: success
  sample: {operation: 20261121T090102, old_primary: db1, new_primary: db2, state: null}
at_work:
  description: The operation and process that work now, or null.
  type: str
  returned: success
  sample: 20261121T090102 pid 4711
instance:
  description: The RV(dbops.fleet.instance_info#module:instance).
  type: dict
  returned: success
  sample: {version: 17, name: main, state: running}
records:
  description: The records, oldest first, as M(dbops.fleet.replica_promote) returns them.
  type: list
  elements: dict
  returned: success
  sample: [{operation: 20261121T090102, state: ok, old_primary: db1, new_primary: db2, pause_ms: 131.9}]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_info import replica_promote_info


def main() -> None:
    """Wire the options to the operation."""
    module = AnsibleModule(
        argument_spec={
            "cluster": {"type": "str", "required": True},
            "version": {"type": "int"},
            "instance": {"type": "str", "default": "main"},
            "count": {"type": "int", "default": 1},
            "state_directory": {"type": "path", "default": "/var/lib/dbops-fleet"},
            "lock_directory": {"type": "path", "default": "/run/dbops-fleet"},
        },
        supports_check_mode=True,
    )
    adapter.run(module, replica_promote_info)


if __name__ == "__main__":
    main()

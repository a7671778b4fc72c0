#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: start a PostgreSQL instance and see it up."""

from __future__ import annotations

DOCUMENTATION = r"""
module: instance_start
short_description: Start a PostgreSQL instance and read it when it takes sessions
version_added: 0.1.0
description:
  - Has the instance's configuration on disk first, so that a power cut right after does not lose it, and reads the
    units of systemd again.
  - Returns as soon as the server takes sessions or, where recovery keeps it from that, systemd calls it started.
  - A server that does not start is told with the end of its log.
  - A mark of the fleet that was made before there were data, C(/var/lib/dbops-fleet/instance-17-main.json), gets the
    system identifier.
author:
  - dbops.fleet contributors (@dbops)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    details: An instance that is still to be made counts as one that would be started.
  diff_mode:
    support: none
  platform:
    platforms: debian
options:
  version:
    description: Major version of the instance.
    type: int
    required: true
  name:
    description: Debian's name of the instance.
    type: str
    default: main
  streaming:
    description: Return when it streams from its upstream, and fail when it does not within a minute.
    type: bool
    default: false
seealso:
  - module: dbops.fleet.instance_info
"""

EXAMPLES = r"""
- name: Start the instance
  dbops.fleet.instance_start:
    version: 17

- name: Start a replica and see it stream
  dbops.fleet.instance_start:
    version: 17
    streaming: true
"""

RETURN = r"""
instance:
  description: As M(dbops.fleet.instance_info) returns it.
  type: dict
  returned: success, but not where check mode would start it
  sample: {state: running, unit: postgresql@17-main.service}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.topology.start import instance_start


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "int", "required": True},
            "name": {"type": "str", "default": "main"},
            "streaming": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    adapter.run(module, instance_start)


if __name__ == "__main__":
    main()

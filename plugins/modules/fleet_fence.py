#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: make sure that a host's PostgreSQL takes no writes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_fence
short_description: Fence a host of PostgreSQL and prove it
version_added: 0.1.0
description:
  - The old primary cannot take writes any more, and a state that was read back says so. Exit codes prove nothing here.
  - Does not fail when the fence could not be confirmed. RV(rung.status) says it, and nothing may be promoted then.
author:
  - dbops.fleet contributors (@dbops)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - dbops.fleet.endpoints
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: all
options:
  driver:
    description:
      - V(ssh) acts on this host - it masks the unit, leaves C(standby.signal) so that any start makes a standby, and
        stops the server, in the end by SIGKILL.
      - V(command) runs O(power_off_command) and reads O(power_state_command). Run it on the controller.
      - V(ec2) stops O(instance_id) by force. Run it on the controller, which needs boto3.
      - V(pooler_cut) changes nothing. It looks whether PgBouncer on this host, whose clients are held, lets nobody
        through to O(addresses).
    type: str
    choices: [ssh, command, ec2, pooler_cut]
    required: true
  cluster:
    description: The cluster, for the mark that is left on the host.
    type: str
    required: true
  version:
    description: For V(ssh), major version of the instance. V(0) or not given is the one that the host's Debian ships.
    type: int
  name:
    description: For V(ssh), Debian's name of the instance.
    type: str
    default: main
  stop_timeout:
    description: For V(ssh), seconds for each of fast stop, immediate stop and SIGKILL.
    type: float
    default: 3
  power_off_command:
    description: Command that switches the host off. It is run without a shell.
    type: str
  power_state_command:
    description: Command that prints the host's state.
    type: str
  power_off_pattern:
    description: Plain text in its output that means that the host is off.
    type: str
  instance_id:
    description: Of EC2.
    type: str
  region:
    description: Of AWS.
    type: str
  timeout:
    description: Seconds for V(command) and V(ec2) in all.
    type: float
    default: 20
  pooler:
    description: For V(pooler_cut), inventory name of the pooler.
    type: str
  addresses:
    description: For V(pooler_cut), every address or name that entries may have the old primary by.
    type: list
    elements: str
  config_file:
    description: For V(pooler_cut), PgBouncer's main file; its socket is used if O(endpoints) is empty.
    type: path
    default: /etc/pgbouncer/pgbouncer.ini
  timeout_seconds:
    description: For V(pooler_cut), how long to wait for the logins, and again for each answer.
    type: float
    default: 5
seealso:
  - module: dbops.fleet.failover_plan_info
"""

EXAMPLES = r"""
- name: Switch the host off and see it off
  dbops.fleet.fleet_fence:
    driver: command
    cluster: orders
    power_off_command: ipmitool -H pg1-bmc -f /etc/ipmi.pass chassis power off
    power_state_command: ipmitool -H pg1-bmc -f /etc/ipmi.pass chassis power status
    power_off_pattern: is off
  delegate_to: localhost
"""

RETURN = r"""
rung:
  description: What came of it, for the list C(rungs) in the request of M(dbops.fleet.primary_failover).
  type: dict
  returned: success, not with O(driver=pooler_cut)
  contains:
    driver:
      description: The driver.
      type: str
      sample: command
    status:
      description: V(confirmed) or V(unconfirmed).
      type: str
      sample: confirmed
    evidence:
      description: What was read back.
      type: list
      elements: str
      sample: ["the state command ended with 0 and said: Chassis Power is off"]
cut:
  description: What was found, for the list C(cuts) in that request. All poolers together are the fence.
  type: dict
  returned: success with O(driver=pooler_cut)
  sample: {pooler: pool1, paused: true, servers: 0, error: null}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_fence import fence
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.options import CONSOLE_OPTIONS


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "driver": {"type": "str", "required": True, "choices": ["ssh", "command", "ec2", "pooler_cut"]},
            "cluster": {"type": "str", "required": True},
            "version": {"type": "int"},
            "name": {"type": "str", "default": "main"},
            "stop_timeout": {"type": "float", "default": 3},
            "power_off_command": {"type": "str"},
            "power_state_command": {"type": "str"},
            "power_off_pattern": {"type": "str"},
            "instance_id": {"type": "str"},
            "region": {"type": "str"},
            "timeout": {"type": "float", "default": 20},
            "pooler": {"type": "str"},
            "addresses": {"type": "list", "elements": "str"},
            **CONSOLE_OPTIONS,
        },
        required_if=[
            ("driver", "command", ["power_off_command", "power_state_command", "power_off_pattern"]),
            ("driver", "ec2", ["instance_id", "region"]),
            ("driver", "pooler_cut", ["pooler", "addresses"]),
        ],
        supports_check_mode=True,
    )
    adapter.run(module, fence)


if __name__ == "__main__":
    main()

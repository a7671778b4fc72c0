#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: a cluster from what was read on each of its hosts."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_info
short_description: Judge a PostgreSQL cluster and plan what setup may do with it
version_added: 0.1.0
description:
  - Merges what M(dbops.fleet.instance_info) found on every host of a cluster. Tells who is primary, who follows whom,
    how far behind, and what is wrong.
  - Plans what C(setup.yml) may do with each member. Refuses whatever could lose data, with the host and the remedy.
  - Connects to nothing and changes nothing. Run it on the controller.
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
    platforms: posix
options:
  cluster:
    description: Name of the cluster.
    type: str
    required: true
  members:
    description: Every member that the inventory names.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Its inventory name, which is its C(application_name) too.
        type: str
        required: true
      address:
        description: How the other members reach it.
        type: str
        required: true
      port:
        description: PostgreSQL's port.
        type: int
        default: 5432
  instances:
    description:
      - Name of the member to the RV(dbops.fleet.instance_info#module:instance) that was found there.
      - A member without an entry is an unreachable host.
    type: dict
    required: true
  initial_primaries:
    description: Members that the inventory names as first primary. Looked at only if no member has data.
    type: list
    elements: str
    default: []
seealso:
  - module: dbops.fleet.instance_info
"""

EXAMPLES = r"""
- name: Judge the cluster
  dbops.fleet.cluster_info:
    cluster: orders
    members:
      - {name: db1, address: 10.0.0.11}
      - {name: db2, address: 10.0.0.12}
    instances:
      db1: "{{ hostvars['db1'].found.instance }}"
      db2: "{{ hostvars['db2'].found.instance }}"
    initial_primaries: [db1]
  delegate_to: localhost
  run_once: true
  register: orders

- name: Show it
  ansible.builtin.debug:
    msg: "{{ orders.report }}"
"""

RETURN = r"""
cluster:
  description: Name of the cluster.
  type: str
  returned: success
  sample: orders
primary:
  description: The member that takes writes; null where there is none or more than one.
  type: str
  returned: success
  sample: db1
primaries:
  description: All members that take writes.
  type: list
  elements: str
  returned: success
  sample: [db1]
replicas:
  description: All running standbys.
  type: list
  elements: str
  returned: success
  sample: [db2]
readers:
  description: The replicas that show what is there now, in that they stream, and replay without a delay.
  type: list
  elements: str
  returned: success
  sample: [db2]
timeline:
  description: Timeline of the primary, or the newest one without it.
  type: int
  returned: success
  sample: 3
system_identifier:
  description: Of the cluster; null where nobody has data.
  type: str
  returned: success
  sample: "7391842034120421376"
healthy:
  description: Whether there is no problem of severity V(error).
  type: bool
  returned: success
  sample: true
members:
  description: Each member.
  type: list
  elements: dict
  returned: success
  contains:
    name:
      description: Inventory name.
      type: str
      sample: db2
    address:
      description: Its address.
      type: str
      sample: 10.0.0.12
    port:
      description: Its port.
      type: int
      sample: 5432
    state:
      description: V(absent), V(foreign), V(stopped), V(starting), V(running) or V(unreachable).
      type: str
      sample: running
    role:
      description: V(primary), V(replica), or null for one that does not run.
      type: str
      sample: replica
    timeline:
      description: Its timeline.
      type: int
      sample: 3
    current_lsn:
      description: Write position of a primary.
      type: str
    receive_lsn:
      description: What a replica has received.
      type: str
      sample: 0/5000148
    replay_lsn:
      description: What a replica has replayed.
      type: str
      sample: 0/5000148
    lag_bytes:
      description: Replay behind the primary.
      type: int
      sample: 0
    lag_seconds:
      description: How old what queries see is; null where that cannot be known.
      type: float
      sample: 0.0
    upstream:
      description: The member that it streams from, or C(host:port) of a stranger.
      type: str
      sample: db1
    streaming:
      description: Whether its walreceiver streams.
      type: bool
      sample: true
    sync_state:
      description: V(async), V(potential), V(sync) or V(quorum).
      type: str
      sample: async
    apply_delay_seconds:
      description: Delay of a delayed replica.
      type: float
    slots:
      description: Its replication slots.
      type: list
      elements: dict
problems:
  description: What is wrong, errors first.
  type: list
  elements: dict
  returned: success
  contains:
    code:
      description: A word for machines, such as V(two_primaries), V(orphan_replica), V(foreign_system_identifier).
      type: str
      sample: orphan_replica
    member:
      description: Whom it concerns; null for the whole cluster.
      type: str
      sample: db3
    severity:
      description: V(error) or V(warning).
      type: str
      sample: error
    message:
      description: What was found.
      type: str
      sample: streams from nobody (no walreceiver; primary_conninfo is empty)
    remedy:
      description: What to do.
      type: str
      sample: Point it to the primary (rejoin), or read its log for why it cannot connect.
plan:
  description: What setup may do with each member.
  type: dict
  returned: success
  sample:
    db1:
      action: converge
      reason: "takes writes: the primary"
      code:
      remedy:
refusals:
  description: Every refusal of the plan once, with hosts, reason and remedy. Do nothing unless this is empty.
  type: list
  elements: str
  returned: success
  sample: []
report:
  description: The cluster as a table, line by line.
  type: list
  elements: str
  returned: success
  sample:
    - "orders: healthy, primary db1, timeline 3"
plan_report:
  description: The plan as a table, line by line.
  type: list
  elements: str
  returned: success
  sample:
    - "orders:"
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.topology.merge import cluster_info


def main() -> None:
    member_options = {
        "name": {"type": "str", "required": True},
        "address": {"type": "str", "required": True},
        "port": {"type": "int", "default": 5432},
    }
    module = AnsibleModule(
        argument_spec={
            "cluster": {"type": "str", "required": True},
            "members": {"type": "list", "elements": "dict", "required": True, "options": member_options},
            "instances": {"type": "dict", "required": True},
            "initial_primaries": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    adapter.run(module, cluster_info)


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: the plan of an unplanned failover."""

from __future__ import annotations

DOCUMENTATION = r"""
module: failover_plan_info
short_description: Decide whether and how a cluster fails over
version_added: 0.1.0
description:
  - From what all hosts saw (M(dbops.fleet.primary_sight_info)), it decides whether the primary is really gone, who
    takes over, what may be lost, and which fences have to be tried. Connects to nothing and changes nothing.
  - Says every reason to refuse at once, each with what to do about it. It does not fail then.
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
    platforms: all
options:
  cluster:
    description: The cluster.
    type: str
    required: true
  sights:
    description: RV(dbops.fleet.primary_sight_info#module:sight) of every host that answered, and of the controller.
    type: list
    elements: dict
    required: true
  orders:
    description: What the operator decided. Overrides name the cluster or the member that they are for.
    type: dict
    default: {}
    suboptions:
      primary:
        description: Member that was the primary, where that cannot be told otherwise.
        type: str
      candidate:
        description: Promote this one and no other.
        type: str
      force:
        description: The cluster's name. Fail over although the primary is alive; it is fenced first.
        type: str
      accept_data_loss:
        description: The cluster's name. Go on although acknowledged commits may be missing.
        type: str
      without_fence:
        description: The cluster's name. Go on although nothing proves that the old primary takes no writes.
        type: str
      ignore_cooldown:
        description: The cluster's name. Go on although it failed over a short while ago.
        type: str
      operator_fenced:
        description: The member that a person has seen off.
        type: str
      cooldown_seconds:
        description: Seconds after a failover in which no other one is made. V(0) switches it off.
        type: float
        default: 3600
      maximum_loss_bytes:
        description: Known loss up to this much needs no consent in an asynchronous cluster.
        type: int
        default: 1048576
      restart_crashed:
        description: Start PostgreSQL again on a reachable host where it only crashed, rather than fail over.
        type: bool
        default: true
      drivers:
        description: Fences that are set up beside SSH and the quorum of replicas.
        type: list
        elements: str
        choices: [command, ec2, pooler_cut]
        default: []
seealso:
  - module: dbops.fleet.primary_sight_info
  - module: dbops.fleet.primary_failover
"""

EXAMPLES = r"""
- name: Decide
  dbops.fleet.failover_plan_info:
    cluster: orders
    members: "{{ members }}"
    sights: "{{ sights }}"
    orders:
      accept_data_loss: orders
  delegate_to: localhost
  register: decided
"""

RETURN = r"""
plan:
  description: The plan. RV(plan.request) is for O(dbops.fleet.primary_failover#module:request).
  type: dict
  returned: success
  contains:
    action:
      description:
        - V(fail_over), or V(refuse).
        - V(restart) - start PostgreSQL on the primary's host again.
        - V(finish) - an interrupted failover has its new primary already.
        - V(put_back) - the primary of an interrupted failover answers again, and its replicas have to follow it again.
      type: str
      sample: fail_over
    primary:
      description: The lost primary; null where it cannot be told.
      type: str
      sample: pg1
    worker:
      description: The host that carries it out.
      type: str
      sample: pg2
    refusals:
      description: Reasons to refuse, each with code, message and remedy.
      type: list
      elements: dict
      sample: []
    confirmation:
      description: What the vantage points say together.
      type: dict
    election:
      description: The candidate and why, and what may be lost.
      type: dict
    fences:
      description: Drivers to try, in this order.
      type: list
      elements: str
      sample: [ssh, command]
    request:
      description: For the worker.
      type: dict
    steps:
      description: What will be done.
      type: list
      elements: str
      sample: [Switch every walreceiver off]
report:
  description: The same as lines of text.
  type: list
  elements: str
  returned: success
  sample: ["Failover of cluster orders: from pg1 to pg2"]
operation:
  description: A new id for it, for O(dbops.fleet.primary_failover#module:operation).
  type: str
  returned: success
  sample: 20261121T101500-orders
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_planning import plan_info


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "cluster": {"type": "str", "required": True},
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
            "sights": {"type": "list", "elements": "dict", "required": True},
            "orders": {
                "type": "dict",
                "default": {},
                "options": {
                    "primary": {"type": "str"},
                    "candidate": {"type": "str"},
                    "force": {"type": "str"},
                    "accept_data_loss": {"type": "str"},
                    "without_fence": {"type": "str"},
                    "ignore_cooldown": {"type": "str"},
                    "operator_fenced": {"type": "str"},
                    "cooldown_seconds": {"type": "float", "default": 3600},
                    "maximum_loss_bytes": {"type": "int", "default": 1048576},
                    "restart_crashed": {"type": "bool", "default": True},
                    "drivers": {
                        "type": "list",
                        "elements": "str",
                        "choices": ["command", "ec2", "pooler_cut"],
                        "default": [],
                    },
                },
            },
        },
        supports_check_mode=True,
    )
    adapter.run(module, plan_info)


if __name__ == "__main__":
    main()

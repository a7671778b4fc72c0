#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: an old primary, or any member that left the line, as a replica again."""

from __future__ import annotations

DOCUMENTATION = r"""
module: replica_rejoin
short_description: Make a member of a cluster a replica of the present primary again
version_added: 0.1.0
description:
  - The member streams from the primary and has replayed a position that the primary reached after all was done. With
    C(recovery_min_apply_delay) it has received it.
  - Does as little as possible - nothing, another upstream, a start, C(pg_rewind), or a new clone beside the old data
    directory, which is kept.
  - What only this member had is counted by table and its write-ahead log kept in C(/var/lib/dbops-fleet/lost).
  - Refuses a member that still takes writes, data of another cluster, and data of a newer timeline than the primary's,
    until the member is named.
author:
  - dbops.fleet contributors (@dbops)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: debian
options:
  cluster:
    description: The cluster.
    type: str
    required: true
  member:
    description: This host's member.
    type: dict
    required: true
    suboptions: &address
      name:
        description: Inventory name.
        type: str
        required: true
      address:
        description: Where the others reach it.
        type: str
        required: true
      port:
        description: Port of PostgreSQL.
        type: int
        default: 5432
  primary:
    description: The present primary.
    type: dict
    required: true
    suboptions: *address
  upstream:
    description:
      - The replica that this member is meant to stream from, instead of the primary. It is left alone as long as it
        does and that replica itself streams on the primary's timeline; otherwise it follows the primary.
    type: dict
    suboptions: *address
  slot:
    description: Replication slot at the primary for this member; made if it is missing.
    type: str
  member_slots:
    description: Slots that this member had for others when it was the primary; dropped if nobody uses them.
    type: list
    elements: str
    default: []
  method:
    description: V(clone) makes a new clone of any member that does not stream already.
    type: str
    choices: [auto, clone]
    default: auto
  stop_primary:
    description: The member's name. It may be stopped although it still takes writes, and what only it has is given up.
    type: str
  replace:
    description:
      - The member's name. Its data are of another cluster, or of a newer timeline than the primary's; put them aside
        and clone.
    type: str
  lowered_synchronous:
    description:
      - What the last failover set C(synchronous_standby_names) to, because too few standbys were left. Where the
        primary still has it and enough standbys stream, O(synchronous_before) is put back on all O(members).
    type: str
  synchronous_before:
    description: The rule from before that failover.
    type: str
    default: ""
  members:
    description: All members of the cluster. Required with O(lowered_synchronous).
    type: list
    elements: dict
    default: []
    suboptions: *address
  version:
    description: Major version of the instance. V(0) or not given is the one that the host's Debian ships.
    type: int
  name:
    description: Debian's name of the instance.
    type: str
    default: main
  timeout:
    description: Seconds until it streams.
    type: float
    default: 120
seealso:
  - module: dbops.fleet.primary_failover
  - module: dbops.fleet.pg_basebackup_restore
"""

EXAMPLES = r"""
- name: Make the old primary a replica
  dbops.fleet.replica_rejoin:
    cluster: orders
    member: {name: pg1, address: 10.0.0.11}
    primary: {name: pg2, address: 10.0.0.12}
    slot: pg1
    member_slots: [pg2, pg3]
"""

RETURN = r"""
action:
  description: V(nothing), V(follow), V(start), V(rewind) or V(clone).
  type: str
  returned: success
  sample: rewind
msg:
  description: Why.
  type: str
  returned: success
  sample: pg1 left pg2's line at 0/5000148 of timeline 1, 8304 bytes of its own beyond it
plan:
  description: The plan, with the preconditions of pg_rewind where one was considered.
  type: dict
  returned: success
  sample: {action: rewind, fork: 0/5000148}
lost:
  description: Commits and rows by table that only this member had, and where their write-ahead log is kept.
  type: dict
  returned: success
  sample: {commits: 3, tables: [{name: "orders: public.invoices", inserted: 3}]}
synchronous:
  description: Which rule was replaced by which, and replicas that could not be told; null if nothing was to be done.
  type: dict
  returned: success
  sample: {from: "", to: "ANY 1 (pg1, pg2)", not_told: {}}
received:
  description: Position that was received in the end.
  type: str
  returned: changed
  sample: 0/60000A0
replayed:
  description: Position that was replayed in the end.
  type: str
  returned: changed
  sample: 0/60000A0
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_rejoin import rejoin

PLACE = {
    "name": {"type": "str", "required": True},
    "address": {"type": "str", "required": True},
    "port": {"type": "int", "default": 5432},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "cluster": {"type": "str", "required": True},
            "member": {"type": "dict", "required": True, "options": PLACE},
            "primary": {"type": "dict", "required": True, "options": PLACE},
            "upstream": {"type": "dict", "options": PLACE},
            "slot": {"type": "str"},
            "member_slots": {"type": "list", "elements": "str", "default": []},
            "method": {"type": "str", "choices": ["auto", "clone"], "default": "auto"},
            "stop_primary": {"type": "str"},
            "replace": {"type": "str"},
            "lowered_synchronous": {"type": "str"},
            "synchronous_before": {"type": "str", "default": ""},
            "members": {"type": "list", "elements": "dict", "default": [], "options": PLACE},
            "version": {"type": "int"},
            "name": {"type": "str", "default": "main"},
            "timeout": {"type": "float", "default": 120},
        },
        supports_check_mode=True,
    )
    adapter.run(module, rejoin)


if __name__ == "__main__":
    main()

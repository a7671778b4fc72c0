#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: make a replica the primary after the old one is lost."""

from __future__ import annotations

DOCUMENTATION = r"""
module: primary_failover
short_description: Promote the right replica after the primary was lost
version_added: 0.1.0
description:
  - The most advanced replica is the primary, the others follow it, and it has taken a real write.
  - Poolers of the request (C(poolers)) whose files name that replica already (C(staged)) read them and let clients go.
    Others are not touched.
  - Switches every walreceiver off, elects from positions that stand still, and promotes only if a fence is confirmed -
    one of the request's, or the quorum of a synchronous cluster's replicas. Otherwise everything is put back and the
    module fails with C(code=fencing_unconfirmed) and what to do by hand.
  - A process of its own on this host does the work, with a journal in C(/var/lib/dbops-fleet/failover). It goes on if
    Ansible is killed. If it is killed itself, the next run on this host goes on from the journal.
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
  request:
    description:
      - RV(dbops.fleet.failover_plan_info#module:plan.request), with the rungs of the fences that were tried.
      - Where M(dbops.fleet.pgbouncer_pool) has staged a member in files of poolers, its name as C(staged), and as
        C(poolers) their C(name), C(host), C(port), C(databases) and C(process), as in M(dbops.fleet.replica_promote).
    type: dict
    required: true
  operation:
    description: Name of this run and of its journal, such as the time. The same name joins a run that is at work.
    type: str
    required: true
seealso:
  - module: dbops.fleet.failover_plan_info
  - module: dbops.fleet.fleet_fence
"""

EXAMPLES = r"""
- name: Promote the right replica
  dbops.fleet.primary_failover:
    request: "{{ decided.plan.request | combine({'rungs': rungs}) }}"
    operation: 20261121T030000
"""

RETURN = r"""
state:
  description: V(ok) or V(degraded).
  type: str
  returned: success
  sample: ok
reason:
  description: A sentence.
  type: str
  returned: success
  sample: pg2 is the primary
next:
  description: The command to run next.
  type: str
  returned: always
  sample: ansible-playbook dbops.fleet.rejoin -e fleet_cluster=orders -e fleet_rejoin_member=pg1
problems:
  description: What did not go as it should after the promotion.
  type: list
  elements: str
  returned: success
  sample: []
record:
  description: Candidate, election with the estimated loss, fence, new timeline and switch point, poolers let go.
  type: dict
  returned: success
  sample: {candidate: pg2, new_timeline: 2}
steps:
  description: Seconds per step.
  type: list
  elements: dict
  returned: success
  sample: [{step: freeze, event: done, seconds: 0.05}]
journal:
  description: Path of the journal on this host.
  type: str
  returned: success
  sample: /var/lib/dbops-fleet/failover/20261121T030000.jsonl
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_failover import failover


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "request": {"type": "dict", "required": True},
            "operation": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    adapter.run(module, failover)


if __name__ == "__main__":
    main()

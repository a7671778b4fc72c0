#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: a planned switchover, the whole critical section in one invocation."""

from __future__ import annotations

DOCUMENTATION = r"""
module: replica_promote
short_description: Promote a replica and make the primary a replica, without errors for clients of PgBouncer
version_added: 0.1.0
description:
  - Runs on the host of the primary. Holds the clients of all poolers, shuts the primary down, waits until the candidate
    has the end of the shutdown checkpoint, promotes it, verifies the new timeline and writes to it, points the poolers
    and the other replicas at it, lets the clients go on, and starts the old primary as a replica.
  - The work is done by a process of its own, which outlives this module, the SSH session and the job, and keeps a
    journal. Run the module again at any time. It joins the work, or finishes or rolls back what was interrupted.
  - Refuses, with every check in RV(checks), whatever would lose data, hang, or make clients fail.
  - Fails with RV(state=rolled_back) when the primary stays the same, and with RV(state=needs_operator) when nothing
    safe can be done without you; RV(next) says what to do.
  - The poolers' files have to name the candidate before the module runs, without a reload, and their dead-men have to
    be armed. See M(dbops.fleet.pgbouncer_pool). The playbook C(dbops.fleet.switchover) does all of it.
author:
  - dbops.fleet contributors (@dbops)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    details: All checks are made, and RV(steps) says what would be done.
  diff_mode:
    support: full
  platform:
    platforms: debian
requirements:
  - psycopg 3
options:
  cluster:
    description: Name of the cluster. One change of roles at a time is made of it.
    type: str
    required: true
  member:
    description: Name of the member on whose host this runs.
    type: str
    required: true
  members:
    description: All members of the cluster.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Its C(application_name).
        type: str
        required: true
      address:
        description: How the other members and the poolers reach it.
        type: str
        required: true
      port:
        description: PostgreSQL's port.
        type: int
        default: 5432
      priority:
        description: Of those that can take over, the one with the highest does. One of V(0) only as O(candidate).
        type: int
        default: 100
  candidate:
    description:
      - The member to promote. Nothing is done if it is the primary already.
      - If not given, the best one that can take over.
    type: str
  poolers:
    description: The PgBouncer processes whose clients have to be held, each with its admin console.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: How messages call it.
        type: str
        required: true
      host:
        description: Address of its admin console.
        type: str
        required: true
      port:
        description: Port of its admin console.
        type: int
        default: 6432
      databases:
        description: The entries that have to follow the primary.
        type: list
        elements: str
        required: true
      process:
        description:
          - Of several processes that share the port (C(so_reuseport)), the directory of the unix socket of the one that
            is meant. Each has an entry of its own here. The kernel gives a login to one of them, so logins are tried
            until one reaches it.
        type: str
  operation:
    description:
      - Id of the operation, which is also the name of the dead-men that watch the poolers.
      - If not given, the time. Required with O(poolers), except in check mode, which then does not look for dead-men.
    type: str
  instances:
    description:
      - Name of the member to the RV(dbops.fleet.instance_info#module:instance) that was found there.
      - Adds checks of what only the host itself knows - free disk space, and whether Patroni or another manager is
        active.
    type: dict
    default: {}
  version:
    description: Major version of the local instance.
    type: int
    required: true
  instance:
    description: Debian's name of the local instance.
    type: str
    default: main
  data_directory:
    description: Its data directory, if it is not where its configuration or else Debian says.
    type: path
  binaries:
    description: Directory of PostgreSQL's programs, if it is not Debian's.
    type: path
  port:
    description: Its port, if it is not in its configuration.
    type: int
  socket_directory:
    description: Directory of its unix socket, if it is not Debian's.
    type: path
  pause_seconds:
    description: From the pause of the clients until the candidate must be asked to promote. After it, all is undone.
    type: float
    default: 5
  drain_seconds:
    description: How long to wait for transactions to end, which is a part of O(pause_seconds).
    type: float
    default: 2
  follow_seconds:
    description: How long to wait, after clients work again, until all others stream from the new primary.
    type: float
    default: 60
  dead_man_seconds:
    description: The O(dbops.fleet.pgbouncer_pool#module:max_pause_seconds) that the dead-men were armed with.
    type: float
    default: 15
  max_lag_mb:
    description: How far the candidate may be behind at the beginning.
    type: int
    default: 16
  terminate_writers:
    description: End transactions of clients that bypass the poolers, rather than give up.
    type: bool
    default: false
  accept_slot_loss:
    description: Go on although logical slots of the primary are not on the candidate.
    type: bool
    default: false
  accept_session_mode:
    description: Go on although pools are in session mode. The pause then waits until their clients leave.
    type: bool
    default: false
  conninfos:
    description:
      - Name of the member to a libpq connection string without password, for members that are not reached by the
        fleet's own account.
    type: dict
    default: {}
  console_user:
    description: Who logs in to the admin consoles.
    type: str
    default: fleet_operator
  passfile:
    description: Passwords in libpq's format.
    type: path
    default: /etc/dbops-fleet/pgpass
  sslmode:
    description: TLS for the admin consoles.
    type: str
    choices: [disable, allow, prefer, require, verify-ca, verify-full]
    default: verify-full
  sslrootcert:
    description: File with the CA's certificate.
    type: path
    default: /etc/dbops-fleet/ca.crt
  state_directory:
    description: Where journals are kept, below C(switchover/) and the cluster's name.
    type: path
    default: /var/lib/dbops-fleet
  lock_directory:
    description: Where the lock file is. It has to be empty after a boot.
    type: path
    default: /run/dbops-fleet
seealso:
  - module: dbops.fleet.pgbouncer_pool
  - module: dbops.fleet.cluster_info
"""

EXAMPLES = r"""
- name: Promote a replica of a cluster without poolers
  dbops.fleet.replica_promote:
    cluster: orders
    member: db1
    members:
      - {name: db1, address: 10.0.0.11}
      - {name: db2, address: 10.0.0.12}
      - {name: db3, address: 10.0.0.13, priority: 0}
    version: 17
  register: switchover

- name: Say how long clients waited
  ansible.builtin.debug:
    msg: "{{ switchover.new_primary }} is the primary, clients waited {{ switchover.pause_ms }} ms"
"""

RETURN = r"""
state:
  description: V(ok), V(planned) (check mode), V(degraded), V(rolled_back), V(needs_operator) or V(refused).
  type: str
  returned: always
  sample: ok
reason:
  description: Why, as a sentence.
  type: str
  returned: always
  sample: db2 is the primary
next:
  description: What to do now; empty when nothing is.
  type: str
  returned: when something was begun
  sample: ""
problems:
  description: What did not go as it should.
  type: list
  elements: str
  returned: when something was begun
  sample: []
operation:
  description: Its id.
  type: str
  returned: always
  sample: 20261121T090102
candidate:
  description: The member that was chosen.
  type: str
  returned: unless an earlier operation was joined
  sample: db2
checks:
  description: Every check.
  type: list
  elements: dict
  returned: unless an earlier operation was joined
  contains:
    name:
      description: A word for machines.
      type: str
      sample: candidate_lag
    member:
      description: What it is about; null for the cluster.
      type: str
      sample: db2
    result:
      description: V(ok), V(warn) or V(refuse).
      type: str
      sample: ok
    found:
      description: What was measured.
      type: str
      sample: 0 bytes not received, 0 bytes received and not replayed (limit 16 MB)
    remedy:
      description: What to do about it.
      type: str
      sample: ""
steps:
  description: The steps, with C(phase) V(prepare), V(pause) or V(after), and whether each can be undone.
  type: list
  elements: dict
  returned: unless an earlier operation was joined
  sample: [{name: pause, title: PAUSE all poolers, phase: pause, undoable: true}]
resumed:
  description: Whether an operation was joined or resumed that had been begun before.
  type: bool
  returned: when it was
  sample: true
old_primary:
  description: The primary before.
  type: str
  returned: when something was begun
  sample: db1
new_primary:
  description: The member that was to become primary.
  type: str
  returned: when something was begun
  sample: db2
old_timeline:
  description: Timeline before.
  type: int
  returned: when something was begun
  sample: 3
new_timeline:
  description: Timeline after; null where nothing was promoted.
  type: int
  returned: when something was begun
  sample: 4
shutdown_checkpoint:
  description: Where the old primary's shutdown checkpoint begins.
  type: str
  returned: when something was begun
  sample: 0/5000028
switchpoint:
  description: Where it ends, and where the new timeline begins.
  type: str
  returned: when something was begun
  sample: 0/50000A0
pause_ms:
  description: How long clients were held, in milliseconds.
  type: float
  returned: when something was begun
  sample: 131.9
started:
  description: When the operation began, ISO 8601 in UTC.
  type: str
  returned: when something was begun
  sample: "2026-11-21T09:01:02.003+00:00"
ended:
  description: When it ended.
  type: str
  returned: when something was begun
  sample: "2026-11-21T09:01:02.561+00:00"
seconds:
  description: The time between.
  type: float
  returned: when something was begun
  sample: 0.558
timings:
  description: Each step with its beginning and length in milliseconds.
  type: list
  elements: dict
  returned: when something was begun
  sample: [{name: pause, result: done, at_ms: 80.8, ms: 10.0}]
view:
  description: The cluster afterwards, as M(dbops.fleet.cluster_info) describes one.
  type: dict
  returned: when something was begun
  sample: {primary: db2, members: [], report: ["orders: healthy, primary db2, timeline 4"]}
journal:
  description: Path of the journal.
  type: str
  returned: when something was begun
  sample: /var/lib/dbops-fleet/switchover/orders/20261121T090102.jsonl
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover import replica_promote

MEMBER = {
    "name": {"type": "str", "required": True},
    "address": {"type": "str", "required": True},
    "port": {"type": "int", "default": 5432},
    "priority": {"type": "int", "default": 100},
}

POOLER = {
    "name": {"type": "str", "required": True},
    "host": {"type": "str", "required": True},
    "port": {"type": "int", "default": 6432},
    "databases": {"type": "list", "elements": "str", "required": True},
    "process": {"type": "str"},
}


def main() -> None:
    """Wire the options to the operation."""
    module = AnsibleModule(
        argument_spec={
            "cluster": {"type": "str", "required": True},
            "member": {"type": "str", "required": True},
            "members": {"type": "list", "elements": "dict", "required": True, "options": MEMBER},
            "candidate": {"type": "str"},
            "poolers": {"type": "list", "elements": "dict", "default": [], "options": POOLER},
            "operation": {"type": "str"},
            "instances": {"type": "dict", "default": {}},
            "version": {"type": "int", "required": True},
            "instance": {"type": "str", "default": "main"},
            "data_directory": {"type": "path"},
            "binaries": {"type": "path"},
            "port": {"type": "int"},
            "socket_directory": {"type": "path"},
            "pause_seconds": {"type": "float", "default": 5.0},
            "drain_seconds": {"type": "float", "default": 2.0},
            "follow_seconds": {"type": "float", "default": 60.0},
            "dead_man_seconds": {"type": "float", "default": 15.0},
            "max_lag_mb": {"type": "int", "default": 16},
            "terminate_writers": {"type": "bool", "default": False},
            "accept_slot_loss": {"type": "bool", "default": False},
            "accept_session_mode": {"type": "bool", "default": False},
            "conninfos": {"type": "dict", "default": {}},
            "console_user": {"type": "str", "default": "fleet_operator"},
            "passfile": {"type": "path", "default": "/etc/dbops-fleet/pgpass"},
            "sslmode": {
                "type": "str",
                "choices": ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
                "default": "verify-full",
            },
            "sslrootcert": {"type": "path", "default": "/etc/dbops-fleet/ca.crt"},
            "state_directory": {"type": "path", "default": "/var/lib/dbops-fleet"},
            "lock_directory": {"type": "path", "default": "/run/dbops-fleet"},
        },
        supports_check_mode=True,
    )
    adapter.run(module, replica_promote)


if __name__ == "__main__":
    main()

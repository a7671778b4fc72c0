#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: a data directory from a running member of the cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_basebackup_restore
short_description: Clone a PostgreSQL replica from a running member of its cluster
version_added: 0.1.0
description:
  - The data directory is a member of the source's cluster, ready to start as its standby. A data directory that is one
    already is left alone, whatever its role.
  - Refuses a directory that is not empty and belongs to another cluster, or to nobody that this module knows, and
    everything that would make the copy fail later (reachability, passwords, versions, slot, WAL senders, disk space),
    before the first byte is copied.
  - The copy grows in C(<data_directory>.dbops-clone) and is renamed into place when it is complete, verified and
    flushed to disk. Only where the data directory is a mount point is it written in place.
  - A process of its own on the host does the work. It goes on when Ansible is killed; the next run waits for it. What a
    failed or killed clone has left is recognised by C(<data_directory>.dbops-clone.json), removed and made anew.
  - While it runs, a line of progress is printed on the terminal every ten seconds.
author:
  - dbops.fleet contributors (@dbops)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    details: Makes all checks, on the source too, and returns the steps.
  diff_mode:
    support: full
  platform:
    platforms: posix
options:
  state:
    description: V(cloned) copies from the running server O(source).
    type: str
    choices: [cloned]
    default: cloned
  data_directory:
    description: The data directory. Absent or empty, or a member of the cluster already.
    type: path
    required: true
  version:
    description: Major version of PostgreSQL.
    type: int
    required: true
  bin_directory:
    description: Where the programs of that version are. C(/usr/lib/postgresql/<version>/bin) if not given.
    type: path
  member:
    description: Name of the new replica in its cluster; its C(application_name) when it streams.
    type: str
    required: true
  source:
    description: The running member to clone, and how to reach it from this host.
    type: dict
    required: true
    suboptions:
      host:
        description: Address or name, as its certificate has it.
        type: str
        required: true
      port:
        description: Port.
        type: int
        default: 5432
      user:
        description: Role with C(REPLICATION). It copies, and the replica streams as this role.
        type: str
        default: fleet_replication
      query_user:
        description: Role with the rights of C(pg_monitor) for the checks before the copy.
        type: str
        default: fleet_operator
      dbname:
        description: Database for the checks.
        type: str
        default: postgres
      sslmode:
        description: As libpq has it.
        type: str
        choices: [disable, allow, prefer, require, verify-ca, verify-full]
        default: verify-full
      sslrootcert:
        description: Certificates of the authorities that are trusted.
        type: path
      passfile:
        description: Password file in PostgreSQL's format that O(owner) can read, with lines for both roles.
        type: path
  slot:
    description:
      - Physical replication slot on the source for the replica.
      - Made if it is missing. A slot that the clone has made is dropped when the clone fails.
    type: str
  expected_system_identifier:
    description: The cluster's system identifier, if it is known. A source or directory of another cluster is refused.
    type: str
  recovery_min_apply_delay:
    description: Makes a delayed replica, such as V(1h).
    type: str
  tablespaces:
    description: Directory of a tablespace on the source to its directory here. Others lie where they do on the source.
    type: dict
    default: {}
  max_rate:
    description: Limit of the transfer per second, in kilobytes or such as V(100M).
    type: str
  checkpoint:
    description: V(fast) starts at once, V(spread) spares the source's disks and waits for its next checkpoint.
    type: str
    choices: [fast, spread]
    default: fast
  verify:
    description:
      - Compare every file with the backup manifest (C(pg_verifybackup)) before it is put in place.
      - Reads the whole copy once more, about one second per gigabyte while it is in memory. For terabytes, weigh it.
    type: bool
    default: true
  stall_timeout:
    description: Seconds without a byte from the source after which the copy is given up.
    type: int
    default: 600
  owner:
    description: Owner of the data directory.
    type: str
    default: postgres
  group:
    description: Group of the data directory.
    type: str
    default: postgres
  wait:
    description:
      - Seconds to wait for the end. The clone goes on after that, and RV(finished) is V(false).
      - Waits until the end if not given.
    type: float
  follow:
    description: Only wait for the clone with this RV(operation_id), and fail if it did. Never starts one.
    type: str
notes:
  - Start the replica and see it stream afterwards; this module only provides the data directory and its settings.
  - The time limit of a task (C(timeout)) ends the waiting, not the clone.
seealso:
  - module: dbops.fleet.pg_basebackup_restore_info
"""

EXAMPLES = r"""
- name: Clone the replica from the primary
  dbops.fleet.pg_basebackup_restore:
    data_directory: /var/lib/postgresql/17/main
    version: 17
    member: db2
    slot: db2
    source:
      host: 10.0.0.11
      sslrootcert: /etc/dbops-fleet/ca.crt
      passfile: /etc/dbops-fleet/pgpass

- name: Start a clone now and look for it later
  dbops.fleet.pg_basebackup_restore:
    data_directory: /var/lib/postgresql/17/main
    version: 17
    member: db3
    source:
      host: 10.0.0.12
      sslrootcert: /etc/dbops-fleet/ca.crt
      passfile: /etc/dbops-fleet/pgpass
    max_rate: 100M
    wait: 0
"""

RETURN = r"""
action:
  description: >-
    What was done, or in check mode would be: V(nothing), V(clone), V(finish) (a complete copy was carried on)
    or V(join) (a running clone was waited for).
  returned: success
  type: str
  sample: clone
steps:
  description: The plan in sentences.
  returned: success
  type: list
  elements: str
  sample: [Copy 5.2 GB from 10.0.0.11 to /var/lib/postgresql/17/main.dbops-clone.]
finished:
  description: Whether the data directory is complete.
  returned: always
  type: bool
  sample: true
system_identifier:
  description: Of the cluster.
  returned: success
  type: str
  sample: "7412345678901234567"
operation_id:
  description: Name of the clone, for O(follow).
  returned: when a clone was started or joined
  type: str
  sample: 0e3fd1c0a7e04f5f9a3bb9d3a4f0c7a1
phase:
  description: V(preparing), V(copying), V(verifying), V(placing), V(finished) or V(failed).
  returned: when a clone was started or joined
  type: str
  sample: copying
percent:
  description: Share of the bytes that is copied.
  returned: when a clone was started or joined
  type: int
  sample: 42
bytes_done:
  description: Bytes copied.
  returned: when a clone was started or joined
  type: int
  sample: 2184000000
bytes_total:
  description: Bytes to copy, as the source estimates them.
  returned: when a clone was started or joined
  type: int
  sample: 5200000000
mb_per_second:
  description: Average rate in megabytes per second; null when nothing is being copied.
  returned: when a clone was started or joined
  type: float
  sample: 181.3
eta_seconds:
  description: Time left at that rate; null when nothing is being copied.
  returned: when a clone was started or joined
  type: int
  sample: 17
elapsed_seconds:
  description: Time since the start.
  returned: when a clone was started or joined
  type: float
  sample: 12.4
kept_directory:
  description: Where the data directory that was there before is kept, for operations that replace it.
  returned: when a clone was started or joined
  type: str
  sample: null
data_directory:
  description: The data directory, links resolved.
  returned: success
  type: str
  sample: /var/lib/postgresql/17/main
bytes_needed:
  description: Room that is needed on the filesystem.
  returned: refusal for lack of space
  type: int
  sample: 5460000000
bytes_free:
  description: Room that there is on the filesystem.
  returned: refusal for lack of space
  type: int
  sample: 1200000000
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.clone.run import cloned


def main() -> None:
    """Wire the options to the operation."""
    source_options = {
        "host": {"type": "str", "required": True},
        "port": {"type": "int", "default": 5432},
        "user": {"type": "str", "default": "fleet_replication"},
        "query_user": {"type": "str", "default": "fleet_operator"},
        "dbname": {"type": "str", "default": "postgres"},
        "sslmode": {
            "type": "str",
            "choices": ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
            "default": "verify-full",
        },
        "sslrootcert": {"type": "path"},
        # A path, no password.
        "passfile": {"type": "path", "no_log": False},
    }
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["cloned"], "default": "cloned"},
            "data_directory": {"type": "path", "required": True},
            "version": {"type": "int", "required": True},
            "bin_directory": {"type": "path"},
            "member": {"type": "str", "required": True},
            "source": {"type": "dict", "required": True, "options": source_options},
            "slot": {"type": "str"},
            "expected_system_identifier": {"type": "str"},
            "recovery_min_apply_delay": {"type": "str"},
            "tablespaces": {"type": "dict", "default": {}},
            "max_rate": {"type": "str"},
            "checkpoint": {"type": "str", "choices": ["fast", "spread"], "default": "fast"},
            "verify": {"type": "bool", "default": True},
            "stall_timeout": {"type": "int", "default": 600},
            "owner": {"type": "str", "default": "postgres"},
            "group": {"type": "str", "default": "postgres"},
            "wait": {"type": "float"},
            "follow": {"type": "str"},
        },
        supports_check_mode=True,
    )
    adapter.run(module, cloned)


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: a data directory from a base backup and the WAL archive."""

from __future__ import annotations

DOCUMENTATION = r"""
module: base_backup_restore
short_description: Restore a PostgreSQL data directory from a repository to a point in time
version_added: 0.1.0
description:
  - Makes a data directory that has been replayed to the target, promoted and cleanly stopped. Starting it is left to
    the caller.
  - Refuses, before anything is written, a target that cannot be reached (and says what can), a directory that is not
    empty, one that a server runs in, and one without enough room.
  - Replay counts when it reached what was asked for. A server whose archive fails on the way is never promoted.
  - One restore into a directory at a time. One whose caller was killed goes on; the next call waits for it and returns
    its report. What a restore that was killed itself has left in O(directory) is carried on with.
author:
  - dbops.fleet contributors (@dbops)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - dbops.fleet.engine
  - dbops.fleet.engine.directory
  - dbops.fleet.engine.cluster
  - dbops.fleet.engine.owner
  - dbops.fleet.recovery_target
attributes:
  check_mode:
    support: full
    details: Makes all checks and returns the plan.
  diff_mode:
    support: full
  platform:
    platforms: debian
options:
  repository:
    description: Restore from this one. The first that can be opened if not given.
    type: str
  directory:
    description: The new data directory. Absent (its parent belongs to O(owner)) or empty, unless O(delta).
    type: path
    required: true
  action:
    description:
      - V(scratch) makes a copy and never writes to the repository.
      - V(promote) makes a new primary and claims its timeline in the repository. Refused while the newest WAL there is
        minutes old, unless O(confirm) names the cluster.
      - V(standby) only places the files, with C(standby.signal).
    type: str
    choices: [scratch, promote, standby]
    default: scratch
  confirm:
    description: Name of the cluster, for O(action=promote). It is lost, although its newest WAL is minutes old.
    type: str
  tablespaces:
    description: Directory of a tablespace at the time of the backup, or its oid, to its directory here.
    type: dict
    default: {}
  configuration:
    description: Directory for the files of C(/etc/postgresql) that are in the backup. They are left out if not given.
    type: path
  delta:
    description: Use what lies in O(directory), and overwrite and delete what differs. Only over a data directory.
    type: bool
    default: false
seealso:
  - module: dbops.fleet.base_backup
  - module: dbops.fleet.base_backup_info
"""

EXAMPLES = r"""
- name: A copy as it was before the accident
  dbops.fleet.base_backup_restore:
    directory: /var/lib/postgresql/17/before
    target: time
    value: "2026-03-01 14:29:00+01:00"

- name: A new primary from the newest state
  dbops.fleet.base_backup_restore:
    directory: /var/lib/postgresql/17/main
    action: promote
    confirm: orders
"""

RETURN = r"""
repository:
  description: Which one was restored from.
  type: str
  returned: success
system_identifier:
  description: Of the cluster.
  type: str
  returned: success
resumed:
  description: Whether what lay in the directory was used.
  type: bool
  returned: success
plan:
  description: What would be done, in check mode.
  type: dict
  returned: success
  sample:
    backup: 20260301-020000F
    backup_time: 2026-03-01 02:01:00 UTC
    wal_to: 0/9000000
    newest_wal_time: 2026-03-01 14:30:02 UTC
    size: 5368709120
report:
  description: What was done; null in check mode.
  type: dict
  returned: success
  sample:
    backup: 20260301-020000F
    replayed_to: 0/8FFFF10
    last_commit: 2026-03-01 14:29:58 UTC
    last_commit_age_seconds: 92.4
    new_timeline: 4
    copy_seconds: 12.5
    replay_seconds: 4.1
    seconds: 17.2
reachable:
  description: What can be restored, when the target cannot.
  type: list
  elements: str
  returned: when the target cannot be reached
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore import operation


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config_file": {"type": "path", "default": "/etc/dbops-fleet/backup.json"},
            "engine_directory": {"type": "path", "default": "/usr/lib/dbops-fleet"},
            "repository": {"type": "str"},
            "system_identifier": {"type": "int"},
            "directory": {"type": "path", "required": True},
            "target": {
                "type": "str",
                "choices": ["latest", "immediate", "time", "lsn", "xid", "name"],
                "default": "latest",
            },
            "value": {"type": "str"},
            "timeline": {"type": "str", "default": "latest"},
            "backup": {"type": "str"},
            "action": {"type": "str", "choices": ["scratch", "promote", "standby"], "default": "scratch"},
            "confirm": {"type": "str"},
            "tablespaces": {"type": "dict", "default": {}},
            "configuration": {"type": "path"},
            "delta": {"type": "bool", "default": False},
            "owner": {"type": "str", "default": "postgres"},
        },
        supports_check_mode=True,
    )
    adapter.run(module, operation.restore)


if __name__ == "__main__":
    main()

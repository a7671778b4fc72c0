#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: a base backup in every repository."""

from __future__ import annotations

DOCUMENTATION = r"""
module: base_backup
short_description: Take a base backup of the PostgreSQL instance on this host
version_added: 0.1.0
description:
  - Every configured repository gets a backup that is complete in itself. Only what the repository does not have yet is
    sent; see O(full).
  - It is listed when everything that a restore needs is in the repository, its WAL too. Broken off, it leaves nothing
    listed.
  - Refuses a server that does not archive its WAL or whose archiving fails, and a second backup at the same time.
  - Runs on a primary or on a standby. Started as root it acts as the owner of the data directory.
author:
  - dbops.fleet contributors (@dbops)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - dbops.fleet.engine
attributes:
  check_mode:
    support: full
    details: Tells which backups would be taken, after the checks that a real run makes first.
  diff_mode:
    support: full
  platform:
    platforms: debian
options:
  repository:
    description: Take it into this repository alone.
    type: str
  max_age_hours:
    description: Take none where the newest sound backup is younger. V(0) takes one in any case.
    type: float
    default: 0.0
  full:
    description: Use nothing of earlier backups.
    type: bool
    default: false
  checkpoint:
    description: V(fast) starts at once, V(spread) spares the disks and waits for the next checkpoint.
    type: str
    choices: [fast, spread]
    default: fast
  wal_timeout:
    description: Seconds that the WAL of the backup may take to arrive in the repository.
    type: float
    default: 600.0
seealso:
  - module: dbops.fleet.base_backup_info
  - module: dbops.fleet.base_backup_restore
  - module: dbops.fleet.wal_archive
"""

EXAMPLES = r"""
- name: Take a base backup now
  dbops.fleet.base_backup:

- name: Have one that is not older than a day
  dbops.fleet.base_backup:
    max_age_hours: 24
"""

RETURN = r"""
results:
  description: One entry for each repository; after a failure one for each that did not fail.
  type: list
  elements: dict
  returned: success, or failure in a repository
  contains:
    repository:
      description: Its name.
      type: str
      sample: main
    taken:
      description: Whether a backup was taken, or in check mode would be.
      type: bool
    plan:
      description: Which kind of backup; empty where none was taken.
      type: str
      sample: incremental to 20260301-020000F
    backup:
      description: The catalogue entry of the new backup, or of the recent one; null in check mode.
      type: dict
      sample: {id: 20260302-020000I, size: 5368709120, sent: 53687091, timeline: 3}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.repository.backup import operation


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config_file": {"type": "path", "default": "/etc/dbops-fleet/backup.json"},
            "repository": {"type": "str"},
            "max_age_hours": {"type": "float", "default": 0.0},
            "full": {"type": "bool", "default": False},
            "checkpoint": {"type": "str", "choices": ["fast", "spread"], "default": "fast"},
            "wal_timeout": {"type": "float", "default": 600.0},
        },
        supports_check_mode=True,
    )
    adapter.run(module, operation.ensure)


if __name__ == "__main__":
    main()

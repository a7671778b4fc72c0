#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: what a repository offers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: base_backup_info
short_description: List the base backups of a repository, and what can be restored from them
version_added: 0.1.0
description:
  - Reads the repository alone, so it also works where no data directory is left. Changes nothing.
author:
  - dbops.fleet contributors (@dbops)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - dbops.fleet.engine
  - dbops.fleet.engine.cluster
  - dbops.fleet.engine.owner
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: debian
options:
  repository:
    description: Read this one. The first that can be opened if not given.
    type: str
seealso:
  - module: dbops.fleet.base_backup
  - module: dbops.fleet.base_backup_restore
"""

EXAMPLES = r"""
- name: See what the repository offers
  dbops.fleet.base_backup_info:
  register: offered

- name: Stop when the newest backup is older than a day
  ansible.builtin.assert:
    that: offered.backups[-1].stop_time > now().timestamp() - 86400
"""

RETURN = r"""
repository:
  description: Which one was read.
  type: dict
  returned: success
  sample: {name: main, address: /srv/backup/orders}
system_identifier:
  description: Of the cluster.
  type: str
  returned: success
  sample: "7300000000000000000"
version:
  description: Major version of PostgreSQL.
  type: int
  returned: success
  sample: 17
other_systems:
  description:
    - Other systems of this cluster that have backups in the repository, the newest last.
    - A major upgrade or a new C(initdb) gives a cluster another system identifier.
  type: list
  elements: dict
  returned: success
  sample:
    - {system_identifier: "7200000000000000000", version: 15, backups: 9, newest: 20251102-020000F}
backups:
  description: Complete backups, oldest first. Times are seconds since the epoch.
  type: list
  elements: dict
  returned: success
  sample:
    - id: 20260301-020000F
      stop_time: 1772330460.5
      stop_time_shown: 2026-03-01 02:01:00 UTC
      timeline: 3
      size: 5368709120
      verified: {how: drill, good: true}
unfinished:
  description: Backups that are running, or were broken off.
  type: list
  elements: str
  returned: success
reachable:
  description: For each backup, newest first, what can be restored from it.
  type: list
  elements: dict
  returned: success
  sample:
    - backup: 20260301-020000F
      from_lsn: 0/3000120
      from_time: 2026-03-01 02:01:00 UTC
      to_lsn: 0/9000000
      to_time: 2026-03-01 14:30:02 UTC
      to_time_seconds: 1772375402.1
      timeline: 3
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.repository.backup import operation


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config_file": {"type": "path", "default": "/etc/dbops-fleet/backup.json"},
            "repository": {"type": "str"},
            "system_identifier": {"type": "int"},
            "owner": {"type": "str", "default": "postgres"},
        },
        supports_check_mode=True,
    )
    adapter.run(module, operation.read)


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: pg_dump into every repository."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_dump
short_description: Dump databases of the PostgreSQL instance on this host into the repositories
version_added: 0.1.0
description:
  - Streams pg_dump's custom format into every configured repository, without a file in between, compressed, and
    encrypted where the repository is. What did not change since the last dump of the same choice is not sent again.
  - A dump is listed when it is complete. Broken off, it leaves nothing listed.
  - Retention, checks and pins are those of base backups. Base backups and WAL cover every loss already; dumps are for
    moving data to other versions and for single databases that must be kept for long.
  - Started as root it acts as the owner of the data directory.
author:
  - dbops.fleet contributors (@dbops)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - dbops.fleet.engine
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: debian
options:
  state:
    description: V(present) has a dump, V(absent) takes O(dump) out of the catalogue; its data go with the next
      C(dbops expire).
    type: str
    choices: [present, absent]
    default: present
  dump:
    description: The dump that is to go. Needed with O(state=absent).
    type: str
  databases:
    description: Only these. All that take connections and are no templates if empty.
    type: list
    elements: str
    default: []
  globals:
    description: Roles and tablespaces as well, as pg_dumpall has them.
    type: bool
    default: true
  globals_only:
    description: Roles and tablespaces alone.
    type: bool
    default: false
  role_passwords:
    description: With the roles' password hashes. A dump is given to others more easily than a base backup, so they
      are left out.
    type: bool
    default: false
  max_age_hours:
    description: Take none where the newest sound dump of the same choice is younger. V(0) takes one in any case.
    type: float
    default: 0.0
  repository:
    description: This repository alone.
    type: str
seealso:
  - module: dbops.fleet.database_dump_info
  - module: dbops.fleet.database_dump_restore
  - module: dbops.fleet.base_backup
"""

EXAMPLES = r"""
- name: Dump everything before the upgrade
  dbops.fleet.database_dump:
    role_passwords: true

- name: Have a dump of one database that is not older than a day
  dbops.fleet.database_dump:
    databases: [orders]
    globals: false
    max_age_hours: 24

- name: Forget a dump
  dbops.fleet.database_dump:
    state: absent
    dump: 20260301-030000D
"""

RETURN = r"""
results:
  description: One entry for each repository.
  type: list
  elements: dict
  returned: success
  contains:
    repository:
      description: Its name.
      type: str
      sample: main
    taken:
      description: Whether a dump was taken, or in check mode would be.
      type: bool
    removed:
      description: Whether the dump was there, with O(state=absent).
      type: bool
    dump:
      description: The catalogue entry of the new dump, or of the recent one; null in check mode.
      type: dict
      sample: {id: 20260301-030000D, size: 5368709120, sent: 53687091, globals: true}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump import operation


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "dump": {"type": "str"},
            "databases": {"type": "list", "elements": "str", "default": []},
            "globals": {"type": "bool", "default": True},
            "globals_only": {"type": "bool", "default": False},
            # Whether to dump them: no secret itself.
            "role_passwords": {"type": "bool", "default": False, "no_log": False},
            "max_age_hours": {"type": "float", "default": 0.0},
            "repository": {"type": "str"},
            "config_file": {"type": "path", "default": "/etc/dbops-fleet/backup.json"},
        },
        required_if=[("state", "absent", ["dump"])],
        supports_check_mode=True,
    )
    adapter.run(module, operation.ensure)


if __name__ == "__main__":
    main()

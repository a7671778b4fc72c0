#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: a dump out of a repository into the running server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_dump_restore
short_description: Load a dump from a repository into a new database of the instance on this host
version_added: 0.1.0
description:
  - Streams the dump into pg_restore. The new database has another name until it is complete, and is dropped when the
    load fails.
  - What M(dbops.fleet.base_backup_extract) took out of a schema is loaded into a new schema of the existing database,
    in one transaction.
  - Nothing that is there is overwritten. A database in the way is refused, or with O(replace) renamed.
  - Loaded already by a run before, the same dump is not loaded again.
author:
  - dbops.fleet contributors (@dbops)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - dbops.fleet.engine
  - dbops.fleet.engine.cluster
attributes:
  check_mode:
    support: full
    details: Makes all checks and returns the plan.
  diff_mode:
    support: full
  platform:
    platforms: debian
options:
  dump:
    description: Its id. The newest sound one that has O(database) if not given.
    type: str
  database:
    description: Which one, where the dump has several.
    type: str
  into:
    description:
      - Name of the new database. The old one's with C(_restored) behind it if not given.
      - Of a part of a database, the existing database that gets the new schema; the old one's name if not given.
    type: str
  replace:
    description: Rename a database called O(into) out of the way, ending its sessions. It is not deleted.
    type: bool
    default: false
  owners:
    description: Set owners and privileges as they were; their roles must exist.
    type: bool
    default: true
  repository:
    description: Load from this one. The first that can be opened if not given.
    type: str
seealso:
  - module: dbops.fleet.database_dump
  - module: dbops.fleet.base_backup_extract
"""

EXAMPLES = r"""
- name: The newest dump of a database beside the real one
  dbops.fleet.database_dump_restore:
    database: orders

- name: Instead of the real one, which becomes orders_before_20260301-030000D
  dbops.fleet.database_dump_restore:
    dump: 20260301-030000D
    database: orders
    into: orders
    replace: true
"""

RETURN = r"""
report:
  description: What was done, or in check mode would be.
  type: dict
  returned: success
  sample:
    dump: 20260301-030000D
    dump_time: 2026-03-01 03:00:00 UTC
    database: orders
    into: orders_restored
    schema: null
    moved_aside: null
    size: 5368709120
    tables: 42
    seconds: 97.3
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump import operation


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "dump": {"type": "str"},
            "database": {"type": "str"},
            "into": {"type": "str"},
            "replace": {"type": "bool", "default": False},
            "owners": {"type": "bool", "default": True},
            "repository": {"type": "str"},
            "system_identifier": {"type": "int"},
            "config_file": {"type": "path", "default": "/etc/dbops-fleet/backup.json"},
        },
        supports_check_mode=True,
    )
    adapter.run(module, operation.restore)


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: a database, a schema or tables out of a base backup."""

from __future__ import annotations

DOCUMENTATION = r"""
module: base_backup_extract
short_description: Take a database, a schema or tables out of a base backup, as they were at a point in time
version_added: 0.1.0
description:
  - Restores the cluster into a scratch directory, replays it to the target, dumps what is asked for from there into
    the repository, and removes the copy, also when it fails. Load the dump on the primary with
    M(dbops.fleet.database_dump_restore).
  - The copy listens on a private socket alone and cannot archive. The live server is not asked and not changed.
  - A schema or tables go into a new schema. Foreign keys that lead out of it are left out; of single tables also
    triggers and rules, which would act on live tables. What was left out is in the dump's C(origin.notes).
  - Refuses, before anything is written, a target that cannot be reached (and says what can) and a place without
    enough room.
  - Asked the same again, it returns the dump that is there. Killed, the next run goes on with the files that are there.
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
  database:
    description: Which one.
    type: str
    required: true
  schema:
    description: Only this schema. The whole database if not given.
    type: str
  tables:
    description: Only these tables of O(schema), partitioned ones with their partitions. All of it if empty.
    type: list
    elements: str
    default: []
  into_schema:
    description: Name of the new schema. The old one's with C(_restored) behind it if not given.
    type: str
  scratch:
    description: Place with room for the whole cluster, owned by O(owner). A directory in it is made and removed.
    type: path
    default: /var/lib/postgresql/drill
  repository:
    description: Restore from and dump into this one. The first that can be opened if not given.
    type: str
seealso:
  - module: dbops.fleet.database_dump_restore
  - module: dbops.fleet.base_backup_restore
"""

EXAMPLES = r"""
- name: A table as it was before the accident
  dbops.fleet.base_backup_extract:
    database: orders
    schema: public
    tables: [invoice]
    target: time
    value: "2026-03-01 14:29:00+01:00"
  register: taken

- name: Into the primary, as public_restored.invoice
  dbops.fleet.database_dump_restore:
    dump: "{{ taken.dump.id }}"
  delegate_to: db1
"""

RETURN = r"""
plan:
  description: What is restored for it. Null where it was done before.
  type: dict
  returned: success
  sample:
    what: public.invoice of orders
    new_schema: public_restored
    backup: 20260301-020000F
    wal_to: 0/9000000
    size: 5368709120
dump:
  description: The dump's catalogue entry; null in check mode.
  type: dict
  returned: success
  sample:
    id: 20260301-150000D
    size: 104857600
    origin:
      what: public.invoice of orders
      last_commit: 2026-03-01 13:28:58 UTC
      notes: [the foreign key invoice_customer_fkey of public.invoice to public.customer was left out]
reachable:
  description: What can be restored, when the target cannot.
  type: list
  elements: str
  returned: when the target cannot be reached
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump import operation


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "database": {"type": "str", "required": True},
            "schema": {"type": "str"},
            "tables": {"type": "list", "elements": "str", "default": []},
            "into_schema": {"type": "str"},
            "scratch": {"type": "path", "default": "/var/lib/postgresql/drill"},
            "target": {
                "type": "str",
                "choices": ["latest", "immediate", "time", "lsn", "xid", "name"],
                "default": "latest",
            },
            "value": {"type": "str"},
            "timeline": {"type": "str", "default": "latest"},
            "backup": {"type": "str"},
            "repository": {"type": "str"},
            "system_identifier": {"type": "int"},
            "owner": {"type": "str", "default": "postgres"},
            "config_file": {"type": "path", "default": "/etc/dbops-fleet/backup.json"},
            "engine_directory": {"type": "path", "default": "/usr/lib/dbops-fleet"},
        },
        supports_check_mode=True,
    )
    adapter.run(module, operation.extract)


if __name__ == "__main__":
    main()

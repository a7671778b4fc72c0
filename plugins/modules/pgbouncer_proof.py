#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: prove that a write through a pooler is read on every replica."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pgbouncer_proof
short_description: Prove that a write through a pooler is read on every replica
version_added: 0.1.0
description:
  - Writes one row through the pooler's read-write entry as the application would, reads it on every replica, then
    through the entry NAME_ro, which has to lead to a standby.
  - The row is the pooler's own in the table C(fleet.proof), which the role P(dbops.fleet.postgres_primary#role) makes,
    and is overwritten each time. So this never counts as a change.
  - Every login is over TLS and verifies the host.
author:
  - dbops.fleet contributors (@dbops)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    details: Everybody logs in and reads; nothing is written.
  diff_mode:
    support: none
  platform:
    platforms: debian
options:
  pooler:
    description: The pooler.
    type: dict
    required: true
    suboptions: &server
      name:
        description: Its name, for the row and for messages.
        type: str
        required: true
      host:
        description: Its address, as in its certificate.
        type: str
        required: true
      port:
        description: Its port.
        type: int
        required: true
  databases:
    description: What the pooler serves.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the database, and of the read-write entry.
        type: str
        required: true
      writer:
        description: Who writes.
        type: dict
        required: true
        suboptions: &account
          name:
            description: Role.
            type: str
            required: true
          password:
            description: Its password.
            type: str
            required: true
      reader:
        description: Who reads.
        type: dict
        required: true
        suboptions: *account
      replicas:
        description: The replicas that the entry NAME_ro is spread over. With none it has to lead to the primary.
        type: list
        elements: dict
        default: []
        suboptions: *server
  ca_file:
    description: CA that has signed the certificates of pooler and replicas.
    type: path
    default: /etc/dbops-fleet/ca.crt
  timeout:
    description: Seconds after which a row that a replica does not have is a failure.
    type: int
    default: 30
seealso:
  - module: dbops.fleet.pgbouncer_pool
"""

EXAMPLES = r"""
- name: Prove that what pool1 writes is read on both replicas
  dbops.fleet.pgbouncer_proof:
    pooler: {name: pool1, host: pool1.example.org, port: 6432}
    databases:
      - name: orders
        writer: {name: orders_app, password: "{{ orders_app_password }}"}
        reader: {name: orders_read, password: "{{ orders_read_password }}"}
        replicas:
          - {name: db2, host: db2.example.org, port: 5432}
          - {name: db3, host: db3.example.org, port: 5432}
"""

RETURN = r"""
databases:
  description: Each database with its replicas, and the seconds until each had the row; null in check mode.
  type: list
  elements: dict
  returned: success
  sample: [{name: orders, replicas: {db2: 0.012, db3: 0.009}}]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.proof import pgbouncer_proof


def main() -> None:
    server = {
        "name": {"type": "str", "required": True},
        "host": {"type": "str", "required": True},
        "port": {"type": "int", "required": True},
    }
    account = {
        "name": {"type": "str", "required": True},
        "password": {"type": "str", "required": True, "no_log": True},
    }
    module = AnsibleModule(
        argument_spec={
            "pooler": {"type": "dict", "required": True, "options": server},
            "databases": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "writer": {"type": "dict", "required": True, "options": account},
                    "reader": {"type": "dict", "required": True, "options": account},
                    "replicas": {"type": "list", "elements": "dict", "default": [], "options": server},
                },
            },
            "ca_file": {"type": "path", "default": "/etc/dbops-fleet/ca.crt"},
            "timeout": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    adapter.run(module, pgbouncer_proof)


if __name__ == "__main__":
    main()

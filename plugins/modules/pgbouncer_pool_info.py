#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: facts of PgBouncer processes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pgbouncer_pool_info
short_description: Read what PgBouncer processes are doing
version_added: 0.1.0
description:
  - Reads version, databases, pools, settings, clients, servers and statistics from the admin console of each process.
  - A process that does not answer is reported in RV(unreachable_endpoints) and does not fail the module.
author:
  - dbops.fleet contributors (@dbops)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - dbops.fleet.endpoints
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: posix
requirements:
  - psycopg 3
options:
  config_file:
    description: The main file; its socket is used if O(endpoints) is empty.
    type: path
    default: /etc/pgbouncer/pgbouncer.ini
  timeout_seconds:
    description: How long to wait for the logins, and again for each answer.
    type: float
    default: 5
seealso:
  - module: dbops.fleet.pgbouncer_pool
"""

EXAMPLES = r"""
- name: Read the pooler of this host
  dbops.fleet.pgbouncer_pool_info:
  register: pooler

- name: Fail when clients wait for a connection
  ansible.builtin.assert:
    that: (pooler.endpoints | dict2items | map(attribute='value.pools') | flatten | sum(attribute='cl_waiting')) == 0
    fail_msg: Clients are waiting.

- name: Read two processes on another host
  dbops.fleet.pgbouncer_pool_info:
    endpoints:
      - name: pool1
        host: 10.1.0.21
        user: fleet_monitor
        passfile: /etc/dbops-fleet/pgpass
        sslrootcert: /etc/dbops-fleet/ca.crt
      - name: pool2
        host: 10.1.0.22
        user: fleet_monitor
        passfile: /etc/dbops-fleet/pgpass
        sslrootcert: /etc/dbops-fleet/ca.crt
"""

RETURN = r"""
endpoints:
  description:
    - Facts of each process by its name. Columns keep PgBouncer's names; what a version does not have is V(null).
    - A process of this host that takes clients at the same port and was not named is there, by its socket, as an error.
  returned: success
  type: dict
  contains:
    reachable:
      description: Whether the console answered.
      type: bool
    error:
      description: Why it did not.
      type: str
    version:
      description: Version of PgBouncer.
      type: str
    globally_paused:
      description: Whether a PAUSE or SUSPEND without a database is in force, which C(SHOW DATABASES) does not show.
      type: bool
    databases:
      description: SHOW DATABASES by name.
      type: dict
    pools:
      description: SHOW POOLS.
      type: list
    settings:
      description: SHOW CONFIG by name, each with value, default and changeable.
      type: dict
    clients:
      description: Number of clients by database and state.
      type: dict
    servers:
      description: Number of server connections by database and state.
      type: dict
    stats:
      description: SHOW STATS by database.
      type: dict
    lists:
      description: SHOW LISTS.
      type: dict
  sample:
    pool1:
      reachable: true
      version: 1.24.1
      globally_paused: false
      databases: {orders: {host: 10.1.0.11, port: 5432, dbname: orders, paused: false}}
      clients: {orders: {active: 12, waiting: 0}}
unreachable_endpoints:
  description: Names of the processes that did not answer.
  returned: success
  type: list
  elements: str
  sample: []
deadmen:
  description: Operations whose dead-man runs on this host; see O(dbops.fleet.pgbouncer_pool#module:max_pause_seconds).
  returned: success
  type: list
  elements: str
  sample: [switchover-orders]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.commands import gather
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.options import CONSOLE_OPTIONS


def main() -> None:
    """Wire the options to the operation."""
    adapter.run(AnsibleModule(argument_spec=CONSOLE_OPTIONS, supports_check_mode=True), gather)


if __name__ == "__main__":
    main()

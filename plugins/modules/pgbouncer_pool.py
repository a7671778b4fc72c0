#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: PgBouncer's files and its admin console."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pgbouncer_pool
short_description: Manage PgBouncer's databases, users and settings, and pause, resume or reload it
version_added: 0.1.0
description:
  - With O(state=present) or O(state=absent), the files hold what is given, and every running process goes by them.
    New files are tried in a PgBouncer of their own before anything is written. C(RELOAD) is issued only when something
    changed, or when a process does not go by its files, and its effect is verified, because PgBouncer says yes to
    C(RELOAD) even of files that it cannot read.
  - What PgBouncer has loaded and tells nobody, such as passwords, is noted in C(/var/lib/dbops-fleet/pgbouncer). A
    C(RELOAD) that was missed, because a run was killed or files were changed by others, is made up for.
  - Processes that go by O(config_file) and are not among O(endpoints), because they were started for another port or
    number, are reloaded too, and reported in RV(surplus_processes).
  - O(state=staged) and O(state=settled) do so around a change of roles.
  - With the other states, it acts on the databases at all processes together. O(state=paused) pauses all or none.
  - Refuses files that PgBouncer would not take, databases that PgBouncer does not know, and to pause pools in session
    mode unless told.
author:
  - dbops.fleet contributors (@dbops)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - dbops.fleet.endpoints
attributes:
  check_mode:
    support: full
    details: In check mode new files are not tried in a PgBouncer of their own.
  diff_mode:
    support: full
    details: Passwords are masked.
  platform:
    platforms: posix
requirements:
  - psycopg 3
options:
  state:
    description:
      - V(present) and V(absent) are about files; V(absent) takes out the databases and users that are named.
      - V(paused) waits for transactions to end and then holds clients, everywhere or nowhere.
      - V(resumed) lets them go, and stops the dead-man of O(operation).
      - V(killed) disconnects clients and servers at once and leaves the databases paused.
      - V(reloaded) has the files read again, V(reconnected) replaces server connections as they become free.
      - V(armed) starts the dead-man of O(operation) without pausing, V(disarmed) stops it.
      - V(staged) is for a change of roles. It logs in to each server that O(databases) names alone, as PgBouncer would,
        writes the files as V(present) but tells no process, and starts the dead-man of O(operation). When that has to
        end a pause, it has the files read first if the server that they name is a primary by then.
        One operation at a time can have servers staged for databases of its own. As long as it has, states that would
        have the files read for other databases wait half a minute and then refuse.
      - V(settled) is V(present), and then stops the dead-man of O(operation).
    type: str
    choices: [present, absent, paused, resumed, killed, reloaded, reconnected, armed, disarmed, staged, settled]
    default: present
  databases:
    description:
      - The databases as clients name them. For states that only act at the console just the names count. Not given, all
        databases are meant there; an empty list, of somebody who knows of none, is refused.
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - Name that clients use. Files can only hold letters, digits and C(_.-), and V(*) for all others. Use
            O(databases[].dbname) for a database with another name.
        type: str
        required: true
      state:
        description: Whether it shall be there.
        type: str
        choices: [present, absent]
        default: present
      host:
        description:
          - Addresses of the servers. Give one for a database that is written to. Several are used in turn, which is for
            reading only.
        type: list
        elements: str
        default: []
      port:
        description: Port of the servers.
        type: int
      dbname:
        description: The database on the server, if it has another name.
        type: str
      user:
        description: Log in to the server as this user, whoever the client is.
        type: str
      password:
        description: Its password.
        type: str
      auth_user:
        description: User that runs C(auth_query) for this database.
        type: str
      pool_mode:
        description: Pool mode.
        type: str
        choices: [session, transaction, statement]
      pool_size:
        description: Server connections per user.
        type: int
      min_pool_size:
        description: Server connections to keep open.
        type: int
      reserve_pool:
        description: Further server connections for clients that wait too long.
        type: int
      max_db_connections:
        description: Server connections of all users together.
        type: int
      connect_query:
        description: Query to run in every new server connection.
        type: str
      application_name:
        description: Application name to set.
        type: str
      client_encoding:
        description: Encoding to ask for.
        type: str
      timezone:
        description: Time zone to set.
        type: str
      load_balance_hosts:
        description: How several hosts are used. PgBouncer 1.24 and newer.
        type: str
        choices: [disable, round-robin]
  purge_databases:
    description: Take out databases that are not named.
    type: bool
    default: false
  users:
    description: Users with passwords in the userlist, or with limits of their own.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the user.
        type: str
        required: true
      state:
        description: Whether it shall be there.
        type: str
        choices: [present, absent]
        default: present
      password:
        description: Password or SCRAM secret. A password that PgBouncer itself logs in with must be plain.
        type: str
      pool_mode:
        description: Pool mode for this user.
        type: str
        choices: [session, transaction, statement]
      max_user_connections:
        description: Server connections for this user.
        type: int
  purge_users:
    description: Take out users that are not named.
    type: bool
    default: false
  settings:
    description:
      - Settings of the section C([pgbouncer]). Booleans become C(1) and C(0), lists are joined by commas.
      - Those that only a restart brings are written and reported in RV(restart_required). The module never restarts.
    type: dict
    default: {}
  purge_settings:
    description: Take out settings that are not named, so that PgBouncer's defaults hold.
    type: bool
    default: false
  config_file:
    description: The main file.
    type: path
    default: /etc/pgbouncer/pgbouncer.ini
  databases_file:
    description: File for the databases; the main file includes it. The main file itself, if not given.
    type: path
  userlist_file:
    description: File for the passwords, PgBouncer's C(auth_file). Required for O(users[].password).
    type: path
  further_files:
    description:
      - What the processes read besides, written by others, such as certificates. With O(state=present), O(state=absent)
        and O(state=settled), C(RELOAD) is issued also when one of them is not as the processes have loaded it.
    type: list
    elements: path
    default: []
  open_files:
    description:
      - How many files each process shall be able to have open. A process that was started with fewer is reported in
        RV(restart_required), as C(LimitNOFILE), the word of its unit.
    type: int
  endpoints:
    description:
      - The admin consoles, one per PgBouncer process. If empty, the unix socket that O(config_file) names.
      - With O(state=present), those on this host that do not run are left out.
  budget_seconds:
    description:
      - For O(state=paused), how long to wait for transactions to end. Clients that come later wait as well. After it
        everything is resumed and the module fails, naming the clients that it waited for.
    type: float
    default: 5
  max_pause_seconds:
    description:
      - For O(state=paused), O(state=killed), O(state=armed) and O(state=staged), how long a database may stay paused
        before a program beside the pooler, the dead-man, resumes it. V(0) leaves it to the one that runs, such as
        O(state=staged)'s; without one, nothing does.
      - It needs unix sockets in O(endpoints).
    type: float
    default: 300
  operation:
    description: Name of the dead-man.
    type: str
    default: manual
  accept_session_mode:
    description: Pause pools in session mode too. PAUSE then waits until their clients disconnect.
    type: bool
    default: false
  timeout_seconds:
    description: How long to wait for logins and for answers other than that of PAUSE.
    type: float
    default: 5
seealso:
  - module: dbops.fleet.pgbouncer_pool_info
"""

EXAMPLES = r"""
- name: A read-write and a read-only entry, and settings
  dbops.fleet.pgbouncer_pool:
    databases_file: /etc/pgbouncer/fleet-databases.ini
    databases:
      - {name: orders, host: [10.1.0.11], port: 5432}
      - {name: orders_ro, host: [10.1.0.12, 10.1.0.13], port: 5432, dbname: orders}
    purge_databases: true
    settings:
      max_client_conn: 1000
      server_login_retry: 0.2

- name: Hold the clients of one database for at most a minute
  dbops.fleet.pgbouncer_pool:
    state: paused
    databases: [{name: orders}]
    budget_seconds: 5
    max_pause_seconds: 60

- name: Before a change of roles, name the candidate in the files, and have a dead-man end a pause that lasts too long
  dbops.fleet.pgbouncer_pool:
    state: staged
    databases_file: /etc/pgbouncer/fleet-databases.ini
    databases:
      - {name: orders, host: [10.1.0.12], port: 5432}
      - {name: orders_ro, host: [10.1.0.13], port: 5432, dbname: orders}
    operation: 20261121T090102
    max_pause_seconds: 15

- name: Let them go
  dbops.fleet.pgbouncer_pool:
    state: resumed
    databases: [{name: orders}]
"""

RETURN = r"""
changed_files:
  description: The files that were written, or in check mode would be.
  returned: O(state=present), O(state=absent), O(state=staged) or O(state=settled)
  type: list
  elements: str
  sample: [/etc/pgbouncer/fleet-databases.ini]
restart_required:
  description: What is written but takes a restart of PgBouncer.
  returned: O(state=present), O(state=absent) or O(state=settled)
  type: list
  elements: str
  sample: [listen_port]
running:
  description: Whether a process was there to reload.
  returned: O(state=present), O(state=absent) or O(state=settled)
  type: bool
  sample: true
clients_connected:
  description: How many clients were connected when the module began, at all processes, whom a restart would disconnect.
  returned: O(state=present), O(state=absent) or O(state=settled)
  type: int
  sample: 42
stopped_endpoints:
  description: Names of the endpoints on this host that nobody listens at.
  returned: O(state=present), O(state=absent) or O(state=settled)
  type: list
  elements: str
  sample: [pool1/3, pool1/4]
surplus_processes:
  description: Sockets of processes that go by O(config_file) and are not among the endpoints.
  returned: O(state=present), O(state=absent) or O(state=settled)
  type: list
  elements: str
  sample: [/run/postgresql/.s.PGSQL.6432]
databases:
  description: The databases that were acted on.
  returned: O(state=paused), O(state=resumed) or O(state=killed)
  type: list
  elements: str
  sample: [orders]
pause_seconds:
  description: How long it took until every process was paused.
  returned: O(state=paused), when something was paused
  type: float
  sample: 0.018
still_paused:
  description: Pairs of process and database that could not be verified as resumed after a pause that failed.
  returned: failure of O(state=paused)
  type: list
  elements: list
  sample: []
waiting_for:
  description: The clients whose transactions kept the pause waiting.
  returned: failure of O(state=paused)
  type: list
  elements: str
  sample: ["pool1: orders: orders_app from 10.1.0.50:41234 (psql), backend 4711, since 2026-11-21 09:18:21 UTC"]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.commands import manage
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.options import CONSOLE_OPTIONS

PRESENCE = {"type": "str", "choices": ["present", "absent"], "default": "present"}
POOL_MODE = {"type": "str", "choices": ["session", "transaction", "statement"]}

DATABASE: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "state": PRESENCE,
    "host": {"type": "list", "elements": "str", "default": []},
    "port": {"type": "int"},
    "dbname": {"type": "str"},
    "user": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "auth_user": {"type": "str"},
    "pool_mode": POOL_MODE,
    "pool_size": {"type": "int"},
    "min_pool_size": {"type": "int"},
    "reserve_pool": {"type": "int"},
    "max_db_connections": {"type": "int"},
    "connect_query": {"type": "str"},
    "application_name": {"type": "str"},
    "client_encoding": {"type": "str"},
    "timezone": {"type": "str"},
    "load_balance_hosts": {"type": "str", "choices": ["disable", "round-robin"]},
}

USER: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "state": PRESENCE,
    "password": {"type": "str", "no_log": True},
    "pool_mode": POOL_MODE,
    "max_user_connections": {"type": "int"},
}


def main() -> None:
    """Wire the options to the operation."""
    module = AnsibleModule(
        argument_spec={
            **CONSOLE_OPTIONS,
            "state": {
                "type": "str",
                "choices": [
                    "present",
                    "absent",
                    "paused",
                    "resumed",
                    "killed",
                    "reloaded",
                    "reconnected",
                    "armed",
                    "disarmed",
                    "staged",
                    "settled",
                ],
                "default": "present",
            },
            "databases": {"type": "list", "elements": "dict", "options": DATABASE},
            "purge_databases": {"type": "bool", "default": False},
            "users": {"type": "list", "elements": "dict", "default": [], "options": USER},
            "purge_users": {"type": "bool", "default": False},
            "settings": {"type": "dict", "default": {}},
            "purge_settings": {"type": "bool", "default": False},
            "databases_file": {"type": "path"},
            "userlist_file": {"type": "path"},
            "further_files": {"type": "list", "elements": "path", "default": []},
            "open_files": {"type": "int"},
            "budget_seconds": {"type": "float", "default": 5.0},
            "max_pause_seconds": {"type": "float", "default": 300.0},
            "operation": {"type": "str", "default": "manual"},
            "accept_session_mode": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    adapter.run(module, manage)


if __name__ == "__main__":
    main()

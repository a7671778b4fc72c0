#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: a host and the PostgreSQL instance that a cluster wants on it, as they are."""

from __future__ import annotations

DOCUMENTATION = r"""
module: instance_info
short_description: Read a host and its PostgreSQL instance in one go
version_added: 0.1.0
description:
  - Reads everything that the playbooks of this collection need to know of a database host, in a fraction of a second,
    so that no facts have to be gathered.
  - Works on a host with nothing installed. Needs C(python3-psycopg) only where PostgreSQL runs.
  - Looks at the instance locally, as the operating system user who owns its socket, so it works whatever
    C(pg_hba.conf) says of root. What it says of itself by SQL, by its control file and by the roles' mark of ownership
    are all returned.
  - Changes nothing.
author:
  - dbops.fleet contributors (@dbops)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: debian
options:
  version:
    description:
      - Major version of the instance that is wanted.
      - If not given or V(0), the one that the host's Debian release ships.
    type: int
  name:
    description: Debian's name of the instance.
    type: str
    default: main
  data_directory:
    description: Its data directory, if it is not where its configuration or else Debian says.
    type: path
  packages:
    description: Debian packages to look for.
    type: list
    elements: str
    default: []
  roles:
    description: Roles to look for in an instance that takes sessions, be it a primary or a standby.
    type: list
    elements: str
    default: []
seealso:
  - module: dbops.fleet.cluster_info
"""

EXAMPLES = r"""
- name: Read the host and its instance
  dbops.fleet.instance_info:
    packages: [python3-psycopg, pgbouncer]
  register: found

- name: Say what state it is in
  ansible.builtin.debug:
    msg: "{{ found.instance.state }}, {{ found.host.memory_mb }} MB"
"""

RETURN = r"""
version:
  description: Major version of the instance that was looked for.
  type: int
  returned: success
  sample: 17
host:
  description: The host.
  type: dict
  returned: success
  contains:
    hostname:
      description: Its own name.
      type: str
      sample: db1
    memory_mb:
      description: Memory in MiB, or the control group's limit where that is lower.
      type: int
      sample: 7951
    cpus:
      description: Processors that may be used.
      type: int
      sample: 4
    distribution:
      description: Name of the distribution.
      type: str
      sample: Debian
    distribution_version:
      description: Its version.
      type: str
      sample: "13"
    distribution_major_version:
      description: The part before the first dot.
      type: str
      sample: "13"
    codename:
      description: Its code name.
      type: str
      sample: trixie
    addresses:
      description: Own IPv4 and global IPv6 addresses, without loopback.
      type: list
      elements: str
      sample: [10.0.0.11]
    default_address:
      description: The address that connections to the outside come from; null without a default route.
      type: str
      sample: 10.0.0.11
    packages:
      description: Version of each installed package among O(packages).
      type: dict
      sample: {python3-psycopg: 3.2.6-1}
    postgresql_installed:
      description: Major versions whose server programs are installed.
      type: list
      elements: int
      sample: [17]
    postgresql_shipped:
      description: Major version that the Debian release ships; null for an unknown release.
      type: int
      sample: 17
    systemd:
      description: Whether systemd runs the host.
      type: bool
      sample: true
instance:
  description: The wanted instance. Hand it to O(dbops.fleet.cluster_info#module:instances) as it is.
  type: dict
  returned: success
  contains:
    version:
      description: Major version.
      type: int
      sample: 17
    name:
      description: Debian's name.
      type: str
      sample: main
    state:
      description:
        - V(absent) or V(empty) - no data directory, or an empty one.
        - V(interrupted_clone) - what an unfinished clone of this collection left.
        - V(stopped), V(crashed), V(starting), V(running) - data of this fleet; V(crashed) is without server and without
          clean shutdown.
        - V(foreign) - data that this fleet did not make.
      type: str
      sample: running
    reason:
      description: What was found, for V(foreign), V(crashed) and V(interrupted_clone).
      type: str
      sample: /var/lib/postgresql/17/main holds data of PostgreSQL 15, not 17
    data_directory:
      description: Its path.
      type: str
      sample: /var/lib/postgresql/17/main
    data_directory_owner:
      description: Operating system user who owns it.
      type: str
      sample: postgres
    port:
      description: The port that it runs with or, stopped, that its configuration has.
      type: int
      sample: 5432
    configured:
      description: Whether Debian's configuration directory is there.
      type: bool
      sample: true
    unit:
      description: Name of its systemd unit.
      type: str
      sample: postgresql@17-main.service
    owner:
      description: The mark of the roles (C(/var/lib/dbops-fleet/instance-17-main.json)); null where there is none.
      type: dict
      sample: {cluster: orders, system_identifier: "7391842034120421376"}
    clone:
      description: Marker of the last clone into this place; null where there was none.
      type: dict
    disk_total_mb:
      description: Size of the file system of the data directory in MiB.
      type: int
      sample: 102400
    disk_free_mb:
      description: Free part of it in MiB.
      type: int
      sample: 65536
    member:
      description:
        - System identifier, timeline, LSNs, walreceiver, walsenders, slots, settings, control file of the server.
        - C(state) here is that of the server, also for foreign data.
      type: dict
      sample: {state: running, in_recovery: false, timeline: 3, current_lsn: 0/5000148}
    others:
      description: Further instances of this host, and data directories in Debian's place without configuration.
      type: list
      elements: dict
      sample:
        - version: 15
          name: main
          data_directory: /var/lib/postgresql/15/main
          port: 5432
          configured: true
          running: false
          empty: false
          owner: {cluster: orders, system_identifier: "7391842034120421376"}
    reload_pending:
      description:
        - Files of its configuration, log-in rules and TLS that have changed since the server last loaded them.
        - Null where the instance takes no sessions, so that nobody knows.
      type: list
      elements: str
      sample: [/etc/postgresql/17/main/pg_hba.conf]
    roles_present:
      description: Those of O(roles) that exist; null where the instance takes no sessions, so that nobody knows.
      type: list
      elements: str
      sample: [orders_app]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.topology.host import instance_info


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "int"},
            "name": {"type": "str", "default": "main"},
            "data_directory": {"type": "path"},
            "packages": {"type": "list", "elements": "str", "default": []},
            "roles": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    adapter.run(module, instance_info)


if __name__ == "__main__":
    main()

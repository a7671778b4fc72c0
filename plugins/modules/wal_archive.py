#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: the WAL archive of an instance, brought into being and proven."""

from __future__ import annotations

DOCUMENTATION = r"""
module: wal_archive
short_description: Archive the WAL of a PostgreSQL instance, and prove it
version_added: 0.1.0
description:
  - Makes the configured repositories (or makes this cluster known to them), has the server archive into all of them,
    and proves the way by a forced segment that must arrive and come back.
  - Never overwrites anything in a repository, and refuses a repository that belongs to another cluster.
  - Setting C(archive_mode) needs a restart of the server, which this module leaves to its caller; see
    RV(restart_required).
  - Started as root it acts as the owner of the data directory.
author:
  - dbops.fleet contributors (@dbops)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - dbops.fleet.engine
  - dbops.fleet.engine.directory
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: debian
options:
  archive_timeout:
    description:
      - Seconds after which a busy server ends a segment that is not full.
      - It bounds what a lost host takes along.
    type: int
    default: 60
  prove:
    description: Force a segment into the archive and read it back. Left out on a standby and in check mode.
    type: bool
    default: true
  prove_timeout:
    description: Seconds that this may take.
    type: float
    default: 120.0
seealso:
  - module: dbops.fleet.wal_archive_info
"""

EXAMPLES = r"""
- name: Archive into every repository of the configuration, and prove it
  dbops.fleet.wal_archive:

- name: Lose a minute at most
  dbops.fleet.wal_archive:
    archive_timeout: 30
  register: archive

- name: Say how long a segment takes
  ansible.builtin.debug:
    msg: "{{ archive.proof.archived_seconds }} s"
"""

RETURN = r"""
state:
  description: The archive as an object. LSNs are as PostgreSQL prints them, times in seconds since the epoch.
  type: dict
  returned: success
  contains:
    configured:
      description: Whether the server archives with our command.
      type: bool
    archiving:
      description: Configured, every repository answers, and the last try did not fail.
      type: bool
    archived_lsn:
      description: Up to where every repository holds the current timeline without a gap.
      type: str
      sample: 0/5000000
    archived_time:
      description: When that arrived.
      type: float
      sample: 1772325000.25
    received_lsn:
      description: Up to where every repository has what was sent before its segment was full; null where nothing was.
      type: str
      sample: 0/5A00000
    rpo_seconds:
      description: The greatest age of changes that are in no archive; V(0) when there are none.
      type: float
      sample: 41.2
    server:
      description: What the server says, with C(pg_stat_archiver); null when it does not answer.
      type: dict
    repositories:
      description: What each repository really holds, with gaps per timeline.
      type: list
      elements: dict
    problems:
      description: What is not as it should be, worst first.
      type: list
      elements: dict
      sample:
        - code: archive_gap
          severity: critical
          message: Repository local lacks 1 segment(s) of timeline 1
          remedy: Copy them from another repository
proof:
  description: The forced segment and how many seconds it took; null when nothing was proven.
  type: dict
  returned: success
  sample:
    segment: "000000010000000000000007"
    archived_seconds: 0.4
    fetched_seconds: 0.1
restart_required:
  description: Whether archiving begins only after a restart of the server.
  type: bool
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal import operation


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config_file": {"type": "path", "default": "/etc/dbops-fleet/backup.json"},
            "engine_directory": {"type": "path", "default": "/usr/lib/dbops-fleet"},
            "archive_timeout": {"type": "int", "default": 60},
            "prove": {"type": "bool", "default": True},
            "prove_timeout": {"type": "float", "default": 120.0},
        },
        supports_check_mode=True,
    )
    adapter.run(module, operation.ensure)


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: the state of an instance's WAL archive."""

from __future__ import annotations

DOCUMENTATION = r"""
module: wal_archive_info
short_description: Read the state of a WAL archive from the server and from its repositories
version_added: 0.1.0
description:
  - Compares what the server believes to be archived with what every repository really holds, finds gaps on every
    timeline, and tells how old changes can be that would be lost with the host.
  - A server or repository that does not answer is part of the state, no failure.
  - Started as root it acts as the owner of the data directory. Changes nothing.
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
    support: none
  platform:
    platforms: debian
options:
  rpo_warning:
    description: Seconds that unarchived changes may be old before that is a warning.
    type: float
    default: 300.0
  rpo_critical:
    description: Seconds that unarchived changes may be old before that is critical.
    type: float
    default: 900.0
seealso:
  - module: dbops.fleet.wal_archive
"""

EXAMPLES = r"""
- name: Read the archive's state
  dbops.fleet.wal_archive_info:
  register: archive

- name: Stop when something is wrong with it
  ansible.builtin.assert:
    that: archive.state.problems | length == 0
    fail_msg: "{{ archive.state.problems | map(attribute='message') | join('; ') }}"
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
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal import operation


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config_file": {"type": "path", "default": "/etc/dbops-fleet/backup.json"},
            "engine_directory": {"type": "path", "default": "/usr/lib/dbops-fleet"},
            "rpo_warning": {"type": "float", "default": 300.0},
            "rpo_critical": {"type": "float", "default": 900.0},
        },
        supports_check_mode=True,
    )
    adapter.run(module, operation.read)


if __name__ == "__main__":
    main()

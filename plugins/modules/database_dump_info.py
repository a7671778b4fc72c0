#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: the dumps in a repository."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_dump_info
short_description: List the dumps in a repository
version_added: 0.1.0
description:
  - Reads the catalogue. Needs no running server and no data directory.
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
    description: Look into this one. The first that can be opened if not given.
    type: str
seealso:
  - module: dbops.fleet.database_dump
"""

EXAMPLES = r"""
- name: See which dumps there are
  dbops.fleet.database_dump_info:
"""

RETURN = r"""
repository:
  description: Its name and address.
  type: dict
  returned: success
  sample: {name: main, address: s3://backups/orders}
system_identifier:
  description: Of the cluster.
  type: str
  returned: success
dumps:
  description: Catalogue entries, oldest first, with C(series), C(pinned) and C(verified).
  type: list
  elements: dict
  returned: success
  sample:
    - id: 20260301-030000D
      series: all databases
      stop_time_shown: 2026-03-01 03:04:10 UTC
      size: 5368709120
      pinned: null
      verified: null
unfinished:
  description: Dumps that run, or were broken off.
  type: list
  elements: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump import operation


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "repository": {"type": "str"},
            "system_identifier": {"type": "int"},
            "owner": {"type": "str", "default": "postgres"},
            "config_file": {"type": "path", "default": "/etc/dbops-fleet/backup.json"},
        },
        supports_check_mode=True,
    )
    adapter.run(module, operation.read)


if __name__ == "__main__":
    main()

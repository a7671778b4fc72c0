#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: what is known of a clone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_basebackup_restore_info
short_description: Tell how far the clone of a PostgreSQL replica is
version_added: 0.1.0
description:
  - Reads what M(dbops.fleet.pg_basebackup_restore) has noted beside the data directory. Asks no server.
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
    platforms: posix
options:
  data_directory:
    description: The data directory.
    type: path
    required: true
seealso:
  - module: dbops.fleet.pg_basebackup_restore
"""

EXAMPLES = r"""
- name: See how far the clone is
  dbops.fleet.pg_basebackup_restore_info:
    data_directory: /var/lib/postgresql/17/main
  register: clone
"""

RETURN = r"""
state:
  description: >-
    V(none), V(running), V(finished), V(failed), or V(killed): its process is gone without a word, and running
    M(dbops.fleet.pg_basebackup_restore) again redoes it.
  returned: success
  type: str
  sample: running
msg:
  description: The same as a sentence, with the figures.
  returned: success
  type: str
  sample: "clones 10.0.0.11: 42 %, 2.2 GB of 5.2 GB, 181 MB/s, 17 s left"
percent:
  description:
    - Share of the bytes that is copied.
    - This and the other figures are those of M(dbops.fleet.pg_basebackup_restore).
  returned: unless the state is V(none)
  type: int
  sample: 42
source:
  description: Host and port that are cloned.
  returned: unless the state is V(none)
  type: str
  sample: 10.0.0.11:5432
failure:
  description: Why it failed.
  returned: unless the state is V(none)
  type: str
  sample: null
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.clone.run import status
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome


def _read(params: dict[str, Any], check_mode: bool) -> Outcome:
    return Outcome(False, status(params["data_directory"]))


def main() -> None:
    """Wire the options to the operation."""
    module = AnsibleModule(
        argument_spec={"data_directory": {"type": "path", "required": True}}, supports_check_mode=True
    )
    adapter.run(module, _read)


if __name__ == "__main__":
    main()

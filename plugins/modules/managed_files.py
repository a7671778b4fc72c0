#!/usr/bin/python
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: many files in one task, all or none."""

from __future__ import annotations

DOCUMENTATION = r"""
module: managed_files
short_description: Write several files and directories in one task, all or none
version_added: 0.1.0
description:
  - Files have exactly the content, owner, group and mode that are given, directories their owner, group and mode.
  - All new contents are written beside their targets, flushed to disk and validated first. Only then each is renamed
    into place, so that a reader sees the old file or the new one, and a rejected file leaves every other as it was.
  - Refuses a path that is relative, a symbolic link or of another kind, and a missing parent directory. In check mode a
    missing parent directory, user or group is a warning, because an earlier task may bring it.
author:
  - dbops.fleet contributors (@dbops)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
    details: Validation commands run on copies in a private temporary directory.
  diff_mode:
    support: full
    details: Secret contents are shown as changed or not, never as text.
  platform:
    platforms: posix
options:
  files:
    description: The files.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path. Its directory must exist or be listed in O(directories).
        type: path
        required: true
      content:
        description:
          - The whole content. Exactly one of this and O(files[].secret_content) is required.
          - Use the P(ansible.builtin.template#lookup) lookup for templates.
        type: str
      secret_content:
        description:
          - The whole content of a file that must never be shown (passwords, private keys).
          - It appears in no result, diff, log of the host, or output of Ansible, however verbose.
        type: str
      owner:
        description: Name of the owner.
        type: str
        default: root
      group:
        description: Name of the group.
        type: str
        default: root
      mode:
        description:
          - Four octal digits in quotes.
          - V(0644) if not given, V(0600) for O(files[].secret_content), which refuses any mode that lets every user in.
        type: str
      validate:
        description:
          - A command as a list; V(%s) in it becomes the path of the new file. An exit code other than 0 rejects it.
          - It sees the file before anything is in place, in the same directory under a name that begins with a dot.
        type: list
        elements: str
        default: []
  directories:
    description: The directories. They are made before the files, parents before children.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      owner:
        description: Name of the owner.
        type: str
        default: root
      group:
        description: Name of the group.
        type: str
        default: root
      mode:
        description: Four octal digits in quotes. V(0755) if not given.
        type: str
seealso:
  - module: ansible.builtin.copy
  - module: ansible.builtin.template
"""

EXAMPLES = r"""
- name: Write the settings of an instance and the passwords it needs
  dbops.fleet.managed_files:
    directories:
      - path: /etc/dbops-fleet
        mode: "0755"
    files:
      - path: /etc/postgresql/17/main/conf.d/50-fleet.conf
        content: "{{ lookup('ansible.builtin.template', 'fleet.conf.j2') }}"
        owner: postgres
        group: postgres
      - path: /etc/dbops-fleet/pgpass
        secret_content: "{{ lookup('ansible.builtin.template', 'pgpass.j2') }}"
        owner: postgres
        group: postgres
  notify: Reload PostgreSQL

- name: Write a configuration only if the program that reads it accepts it
  dbops.fleet.managed_files:
    files:
      - path: /etc/nftables.conf
        content: "{{ lookup('ansible.builtin.template', 'nftables.conf.j2') }}"
        validate: [nft, --check, --file, "%s"]
"""

RETURN = r"""
changed_paths:
  description: The files and directories that were made or changed, or in check mode would be.
  returned: success
  type: list
  elements: str
  sample: [/etc/dbops-fleet, /etc/dbops-fleet/pgpass]
path:
  description: The file that a validation rejected.
  returned: failure of a validation
  type: str
  sample: /etc/nftables.conf
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils import adapter
from ansible_collections.dbops.fleet.plugins.module_utils.files.apply import manage


def _ownership() -> dict[str, Any]:
    return {
        "path": {"type": "path", "required": True},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
        "mode": {"type": "str"},
    }


def main() -> None:
    """Wire the options to the operation."""
    file_options = {
        **_ownership(),
        "content": {"type": "str"},
        "secret_content": {"type": "str", "no_log": True},
        "validate": {"type": "list", "elements": "str", "default": []},
    }
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": file_options,
                "mutually_exclusive": [("content", "secret_content")],
                "required_one_of": [("content", "secret_content")],
            },
            "directories": {"type": "list", "elements": "dict", "default": [], "options": _ownership()},
        },
        supports_check_mode=True,
    )
    adapter.run(module, manage)


if __name__ == "__main__":
    main()

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jinja filter: the roles of a server that are not as they should be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.roles import to_set

DOCUMENTATION = r"""
name: roles_to_set
short_description: Roles that are missing, or have other attributes or passwords than they should
version_added: 0.1.0
description:
  - Compares rows of C(pg_authid) with what is wanted, so that only roles that differ need a module run each.
  - Passwords are compared with their SCRAM verifiers. Where that cannot be told (an MD5 password, or one beyond ASCII),
    the role counts as one that differs.
author:
  - dbops.fleet contributors (@dbops)
positional: _input
options:
  _input:
    description: Rows of C(pg_authid).
    type: list
    elements: dict
    required: true
  attributes:
    description: Role to flags as C(CREATE ROLE) has them, separated by commas.
    type: dict
    required: true
  passwords:
    description: Role to password. Roles that are not in O(attributes) are not looked at.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Name the roles that have to be set
  ansible.builtin.debug:
    msg: "{{ rows | dbops.fleet.roles_to_set(attributes={'app': 'LOGIN,NOSUPERUSER'}, passwords={'app': secret}) }}"
"""

RETURN = r"""
_value:
  description: Names of the roles that differ, in the order of O(attributes).
  type: list
  elements: str
  sample: [app]
"""


def roles_to_set(
    found: Iterable[Mapping[str, Any]], attributes: Mapping[str, str], passwords: Mapping[str, str]
) -> list[str]:
    """See DOCUMENTATION."""
    try:
        return to_set(found, attributes, passwords)
    except (KeyError, TypeError, ValueError) as error:
        raise AnsibleFilterError(f"dbops.fleet.roles_to_set: {error}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"roles_to_set": roles_to_set}

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jinja filter: what brings the roles of a server to what they should be."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.roles import statements

DOCUMENTATION = r"""
name: role_statements
short_description: SQL that makes missing roles, and sets attributes and passwords that differ
version_added: 0.1.0
description:
  - Compares rows of C(pg_authid) with what is wanted, so that all roles that differ are set in one transaction.
  - Passwords are compared with their SCRAM verifiers, and set as such, so that the server never sees one that it could
    log. Where that cannot be (an MD5 password there, or one beyond ASCII wanted), the role counts as one that differs.
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
    description: Role to attributes as C(CREATE ROLE) has them, separated by commas.
    type: dict
    required: true
  passwords:
    description: Role to password. Roles that are not in O(attributes) are not looked at.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Set the roles that differ
  community.postgresql.postgresql_query:
    query: "{{ rows | dbops.fleet.role_statements(attributes={'app': 'LOGIN,NOCREATEDB'}, passwords={'app': secret}) }}"
    login_db: postgres
  no_log: true
"""

RETURN = r"""
_value:
  description: Statements, in the order of O(attributes); none where nothing differs.
  type: list
  elements: str
  sample: [CREATE ROLE "app" LOGIN NOCREATEDB PASSWORD 'SCRAM-SHA-256$4096:...']
"""


def role_statements(
    found: Iterable[Mapping[str, Any]], attributes: Mapping[str, str], passwords: Mapping[str, str]
) -> list[str]:
    """See DOCUMENTATION."""
    try:
        return statements(found, attributes, passwords, lambda: secrets.token_bytes(16))
    except (KeyError, TypeError, ValueError) as error:
        raise AnsibleFilterError(f"dbops.fleet.role_statements: {error}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"role_statements": role_statements}

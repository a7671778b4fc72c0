# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jinja filter: the statements that make the roles of a server as they should be."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.roles import statements

DOCUMENTATION = r"""
name: role_statements
short_description: Statements for roles that are missing, or have other attributes, limits or passwords than they should
version_added: 0.1.0
description:
  - Compares rows of C(pg_authid) with what is wanted, so that one query tells and one sets whatever differs.
  - Passwords are compared with their SCRAM verifiers, and given as such, so that the server never sees one that it
    could log. Where that cannot be (an MD5 password there, or one beyond ASCII wanted), the role counts as one that
    differs.
  - Refuses roles that PostgreSQL has for itself, and superusers. One of the fleet's own that was made a superuser is
    made what it should be.
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
    description: Role to its options as C(CREATE ROLE) has them, separated by spaces.
    type: dict
    required: true
  limits:
    description: Role to connection limit; V(-1) is none. That of other roles is left as it is.
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
    query: "{{ rows | dbops.fleet.role_statements(attributes={'app': 'LOGIN'}, limits={'app': 50}, passwords=secret) }}"
  no_log: true
"""

RETURN = r"""
_value:
  description: CREATE ROLE or ALTER ROLE for each role that differs, in the order of O(attributes).
  type: list
  elements: str
  sample: ["CREATE ROLE \"app\" LOGIN CONNECTION LIMIT 50 PASSWORD 'SCRAM-SHA-256$4096:...'"]
"""


def role_statements(
    found: Iterable[Mapping[str, Any]],
    attributes: Mapping[str, str],
    limits: Mapping[str, int],
    passwords: Mapping[str, str],
) -> list[str]:
    """See DOCUMENTATION."""
    try:
        return statements(found, attributes, limits, passwords, lambda: secrets.token_bytes(16))
    except (KeyError, TypeError, ValueError) as error:
        raise AnsibleFilterError(f"dbops.fleet.role_statements: {error}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"role_statements": role_statements}

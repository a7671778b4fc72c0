# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jinja filter: which databases and roles of an inventory no application can have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.databases import refusals

DOCUMENTATION = r"""
name: database_refusals
short_description: Databases and roles that no application can have
version_added: 0.1.0
description:
  - Finds PostgreSQL's own databases and roles, the fleet's, and superusers among those that an application is to have.
author:
  - dbops.fleet contributors (@dbops)
positional: _input
options:
  _input:
    description: The databases, each with C(name), C(owner) and C(readonly).
    type: list
    elements: dict
    required: true
  superusers:
    description: Names of roles that are known to be superusers.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Refuse what no application can have
  ansible.builtin.assert:
    that: refused | length == 0
    fail_msg: "{{ refused }}"
  vars:
    refused: "{{ [{'name': 'orders', 'owner': 'postgres', 'readonly': 'reader'}] | dbops.fleet.database_refusals }}"
"""

RETURN = r"""
_value:
  description: What was found, each a sentence with its remedy; empty where all is well.
  type: list
  elements: str
  sample:
    - "Database template1 is PostgreSQL's own. Give the application's another name in postgres_primary_databases."
"""


def database_refusals(databases: Sequence[Mapping[str, Any]], superusers: Sequence[str] = ()) -> list[str]:
    """See DOCUMENTATION."""
    try:
        return refusals(databases, superusers)
    except (AttributeError, KeyError, TypeError) as error:
        raise AnsibleFilterError(f"dbops.fleet.database_refusals: {error!r}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"database_refusals": database_refusals}

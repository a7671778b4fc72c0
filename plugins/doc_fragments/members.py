# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The option of modules that are told a cluster's members as the inventory has them."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  members:
    description: All members of the cluster, from the inventory.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Inventory name.
        type: str
        required: true
      address:
        description: Where the others reach it.
        type: str
        required: true
      port:
        description: Port of PostgreSQL.
        type: int
        default: 5432
      slot:
        description: Its replication slot at the primary.
        type: str
      priority:
        description: Preference among equally advanced replicas; V(0) is never promoted without being named.
        type: int
        default: 100
      conninfo:
        description: How to reach it, without password; the fleet's own account and certificates if not given.
        type: str
"""

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jinja filter: PostgreSQL's settings for a host of a given size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.settings import recommended_settings

DOCUMENTATION = r"""
name: postgres_settings
short_description: PostgreSQL settings by memory, processors, disk and profile
version_added: 0.1.0
description:
  - Gives settings for an instance that has its host to itself, as they stand in a configuration file, without quotes.
  - Besides memory and processors these are the settings that every instance of a fleet has, for replication, safety and
    logging. The reason of each is in the collection's C(plugins/module_utils/postgres/settings.py).
author:
  - dbops.fleet contributors (@dbops)
positional: _input
options:
  _input:
    description: Memory of the host in MiB.
    type: int
    required: true
  profile:
    description:
      - V(oltp) for many short transactions, V(olap) for few long queries, V(small) for a host of about 512 MiB, or a
        shared one.
    type: str
    choices: [oltp, olap, small]
    default: oltp
  cpus:
    description: Processors that the host may use.
    type: int
    default: 1
  version:
    description: Major version of PostgreSQL.
    type: int
    default: 15
  disk_mb:
    description: Size in MiB of the file system that holds C(pg_wal). Bounds what write-ahead log may take of it.
    type: int
  overrides:
    description: Setting to value. These win. A null value leaves PostgreSQL's own default in force.
    type: dict
    default: {}
"""

EXAMPLES = r"""
# shared_buffers = '2GB', ...
- name: Write the settings of a host with 8 GiB
  ansible.builtin.copy:
    content: |
      {% for name, value in (8192 | dbops.fleet.postgres_settings(cpus=4, overrides={'work_mem': '32MB'})).items() %}
      {{ name }} = '{{ value | replace("'", "''") }}'
      {% endfor %}
    dest: /etc/postgresql/17/main/conf.d/50-fleet.conf
    owner: postgres
    group: postgres
    mode: "0644"
"""

RETURN = r"""
_value:
  description: Setting to value, in a fixed order.
  type: dict
  sample: {max_connections: "200", shared_buffers: 2GB}
"""


def postgres_settings(
    memory_mb: int,
    profile: str = "oltp",
    cpus: int = 1,
    version: int = 15,
    disk_mb: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """See DOCUMENTATION."""
    try:
        return recommended_settings(
            int(memory_mb),
            cpus=int(cpus),
            version=int(version),
            profile=profile,
            disk_mb=None if disk_mb is None else int(disk_mb),
            overrides=overrides,
        )
    except (TypeError, ValueError) as error:
        raise AnsibleFilterError(f"dbops.fleet.postgres_settings: {error}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"postgres_settings": postgres_settings}

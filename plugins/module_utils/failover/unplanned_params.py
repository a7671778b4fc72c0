# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way from parameters of modules to records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.instance import Instance
from ansible_collections.dbops.fleet.plugins.module_utils.topology.host import read_host


def instance_here(version: int | None, name: str) -> Instance:
    """Debian's instance on this host.

    Raises:
        FleetError: the release's version of PostgreSQL is not known.
    """
    found = version or read_host([])["postgresql_shipped"]
    if not found:
        raise FleetError(
            "it is not known which PostgreSQL this host's release ships",
            remedy="Set postgres_server_version for this host.",
        )
    return Instance.debian(int(found), name)


def record_of(kind: Any, values: Mapping[str, Any]) -> Any:
    """A record from a module's parameters, in which an option that was left out is None."""
    try:
        return kind.from_dict({name: value for name, value in values.items() if value is not None})
    except ValueError as error:
        raise FleetError(f"a parameter cannot be read: {error}") from error

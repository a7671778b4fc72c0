# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What setup asks an instance that runs on this host, beyond its facts as a member of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ansible_collections.dbops.fleet.plugins.module_utils.postgres import session
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.instance import Instance
from ansible_collections.dbops.fleet.plugins.module_utils.topology.instance_facts import InstanceFacts


def with_answers(facts: InstanceFacts, instance: Instance, roles: Sequence[str]) -> InstanceFacts:
    """The facts, completed where the server takes sessions.

    Args:
        roles: names to look for among its roles.
    """
    if facts.member.state != "running":
        return facts
    try:
        with instance.connect() as connection:
            found = connection.execute("SELECT rolname::text FROM pg_roles WHERE rolname = ANY(%s)", (list(roles),))
            present = {name for (name,) in found}
    except (session.NotConnected, session.require_psycopg().Error):
        # It went since it was read as a member: nothing is known, as where it does not run.
        return facts
    return replace(facts, roles_present=tuple(role for role in roles if role in present))

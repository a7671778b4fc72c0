# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a candidate would let in whoever is logged in to the primary now. `read_*` act, `judge_logins` decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_checks import CheckResult
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.hba import Login, lets_in

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[Any]

# application_name of this program's own sessions. They, and those that replicate, are tried by other checks.
PROBE = "dbops.fleet probe"
_LOGINS = """
SELECT DISTINCT datname, usename, host(client_addr), ssl
  FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
 WHERE backend_type = 'client backend' AND client_addr IS NOT NULL AND application_name <> %s
 ORDER BY 1, 2, 3"""
# Since PostgreSQL 16 files can be included: line numbers are those of each file, rule_number is the order of all.
_RULES = """
SELECT type, database, user_name, address, netmask, auth_method
  FROM pg_hba_file_rules WHERE error IS NULL ORDER BY {order}"""


def read_logins(connection: Connection) -> tuple[Login, ...]:
    """Who is logged in over TCP. Raises psycopg.Error."""
    return tuple(Login(*row) for row in connection.execute(_LOGINS, (PROBE,)).fetchall())


def read_rules(connection: Connection) -> list[dict[str, Any]]:
    """What pg_hba.conf of the other end has now. Raises psycopg.Error: among others, where the role may not see it."""
    order = "rule_number" if connection.info.server_version >= 160000 else "line_number"
    cursor = connection.execute(_RULES.format(order=order))
    names = [column.name for column in cursor.description or []]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def judge_logins(candidate: str, rules: Sequence[Mapping[str, Any]], logins: Sequence[Login]) -> CheckResult:
    """The check of a candidate. What cannot be told from its rules does not refuse."""
    name = "candidate_logins"
    locked_out = [login for login in logins if lets_in(rules, login) is False]
    if not locked_out:
        return CheckResult(name, "ok", f"lets in all {len(logins)} kind(s) of sessions that the primary has", candidate)
    found = f"pg_hba.conf there does not let in {'; '.join(map(str, locked_out))}, who is logged in to the primary now"
    remedy = "Run playbooks/setup.yml, which writes pg_hba.conf there, or end these sessions if they are not wanted."
    return CheckResult(name, "refuse", found, candidate, remedy)

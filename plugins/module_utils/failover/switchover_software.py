# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a candidate's host has the software that the databases need: collations, extensions, how systemd restarts.

`read_*` act, `compare` and `judge_restart` decide.
"""

from __future__ import annotations

# Runs programs where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_checks import CheckResult
from ansible_collections.dbops.fleet.plugins.module_utils.postgres import session

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[Any]

_COLLATIONS = """
SELECT datname, coalesce(pg_database_collation_actual_version(oid), '')
  FROM pg_database WHERE datallowconn AND datname <> 'template1'"""
_AVAILABLE = "SELECT name, coalesce(default_version, '') FROM pg_available_extensions"


@dataclass(frozen=True)
class Software:
    """What one host offers.

    Attributes:
        collations: by database, the version of its default collation in this host's libraries; empty for C and such.
        extensions: by name, the default version of those that are installed on the host.
    """

    collations: Mapping[str, str]
    extensions: Mapping[str, str]


def read_software(connection: Connection) -> Software:
    """Of the host that a session is with. Raises psycopg.Error."""
    return Software(
        dict(connection.execute(_COLLATIONS).fetchall()),
        dict(connection.execute(_AVAILABLE).fetchall()),
    )


def read_used_extensions(port: int, socket_directory: str) -> dict[str, list[str]]:
    """Extensions of the local primary's databases, each with the databases that have it.

    Raises:
        FleetError, psycopg.Error: a database cannot be asked.
    """
    used: dict[str, list[str]] = {}
    with session.connect_local(port, socket_directory) as connection:
        databases = [
            row[0] for row in connection.execute("SELECT datname FROM pg_database WHERE datallowconn").fetchall()
        ]
    for database in databases:
        with session.connect_local(port, socket_directory, dbname=database) as connection:
            for (name,) in connection.execute("SELECT extname FROM pg_extension").fetchall():
                used.setdefault(name, []).append(database)
    return used


def compare(candidate: str, here: Software, there: Software, used: Mapping[str, list[str]]) -> list[CheckResult]:
    """The checks of a candidate.

    Args:
        candidate: its name.
        here: the primary's host.
        there: the candidate's.
        used: extensions of the databases, see `read_used_extensions`.
    """
    return [_collations(candidate, here, there), _extensions(candidate, here, there, used)]


def _collations(candidate: str, here: Software, there: Software) -> CheckResult:
    differing = {
        name: (version, there.collations[name])
        for name, version in here.collations.items()
        if name in there.collations and there.collations[name] != version
    }
    if not differing:
        return CheckResult("candidate_collations", "ok", "sorts text as the primary does", candidate)
    name, (old, new) = sorted(differing.items())[0]
    found = f"sorts text of {', '.join(sorted(differing))} by version {new} of the collation, the primary by {old}"
    remedy = f"Indexes on text may miss rows afterwards: REINDEX DATABASE {name}, then REFRESH COLLATION VERSION."
    return CheckResult("candidate_collations", "warn", found, candidate, remedy)


def _extensions(candidate: str, here: Software, there: Software, used: Mapping[str, list[str]]) -> CheckResult:
    name = "candidate_extensions"
    missing = sorted(set(used) & set(here.extensions) - set(there.extensions))
    if missing:
        found = "; ".join(f"{one} is not installed, which {', '.join(used[one])} has" for one in missing)
        return CheckResult(name, "refuse", found, candidate, "Install the same packages there as on the primary.")
    other = [one for one in sorted(used) if one in here.extensions and here.extensions[one] != there.extensions[one]]
    if other:
        found = "; ".join(f"{one} {there.extensions[one]}, the primary has {here.extensions[one]}" for one in other)
        return CheckResult(name, "warn", found, candidate, "Install the same packages on both.")
    return CheckResult(name, "ok", f"has all {len(used)} extension(s) that are in use", candidate)


def read_restart(unit: str) -> str:
    """systemd's Restart= of a unit; empty where there is no systemd or no such unit."""
    if not unit or not Path("/run/systemd/system").is_dir():
        return ""
    command = ["systemctl", "show", "--property=Restart", "--value", unit]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False).stdout.strip()


def judge_restart(primary: str, unit: str, restart: str) -> list[CheckResult]:
    """A fast shutdown is a clean end, so only Restart=always (or on-success) starts the server again in the pause."""
    if restart not in ("always", "on-success"):
        return [CheckResult("systemd_restart", "ok", "systemd leaves a server stopped that was stopped", primary)]
    found = f"{unit} has Restart={restart}: systemd starts the old primary again in the pause"
    remedy = "It comes up as a standby, so nothing is lost; but set Restart=on-failure, or the end may be a rollback."
    return [CheckResult("systemd_restart", "warn", found, primary, remedy)]

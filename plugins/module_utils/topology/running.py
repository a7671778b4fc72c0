# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What setup asks an instance that runs on this host, beyond its facts as a member of a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ansible_collections.dbops.fleet.plugins.module_utils.postgres import session
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.instance import Instance, included_files
from ansible_collections.dbops.fleet.plugins.module_utils.topology.instance_facts import (
    InstanceFacts,
    reload_pending,
)

# Settings that name the files which a reload reads. What ALTER SYSTEM has written and nobody has loaded yet is a matter
# of whoever did so; it is in none of them.
_FILES = ("config_file", "hba_file", "ident_file", "ssl_ca_file", "ssl_cert_file", "ssl_key_file")
_QUERY = """
SELECT extract(epoch FROM pg_conf_load_time())::float8, current_setting('data_directory'),
       (SELECT json_object_agg(name, setting) FROM pg_settings WHERE name = ANY(%(files)s) AND setting <> ''),
       ARRAY(SELECT rolname::text FROM pg_roles WHERE rolname = ANY(%(roles)s))
"""


def with_answers(facts: InstanceFacts, instance: Instance, roles: Sequence[str]) -> InstanceFacts:
    """The facts, completed where the server takes sessions.

    Args:
        roles: names to look for among its roles.
    """
    if facts.member.state != "running":
        return facts
    try:
        with instance.connect() as connection:
            (row,) = connection.execute(_QUERY, {"files": list(_FILES), "roles": list(roles)}).fetchall()
    except (session.NotConnected, session.require_psycopg().Error):
        # It went since it was read as a member: nothing is known, as where it does not run.
        return facts
    loaded, data_directory, files, present = row
    return replace(
        facts,
        reload_pending=reload_pending(loaded, _changed(Path(data_directory), files)),
        roles_present=tuple(role for role in roles if role in present),
    )


def _changed(data_directory: Path, files: Mapping[str, str]) -> dict[str, float]:
    """Path to when it last changed.

    A file that was renamed into its place, as managed_files does, or copied with its times has an older time of
    modification than that; so the time when its inode changed is what counts.
    """
    paths = [data_directory / files[name] for name in _FILES if name in files]
    paths += included_files(Path(files["config_file"]).parent)
    changed = {}
    for path in paths:
        with contextlib.suppress(OSError):
            changed[str(path)] = path.stat().st_ctime
    return changed

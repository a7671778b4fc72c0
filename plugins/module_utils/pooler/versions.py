# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs between the PgBouncer versions that are on the hosts (1.18 on Debian 12, 1.24 on Debian 13), as data."""

from __future__ import annotations

import re

Version = tuple[int, int, int]

# The first version that has each thing.
SINCE: dict[str, Version] = {
    "show_state": (1, 19, 0),  # before, `PAUSE pgbouncer` tells a pooler-wide pause by its error; see facts.py
    "peers": (1, 19, 0),  # several processes forward cancel requests to each other
    "auth_dbname": (1, 19, 0),
    "prepared_statements": (1, 21, 0),
    "sigterm_waits_for_clients": (1, 23, 0),  # before, SIGTERM ended at once
    "load_balance_hosts": (1, 24, 0),
    "max_db_client_connections": (1, 24, 0),
    "kill_client": (1, 24, 0),
    "kill_everything": (1, 25, 0),  # KILL without a database
}


def parse_version(text: str) -> Version:
    """``PgBouncer 1.18.0`` (SHOW VERSION, or the first line of ``pgbouncer --version``) as three numbers.

    Text without a version is 0.0.0: then nothing that came later is used.
    """
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if not found:
        return (0, 0, 0)
    return (int(found[1]), int(found[2]), int(found[3] or 0))


def has(version: Version, feature: str) -> bool:
    """Whether this version has one of the features of `SINCE`."""
    return version >= SINCE[feature]

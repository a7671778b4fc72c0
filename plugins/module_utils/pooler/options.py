# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that both of the pooler's modules have."""

from __future__ import annotations

from typing import Any

CONSOLE_OPTIONS: dict[str, Any] = {
    "config_file": {"type": "path", "default": "/etc/pgbouncer/pgbouncer.ini"},
    "endpoints": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str"},
            "host": {"type": "str", "required": True},
            "port": {"type": "int", "default": 6432},
            "user": {"type": "str", "default": "pgbouncer"},
            "password": {"type": "str", "no_log": True},
            "passfile": {"type": "path"},
            "sslmode": {
                "type": "str",
                "choices": ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
                "default": "verify-full",
            },
            "sslrootcert": {"type": "path"},
        },
    },
    "timeout_seconds": {"type": "float", "default": 5.0},
}

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The option of modules that log in to PgBouncer's admin consoles."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  endpoints:
    description: The admin consoles, one per PgBouncer process. If empty, the unix socket that O(config_file) names.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: How results and messages call the process. The host if not given.
        type: str
      host:
        description: Directory of the unix socket, or an address.
        type: str
        required: true
      port:
        description: Port, also of a unix socket.
        type: int
        default: 6432
      user:
        description:
          - One of PgBouncer's C(admin_users); one of its C(stats_users) is enough to read.
          - V(pgbouncer) needs no password on a unix socket; root becomes PgBouncer's operating system user for the
            login.
        type: str
        default: pgbouncer
      password:
        description: Password.
        type: str
      passfile:
        description: Password file in libpq's format.
        type: path
      sslmode:
        description: TLS, for addresses.
        type: str
        choices: [disable, allow, prefer, require, verify-ca, verify-full]
        default: verify-full
      sslrootcert:
        description: File with the CA's certificate.
        type: path
"""

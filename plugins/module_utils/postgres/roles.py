# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which roles of a server are not as they should be: attributes, and passwords against their SCRAM verifiers."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Any

# As in pg_authid.rolpassword (PostgreSQL documentation, chapter "System Catalogs", pg_authid).
_VERIFIER = re.compile(r"SCRAM-SHA-256\$(\d+):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")


def password_matches(password: str, verifier: str | None) -> bool:
    """Whether a server that has this verifier would let this password in (RFC 5802, section 3).

    False as well where that cannot be told: another kind of verifier, or a password beyond ASCII, which SASLprep may
    change.
    """
    found = _VERIFIER.fullmatch(verifier or "")
    if not found or not password.isascii():
        return False
    try:
        salt, stored = base64.b64decode(found[2], validate=True), base64.b64decode(found[3], validate=True)
    except binascii.Error:
        return False
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, int(found[1]))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return hmac.compare_digest(hashlib.sha256(client_key).digest(), stored)


def to_set(
    found: Iterable[Mapping[str, Any]], attributes: Mapping[str, str], passwords: Mapping[str, str]
) -> list[str]:
    """The roles that are missing, lack an attribute, or have another password, in the order of `attributes`.

    Args:
        found: rows of ``pg_authid``: rolname, rolpassword, and rolcanlogin, rolsuper and so on as booleans.
        attributes: role to flags as CREATE ROLE has them, separated by commas: ``LOGIN,NOSUPERUSER``.
        passwords: role to password.

    Raises:
        ValueError: a flag that is not known.
    """
    rows = {row["rolname"]: row for row in found}
    wrong = []
    for role, flags in attributes.items():
        row = rows.get(role)
        if row is None or not _has(row, flags) or not password_matches(passwords[role], row["rolpassword"]):
            wrong.append(role)
    return wrong


_COLUMNS = {
    "LOGIN": "rolcanlogin",
    "SUPERUSER": "rolsuper",
    "CREATEDB": "rolcreatedb",
    "CREATEROLE": "rolcreaterole",
    "REPLICATION": "rolreplication",
    "BYPASSRLS": "rolbypassrls",
    "INHERIT": "rolinherit",
}


def _has(row: Mapping[str, Any], flags: str) -> bool:
    for flag in flags.split(","):
        name = flag.removeprefix("NO")
        if name not in _COLUMNS:
            raise ValueError(f"{flag} is no attribute of a role; known are {', '.join(_COLUMNS)}, each also with NO")
        if row[_COLUMNS[name]] == flag.startswith("NO"):
            return False
    return True

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which roles of a server are not as they should be: attributes, limits, and passwords as SCRAM verifiers."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.databases import is_fleet_role, reserved
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.quoting import identifier, literal

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
    return hmac.compare_digest(_keys(password, salt, int(found[1]))[0], stored)


def verifier(password: str, salt: bytes) -> str:
    """The SCRAM verifier of a password in ASCII, as ``\\password`` of psql sends it. A salt is 16 random bytes.

    A server that gets it can neither log the password nor give it away.
    """
    stored, server = (base64.b64encode(key).decode() for key in _keys(password, salt, _ITERATIONS))
    return f"SCRAM-SHA-256${_ITERATIONS}:{base64.b64encode(salt).decode()}${stored}:{server}"


def _keys(password: str, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    """StoredKey and ServerKey (RFC 5802, section 3)."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return hashlib.sha256(client_key).digest(), hmac.digest(salted, b"Server Key", "sha256")


def statements(
    found: Iterable[Mapping[str, Any]],
    attributes: Mapping[str, str],
    limits: Mapping[str, int],
    passwords: Mapping[str, str],
    salt: Callable[[], bytes],
) -> list[str]:
    """CREATE ROLE or ALTER ROLE for each role that is missing, lacks an attribute, or has another limit or password.

    Args:
        found: rows of ``pg_authid``: rolname, rolpassword, rolconnlimit; rolcanlogin, rolsuper and so on as booleans.
        attributes: role to its options as CREATE ROLE has them: ``LOGIN NOSUPERUSER``.
        limits: role to its connection limit, -1 for none. Of roles that are not named, it is left as it is.
        passwords: role to password. One beyond ASCII is sent as it is, for the server to normalise and encrypt.
        salt: called for each new verifier.

    Returns:
        SQL, in the order of `attributes`.

    Raises:
        ValueError: an option that is not known, or a role that PostgreSQL has for itself or that is a superuser.
    """
    rows = {row["rolname"]: row for row in found}
    for role in attributes:
        why = reserved(role) or ("it is a superuser" if _is_foreign_superuser(rows.get(role), role) else None)
        if why:
            raise ValueError(f"role {role} is never altered: {why}")
    return [
        _statement("ALTER" if role in rows else "CREATE", role, options, limits.get(role), passwords[role], salt)
        for role, options in attributes.items()
        if role not in rows or not _right(rows[role], options, limits.get(role), passwords[role])
    ]


def _is_foreign_superuser(row: Mapping[str, Any] | None, role: str) -> bool:
    return row is not None and row["rolsuper"] and not is_fleet_role(role)


def _right(row: Mapping[str, Any], options: str, limit: int | None, password: str) -> bool:
    limited = limit is None or limit == row["rolconnlimit"]
    return limited and _has(row, options) and password_matches(password, row["rolpassword"])


def _statement(verb: str, role: str, options: str, limit: int | None, password: str, salt: Callable[[], bytes]) -> str:
    sent = verifier(password, salt()) if password.isascii() else password
    limited = "" if limit is None else f" CONNECTION LIMIT {limit:d}"
    return f"{verb} ROLE {identifier(role)} {options}{limited} PASSWORD {literal(sent)}"


# PostgreSQL's default (setting scram_iterations).
_ITERATIONS = 4096
_COLUMNS = {
    "LOGIN": "rolcanlogin",
    "SUPERUSER": "rolsuper",
    "CREATEDB": "rolcreatedb",
    "CREATEROLE": "rolcreaterole",
    "REPLICATION": "rolreplication",
    "BYPASSRLS": "rolbypassrls",
    "INHERIT": "rolinherit",
}


def _has(row: Mapping[str, Any], options: str) -> bool:
    for option in options.split():
        name = option.removeprefix("NO")
        if name not in _COLUMNS:
            raise ValueError(f"{option} is no attribute of a role; known are {', '.join(_COLUMNS)}, each also with NO")
        if row[_COLUMNS[name]] == option.startswith("NO"):
            return False
    return True

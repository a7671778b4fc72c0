# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""libpq connection strings: written, read, and freed from secrets.

A string that is built here never has a password: passwords come from a passfile (see `FLEET_PASSFILE`).
"""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlsplit

FLEET_PASSFILE = "/etc/dbops-fleet/pgpass"
FLEET_CA = "/etc/dbops-fleet/ca.crt"
OPERATOR = "fleet_operator"
REPLICATION = "fleet_replication"

_SECRET = ("password", "sslpassword", "oauth_client_secret")


def quote(value: str) -> str:
    """One value as libpq reads it: plain where possible, else in single quotes."""
    if value and not any(character in "'\\" or character.isspace() for character in value):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def build(parameters: dict[str, str | int | None]) -> str:
    """A keyword/value string in the order given; None leaves a parameter out.

    Raises:
        ValueError: a secret was given.
    """
    secrets = [name for name in parameters if name in _SECRET]
    if secrets:
        raise ValueError(f"{secrets[0]} does not belong in a connection string: use passfile")
    return " ".join(f"{name}={quote(str(value))}" for name, value in parameters.items() if value is not None)


def between_members(
    address: str, port: int, *, application_name: str, user: str = OPERATOR, dbname: str | None = "postgres"
) -> str:
    """How one member of a fleet reaches another: TLS with the host verified, the password from the fleet's passfile.

    Give `user=REPLICATION, dbname=None` for primary_conninfo; with slot synchronisation (PostgreSQL 17) it needs a
    dbname too.
    """
    return build(
        {
            "host": address,
            "port": port,
            "user": user,
            "dbname": dbname,
            "application_name": application_name,
            "sslmode": "verify-full",
            "sslrootcert": FLEET_CA,
            "passfile": FLEET_PASSFILE,
        }
    )


def parse(text: str) -> dict[str, str]:
    """The parameters of a keyword/value string or a `postgresql://` URI. The last of equal names counts, as in libpq.

    Raises:
        ValueError: libpq would not read it either.
    """
    if text.startswith(("postgresql://", "postgres://")):
        return _parse_uri(text)
    found = {}
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        name, equals, _rest = text[position:].partition("=")
        if not equals or not name.strip() or any(character.isspace() for character in name.strip()):
            raise ValueError(f"missing = after {name.split()[0] if name.split() else name!r} in connection string")
        position += len(name) + 1
        while position < len(text) and text[position].isspace():
            position += 1
        found[name.strip()], position = _value(text, position)
    return found


def _value(text: str, position: int) -> tuple[str, int]:
    """The value that begins here and where it ends."""
    quoted = text[position : position + 1] == "'"
    position += quoted
    value = ""
    while position < len(text):
        character = text[position]
        if character == "\\":
            value += text[position + 1 : position + 2]
            position += 2
        elif quoted and character == "'":
            return value, position + 1
        elif not quoted and character.isspace():
            break
        else:
            value += character
            position += 1
    if quoted:
        raise ValueError("unterminated quoted value in connection string")
    return value, position


def _parse_uri(text: str) -> dict[str, str]:
    parts = urlsplit(text)
    account, _at, hosts = parts.netloc.rpartition("@")
    user, _colon, password = account.partition(":")
    found = {"user": unquote(user), "password": unquote(password), "dbname": unquote(parts.path.lstrip("/"))}
    split = [_host_and_port(host) for host in hosts.split(",")]
    found["host"] = ",".join(host for host, _port in split)
    found["port"] = ",".join(port for _host, port in split).strip(",")
    found.update(parse_qsl(parts.query, keep_blank_values=True))
    return {name: value for name, value in found.items() if value}


def _host_and_port(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, _bracket, port = text[1:].partition("]")
        return host, port.lstrip(":")
    host, _colon, port = text.partition(":")
    return unquote(host), port


def without_secrets(text: str) -> str:
    """The same parameters as a keyword/value string without passwords; "(unreadable)" where libpq could not read it."""
    try:
        parameters = parse(text)
    except ValueError:
        # What cannot be read cannot be cleaned either.
        return "(unreadable)"
    return build({name: value for name, value in parameters.items() if name not in _SECRET})

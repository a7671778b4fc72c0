# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What went wrong, and what to do about it: the words of libpq and pg_basebackup, read for the operator."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ansible_collections.dbops.fleet.plugins.module_utils.clone.facts import CloneRequest, Failure, Source

# Text in the server's or libpq's message, what it means, what to do; names in braces are filled in. The server may
# speak another language; then the message is shown as it is.
_CONNECTION = (
    (
        r"password authentication failed|no password supplied",
        "{host} does not accept the password of the role {user}",
        "Correct the line for {user} in {passfile}, or the role's password on {host}.",
    ),
    (
        r"no pg_hba\.conf entry|pg_hba\.conf rejects",
        "{host} lets the role {user} in from nowhere that this host is",
        "Add a line for {user} and this host's address to pg_hba.conf there (`all` does not cover `replication`).",
    ),
    (
        r'role ".*" does not exist|role ".*" is not permitted to log in',
        "{host} has no role {user} that may log in",
        "Create it there, or name another.",
    ),
    (
        r"must be superuser or replication role|permission denied to start WAL sender",
        "The role {user} may not replicate from {host}",
        "ALTER ROLE {user} REPLICATION there.",
    ),
    (
        r"number of requested standby connections exceeds|remaining connection slots|too many clients",
        "{host} takes no more connections",
        "Raise max_wal_senders or max_connections there, or wait for other backups and clones to end.",
    ),
    (
        r"certificate verify failed|server certificate for|root certificate file|does not support SSL|SSL error",
        "No trusted TLS connection to {host} could be made",
        "Compare the address, the server's certificate and the CA file of this host.",
    ),
    (
        r"is starting up|is shutting down|in recovery mode|not yet accepting connections",
        "{host} does not take sessions yet or any more",
        "Wait until it runs, then run again.",
    ),
    (
        r"Connection refused|timeout expired|No route to host|could not translate|Network is unreachable|timed out",
        "{host} cannot be reached on port {port}",
        "Check that the server runs, its listen_addresses, and the network between the hosts.",
    ),
    (
        r'database ".*" does not exist|permission denied for database',
        "The role {user} cannot use the database {dbname} on {host}",
        "Name a database that it may connect to.",
    ),
)

_DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded")
_COPY = (
    (
        r"replication slot .* is active",
        "The replication slot {slot} is in use by somebody else",
        "Every replica needs a slot of its own: name another, or stop the replica that uses this one.",
    ),
    (
        r"requested WAL segment .* has already been removed",
        "{host} has removed WAL that the copy still needed",
        "Use a replication slot, or raise wal_keep_size on {host}; then run again.",
    ),
    (
        r"server closed the connection unexpectedly|could not receive data|connection to server was lost"
        r"|terminating connection|could not read COPY data|unexpected termination of replication stream",
        "{host} broke off the copy",
        "See its log; when it runs again, run again.",
    ),
)


def connection_failure(text: str, source: Source, user: str) -> Failure:
    """The message and remedy for a failed connection; `text` is what libpq said."""
    known = _match(_CONNECTION, text, _values(source, user))
    said = " ".join(text.split())
    if known is None:
        return Failure(f"The connection to {source.host} as {user} failed: {said}", "Correct the cause and run again.")
    return Failure(f"{known.message} ({said})", known.remedy)


def copy_failure(messages: Sequence[str], ended: str, request: CloneRequest, disk: str) -> Failure:
    """The message and remedy for a pg_basebackup that did not succeed.

    Args:
        messages: the last lines that it wrote, without progress.
        ended: how it ended, such as "exit code 1" or "killed by signal 9".
        disk: sentence on the space that was there and was needed, for when it ran out.
    """
    text = "\n".join(messages)
    if _DISK_FULL.search(text):
        return Failure(f"The disk is full: {disk}", "Make room or enlarge the filesystem, then run again.")
    source = request.source
    values = {**_values(source, source.user), "slot": request.slot or ""}
    known = _match(_COPY, text, values) or _match(_CONNECTION, text, values)
    errors = [line for line in messages if "error:" in line or "FATAL" in line] or list(messages[-1:])
    said = "; ".join(errors[-3:]) or "it said nothing"
    if known is None:
        return Failure(f"pg_basebackup from {source.host} failed, {ended}: {said}", "Correct the cause and run again.")
    return Failure(f"{known.message} ({said})", known.remedy)


def _values(source: Source, user: str) -> dict[str, str]:
    passfile = source.passfile or "~/.pgpass of the owner of the data directory"
    return {"host": source.host, "port": str(source.port), "user": user, "passfile": passfile, "dbname": source.dbname}


def _match(table: tuple[tuple[str, str, str], ...], text: str, values: dict[str, str]) -> Failure | None:
    for pattern, message, remedy in table:
        if re.search(pattern, text):
            return Failure(message.format(**values), remedy.format(**values))
    return None

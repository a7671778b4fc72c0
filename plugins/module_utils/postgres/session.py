# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SQL sessions with a server on this host or on another, every wait bounded.

All sessions are in autocommit, speak UTF-8 whatever the database's encoding is, and look names up in pg_catalog only.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError

if TYPE_CHECKING:
    import psycopg

SOCKET_DIRECTORY = "/var/run/postgresql"

# seteuid is for the whole process, so only one thread at a time may do it.
_identity = threading.Lock()


class NotConnected(FleetError):
    """No session could be had.

    Attributes:
        reason: "refused" (the host answers, nobody listens), "timeout" (no answer in time: host down, cut off or
            frozen), "starting" (a server is there but takes no sessions yet or any more), "rejected" (a server is there
            and said no: authentication, TLS, no such database, too many connections), "unresolved" (unknown host name).
    """

    def __init__(self, message: str, reason: str, *, host: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message, host=host, remedy=remedy, reason=reason)
        self.reason = reason


def require_psycopg() -> Any:
    """The module psycopg.

    Raises:
        FleetError: it is not installed.
    """
    try:
        import psycopg
    except ImportError as error:
        raise FleetError(
            f"Python cannot import psycopg 3: {error}", remedy="Install the package python3-psycopg on this host."
        ) from error
    return psycopg


def connect_local(
    port: int = 5432,
    socket_directory: str = SOCKET_DIRECTORY,
    *,
    dbname: str = "postgres",
    user: str = "postgres",
    application_name: str = "dbops.fleet",
    connect_timeout: float = 5.0,
    statement_timeout: float = 30.0,
) -> psycopg.Connection[tuple[Any, ...]]:
    """A superuser's session over the unix socket, as the OS user who owns it.

    Peer authentication looks at who opens the socket. So root takes the server's own OS user for that moment: it works
    on every Debian instance, whether its pg_ident.conf knows root or not.

    Args:
        connect_timeout: seconds.
        statement_timeout: seconds; 0 for none.

    Raises:
        NotConnected, FleetError: see `require_psycopg`.
    """
    path = Path(socket_directory) / f".s.PGSQL.{port}"
    parameters = {"host": socket_directory, "port": port, "dbname": dbname, "user": user}
    parameters |= {"application_name": application_name, "connect_timeout": _whole(connect_timeout)}
    require_psycopg()
    try:
        owner = path.stat().st_uid
    except OSError as error:
        raise NotConnected(
            f"there is no socket {path}", "refused", remedy="Is PostgreSQL running, and with this port?"
        ) from error
    with _as_user(owner):
        return _connect("", parameters, connect_timeout, statement_timeout, str(path))


def connect_remote(
    conninfo: str,
    *,
    connect_timeout: float = 3.0,
    statement_timeout: float = 10.0,
    tcp_user_timeout: float = 5.0,
    **parameters: str,
) -> psycopg.Connection[tuple[Any, ...]]:
    """A session over TCP.

    Args:
        conninfo: libpq string without a password, such as `conninfo.between_members` makes.
        connect_timeout: seconds; libpq takes no less than 2.
        statement_timeout: seconds, measured by the server. See `deadline` for a server that hangs.
        tcp_user_timeout: seconds after which data that the other host has not acknowledged end the session.
        parameters: further libpq parameters.

    Raises:
        NotConnected, FleetError: see `require_psycopg`.
    """
    require_psycopg()
    bounds: dict[str, Any] = {
        "connect_timeout": max(2, _whole(connect_timeout)),
        "tcp_user_timeout": int(tcp_user_timeout * 1000),
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
    }
    return _connect(conninfo, bounds | parameters, connect_timeout, statement_timeout, None)


@contextlib.contextmanager
def deadline(connection: psycopg.Connection[Any], seconds: float) -> Iterator[None]:
    """Cut the session off if the block takes longer, so that even a frozen server (whose kernel still answers) cannot
    hold us. The block then fails with psycopg.OperationalError, and the connection is broken."""
    descriptor = os.dup(connection.fileno())
    with socket.socket(fileno=descriptor) as wire:

        def cut() -> None:
            with contextlib.suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()


def _connect(
    conninfo: str, parameters: dict[str, Any], timeout: float, statement_timeout: float, where: str | None
) -> psycopg.Connection[tuple[Any, ...]]:
    driver = require_psycopg()
    options = f"-c search_path=pg_catalog -c statement_timeout={int(statement_timeout * 1000)}"
    whole = {**driver.conninfo.conninfo_to_dict(conninfo), "client_encoding": "UTF8", **parameters}
    whole["options"] = f"{whole.get('options', '')} {options}".strip()
    started = time.monotonic()
    try:
        connection: psycopg.Connection[tuple[Any, ...]] = driver.connect("", autocommit=True, **whole)
    except driver.Error as error:
        waited = time.monotonic() - started
        text = driver.conninfo.make_conninfo("", **whole)
        place = where or f"{whole.get('host')} port {whole.get('port', 5432)}"
        reason = _why(whole, text, waited >= timeout - 0.1)
        raise NotConnected(f"no session with {place}: {' '.join(str(error).split())}", reason) from error
    return connection


def _why(parameters: dict[str, Any], text: str, timed_out: bool) -> str:
    """Why there is no session. Asked of the network and the server, because messages are translated."""
    if timed_out:
        return "timeout"
    driver = require_psycopg()
    host, port = str(parameters.get("host", "")), int(parameters.get("port", 5432))
    try:
        if host.startswith("/"):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(2)
                probe.connect(f"{host}/.s.PGSQL.{port}")
        else:
            socket.create_connection((parameters.get("hostaddr") or host, port), timeout=2).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return "refused"
    except socket.gaierror:
        return "unresolved"
    except OSError:
        return "timeout"
    answer = driver.pq.PGconn.ping(text.encode())
    return {driver.pq.Ping.REJECT: "starting", driver.pq.Ping.NO_RESPONSE: "timeout"}.get(answer, "rejected")


@contextlib.contextmanager
def _as_user(uid: int) -> Iterator[None]:
    if os.geteuid() != 0 or uid == 0:
        yield
        return
    with _identity:
        os.seteuid(uid)
        try:
            yield
        finally:
            os.seteuid(0)


def _whole(seconds: float) -> int:
    return max(1, round(seconds))

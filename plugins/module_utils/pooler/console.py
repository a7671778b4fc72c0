# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One login, or many side by side, at PgBouncer's admin console.

The console knows the simple query protocol only, without transactions and parameters. libpq's asynchronous calls
(`psycopg.pq`, the same in psycopg 3.1 and 3.2) give exactly that, and let one thread wait for any number of consoles
under one deadline: a PAUSE that does not come back never blocks the work on the others.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

# One row of an answer: column name to text, None for an empty (NULL) column.
Row: TypeAlias = "Mapping[str, str | None]"

# The effective user of the process is changed for the moment of connecting to a local socket; see `_as_socket_owner`.
_EFFECTIVE_USER = threading.Lock()
# One try to reach one of several processes that share a port, and the pause before the next.
_ATTEMPT_SECONDS, _RETRY_SECONDS = 1.0, 0.01
_TRIES_BESIDE_A_SILENT_ONE = 4


@dataclass(frozen=True)
class Endpoint:
    """Where the admin console of one PgBouncer process is. With several processes each has an endpoint of its own.

    Attributes:
        name: how messages call this process, such as ``pool1`` or ``pool1/2``.
        host: an address, or the directory of the unix socket (starts with ``/``).
        port: also of a unix socket, whose file is called ``.s.PGSQL.<port>``.
        user: one of ``admin_users``. ``pgbouncer`` logs in without password on a unix socket, if the operating system
            user is the one of the PgBouncer process; a process of root becomes that user for the moment of the login.
        password: left out, libpq looks into `passfile`.
        sslmode, sslrootcert: for TCP only.
        process: of several processes that listen on one TCP port (``so_reuseport``), the directory of the unix socket
            of the one that is meant. The kernel gives each login to one of them.
    """

    name: str
    host: str
    port: int = 6432
    user: str = "pgbouncer"
    password: str | None = field(default=None, repr=False)
    passfile: str | None = None
    sslmode: str = "verify-full"
    sslrootcert: str | None = None
    process: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether the console is reached over a unix socket."""
        return self.host.startswith("/")

    @property
    def socket_path(self) -> str:
        """The file of the unix socket."""
        return f"{self.host}/.s.PGSQL.{self.port}"

    def conninfo(self, application_name: str) -> dict[str, str]:
        """libpq's connection parameters for the console."""
        parameters = {
            "host": self.host,
            "port": str(self.port),
            "user": self.user,
            "dbname": "pgbouncer",
            "application_name": application_name,
        }
        if self.password is not None:
            parameters["password"] = self.password
        if self.passfile:
            parameters["passfile"] = self.passfile
        if not self.is_local:
            parameters |= {"sslmode": self.sslmode, "keepalives_idle": "5", "tcp_user_timeout": "10000"}
            if self.sslrootcert:
                parameters["sslrootcert"] = self.sslrootcert
        return parameters


@dataclass(frozen=True)
class Reply:
    """What one console answered.

    Attributes:
        rows: the rows of a SHOW command; empty for other commands.
        error: PgBouncer's or libpq's message, None when the command succeeded.
        timed_out: whether the deadline passed first. The console is then still busy and good for nothing but closing.
        seconds: from sending to the answer.
    """

    rows: tuple[Row, ...] = ()
    error: str | None = None
    timed_out: bool = False
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the command succeeded."""
        return self.error is None


class Console:
    """An open login. Made by `open_together`; takes one command at a time."""

    def __init__(self, endpoint: Endpoint, connection: PGconn) -> None:
        self.endpoint = endpoint
        self._connection = connection
        self._results: list[PGresult] = []

    def close(self) -> None:
        """Hang up. Closing a console that waits in a PAUSE leaves that database paused."""
        self._connection.finish()

    # The steps of one command, for `run_together`.

    @property
    def socket(self) -> int:
        """The file descriptor to wait on."""
        return int(self._connection.socket)

    def start(self, command: str) -> None:
        """Send a command."""
        self._results = []
        self._connection.send_query(command.encode())
        self._connection.flush()

    def collect(self) -> Reply | None:
        """Read what has arrived: the reply once it is complete, None before."""
        self._connection.flush()
        self._connection.consume_input()
        while not self._connection.is_busy():
            result = self._connection.get_result()
            if result is None:
                return _reply(self._results)
            self._results.append(result)
        return None


def open_together(
    endpoints: Sequence[Endpoint], timeout_seconds: float = 5.0, application_name: str = "dbops-fleet"
) -> list[Console | OperationFailed]:
    """Log in at every endpoint at the same time.

    A login that reaches another one of several processes on its port is ended, and tried again.

    Args:
        endpoints: where; one of them may be named several times and then gets several logins.
        timeout_seconds: for all of them together.
        application_name: what SHOW CLIENTS shows.

    Returns:
        In the order of `endpoints`, a console or the error that says why there is none.
    """
    deadline = time.monotonic() + timeout_seconds
    sharing = [number for number, endpoint in enumerate(endpoints) if endpoint.process is not None]
    alone = [number for number, endpoint in enumerate(endpoints) if endpoint.process is None]
    if not sharing:
        return _log_in(endpoints, deadline, timeout_seconds, application_name)
    if not alone:
        return _log_in_to_processes(endpoints, deadline, timeout_seconds, application_name)
    # Threads that import the same module at the same moment see it half made; where it is missing, each login says so.
    with contextlib.suppress(ImportError):
        import psycopg.conninfo
        import psycopg.pq  # noqa: F401
    # Side by side: one that does not answer must not take the others' time.
    with ThreadPoolExecutor(1) as background:
        retried = background.submit(
            _log_in_to_processes, [endpoints[number] for number in sharing], deadline, timeout_seconds, application_name
        )
        direct = _log_in([endpoints[number] for number in alone], deadline, timeout_seconds, application_name)
        outcomes = dict(zip(alone, direct, strict=True)) | dict(zip(sharing, retried.result(), strict=True))
    return [outcomes[number] for number in range(len(endpoints))]


def _log_in_to_processes(
    endpoints: Sequence[Endpoint], deadline: float, timeout_seconds: float, application_name: str
) -> list[Console | OperationFailed]:
    """Log in until each login has reached its process: the kernel gives it to any of those that share the port.

    One of them may be frozen or about to end. So an attempt is short, an error is no end, and once somebody did not
    answer, the others are tried for several times in one attempt.
    """
    reached: dict[int, Console] = {}
    heard = dict.fromkeys(range(len(endpoints)), "nothing answered")
    tries = 1
    while (missing := [number for number in heard if number not in reached]) and time.monotonic() < deadline:
        attempt = min(deadline, time.monotonic() + _ATTEMPT_SECONDS)
        numbers = missing * tries
        fresh = _log_in([endpoints[number] for number in numbers], attempt, _ATTEMPT_SECONDS, application_name)
        consoles = []
        for number, outcome in zip(numbers, fresh, strict=True):
            if isinstance(outcome, Console):
                consoles.append((number, outcome))
            else:
                heard[number] = outcome.message
        if time.monotonic() >= attempt:
            tries = _TRIES_BESIDE_A_SILENT_ONE
        # Whoever has logged in answers at once.
        replies = run_together([(console, "SHOW CONFIG") for _number, console in consoles], _ATTEMPT_SECONDS)
        for (number, console), reply in zip(consoles, replies, strict=True):
            directory = next((row["value"] for row in reply.rows if row["key"] == "unix_socket_dir"), None)
            if directory == console.endpoint.process and number not in reached:
                reached[number] = console
                continue
            heard[number] = reply.error or f"the process of {directory} answers"
            console.close()
        if len(reached) < len(endpoints):
            time.sleep(_RETRY_SECONDS)
    late = f"no login reached it within {timeout_seconds:g} s"
    return [
        reached.get(number) or _unreachable(endpoint, f"{late}; at last {heard[number]}")
        for number, endpoint in enumerate(endpoints)
    ]


def _log_in(
    endpoints: Sequence[Endpoint], deadline: float, timeout_seconds: float, application_name: str
) -> list[Console | OperationFailed]:
    outcomes: dict[int, Console | OperationFailed] = {}
    waiting: dict[int, tuple[PGconn, int]] = {}
    for number, endpoint in enumerate(endpoints):
        try:
            waiting[number] = (_start_login(endpoint, application_name), select.POLLOUT)
        except OSError as error:
            outcomes[number] = _unreachable(endpoint, str(error))
    while waiting:
        ready = _wait({connection.socket: events for connection, events in waiting.values()}, deadline)
        for number, (connection, _events) in list(waiting.items()):
            if ready is None:
                connection.finish()
                del waiting[number]
                outcomes[number] = _unreachable(endpoints[number], f"no answer within {timeout_seconds:g} s")
            elif connection.socket in ready:
                events = _go_on_with_login(connection)
                if events:
                    waiting[number] = (connection, events)
                else:
                    del waiting[number]
                    outcomes[number] = _finish_login(endpoints[number], connection)
    return [outcomes[number] for number in range(len(endpoints))]


def run_together(work: Sequence[tuple[Console, str]], timeout_seconds: float) -> list[Reply]:
    """Send every command at once and wait for all the answers.

    Args:
        work: consoles, each at most once, with the command for it.
        timeout_seconds: for all of them together. What has not answered by then is reported as ``timed_out``.

    Returns:
        The replies in the order of `work`. A lost connection is a reply with an error.
    """
    started = time.monotonic()
    deadline = started + timeout_seconds
    replies: dict[int, Reply] = {}
    for number, (console, command) in enumerate(work):
        try:
            console.start(command)
        except Exception as error:  # psycopg's own classes; whatever it is, this console is lost
            replies[number] = Reply(error=_plain(error))
    while len(replies) < len(work):
        waiting = {number: work[number][0] for number in range(len(work)) if number not in replies}
        ready = _wait({console.socket: select.POLLIN for console in waiting.values()}, deadline)
        elapsed = time.monotonic() - started
        for number, console in waiting.items():
            if ready is None:
                replies[number] = Reply(
                    error=f"no answer within {timeout_seconds:g} s", timed_out=True, seconds=elapsed
                )
            elif console.socket in ready:
                try:
                    reply = console.collect()
                except Exception as error:
                    reply = Reply(error=_plain(error))
                if reply is not None:
                    replies[number] = replace(reply, seconds=elapsed)
    return [replies[number] for number in range(len(work))]


def _start_login(endpoint: Endpoint, application_name: str) -> PGconn:
    try:
        from psycopg.conninfo import make_conninfo
        from psycopg.pq import PGconn
    except ImportError as error:
        raise OSError(f"psycopg 3 is missing ({error}); install python3-psycopg") from error
    conninfo = make_conninfo(**endpoint.conninfo(application_name)).encode()
    # libpq connects to a unix socket inside this call, and PgBouncer asks the kernel who did.
    with _as_socket_owner(endpoint):
        connection = PGconn.connect_start(conninfo)
    if connection.status == 1:  # CONNECTION_BAD
        message = _message(connection)
        connection.finish()
        raise OSError(message)
    return connection


def _go_on_with_login(connection: PGconn) -> int:
    """One step of libpq's login; the events to wait for next, 0 when it is over, one way or the other."""
    from psycopg.pq import PollingStatus

    return {PollingStatus.READING: select.POLLIN, PollingStatus.WRITING: select.POLLOUT}.get(
        PollingStatus(connection.connect_poll()), 0
    )


def _finish_login(endpoint: Endpoint, connection: PGconn) -> Console | OperationFailed:
    if connection.status == 0:  # CONNECTION_OK
        connection.nonblocking = 1
        return Console(endpoint, connection)
    message = _message(connection)
    connection.finish()
    return _unreachable(endpoint, message)


def _unreachable(endpoint: Endpoint, reason: str) -> OperationFailed:
    where = endpoint.socket_path if endpoint.is_local else f"{endpoint.host}:{endpoint.port}"
    if endpoint.process is not None:
        where += f" (the process of {endpoint.process})"
    return OperationFailed(
        f"The admin console of PgBouncer at {where} cannot be reached as {endpoint.user}: {reason}",
        host=endpoint.name,
        remedy="Check that PgBouncer runs there, that this user is one of admin_users, and its password.",
    )


def _wait(wishes: Mapping[int, int], deadline: float) -> set[int] | None:
    """The descriptors that are ready, or None when the deadline has passed."""
    poll = select.poll()
    for descriptor, events in wishes.items():
        poll.register(descriptor, events)
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        return None
    return {descriptor for descriptor, _events in poll.poll(remaining * 1000)} or None


@contextlib.contextmanager
def _as_socket_owner(endpoint: Endpoint) -> Iterator[None]:
    """Be the operating system user of a local PgBouncer, if root asks to log in as `pgbouncer` there."""
    if not endpoint.is_local or endpoint.user != "pgbouncer" or os.geteuid() != 0:
        yield
        return
    owner = os.stat(endpoint.socket_path).st_uid
    with _EFFECTIVE_USER:
        os.seteuid(owner)
        try:
            yield
        finally:
            os.seteuid(0)


def _reply(results: Sequence[PGresult]) -> Reply:
    rows: list[Row] = []
    for result in results:
        if result.error_message:
            return Reply(error=_one_line(result.error_message.decode(errors="replace")))
        names = [(result.fname(column) or b"").decode() for column in range(result.nfields)]
        for row in range(result.ntuples):
            values = [result.get_value(row, column) for column in range(result.nfields)]
            rows.append(
                dict(zip(names, (None if v is None else v.decode(errors="replace") for v in values), strict=True))
            )
    return Reply(rows=tuple(rows))


def _message(connection: PGconn) -> str:
    return _one_line(connection.error_message.decode(errors="replace"))


def _plain(error: Exception) -> str:
    return _one_line(str(error)) or type(error).__name__


def _one_line(message: str) -> str:
    return " ".join(message.split()).removeprefix("ERROR: ").strip()

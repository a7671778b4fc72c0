# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a switchover, a failover and an operator do with poolers: hold clients, point elsewhere, let them go.

Every console is open before the first command, so that nothing but commands lies between PAUSE and RESUME.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeAlias

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.console import (
    Console,
    Endpoint,
    Reply,
    open_together,
    run_together,
)
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.facts import Database, Peer, Pool, PoolerFacts
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.judge import holding_up, target_matches
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.names import identifier, literal
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.read import facts_of

# What an action left at each endpoint: None where it worked, else the reason why not. Keys are names of endpoints.
Errors: TypeAlias = "dict[str, str | None]"

POLL_SECONDS = 0.005

# Settings of the running processes that a pause changes, and its end puts back.
_SET_IN_A_PAUSE = ("min_pool_size", "server_login_retry")
_RETRY_AT_ONCE = "0.001"


@dataclass(frozen=True)
class Pause:
    """A pause that holds everywhere.

    Attributes:
        seconds: from the first command to the last answer.
        login_wait_seconds: the part of it spent waiting for server logins to end.
        paused: (endpoint, database) pairs that this call paused.
        already_paused: pairs that were paused before and were left alone.
        logins_in_flight: server logins that had not ended when PAUSE was sent after all; PgBouncer broke them off.
    """

    seconds: float
    login_wait_seconds: float
    paused: tuple[tuple[str, str], ...]
    already_paused: tuple[tuple[str, str], ...]
    logins_in_flight: int


class PauseFailed(OperationFailed):
    """Not every pooler could be paused in time. What had been paused is resumed again, as far as could be verified.

    Attributes:
        still_paused: (endpoint, database) pairs that could not be verified as resumed.
    """

    def __init__(self, message: str, still_paused: Sequence[tuple[str, str]], remedy: str, **details: Any) -> None:
        self.still_paused = tuple(still_paused)
        super().__init__(message, remedy=remedy, still_paused=[list(pair) for pair in still_paused], **details)


@dataclass(eq=False)
class _Held:
    """One database at one process: a console to pause it with and another one that stays free to undo that."""

    endpoint: str
    database: str
    pauser: Console
    rescuer: Console

    @property
    def pair(self) -> tuple[str, str]:
        return (self.endpoint, self.database)


class Poolers:
    """The PgBouncer processes that serve some databases, with all consoles open. Use it in a ``with`` block."""

    def __init__(self, general: Sequence[Console], held: Sequence[_Held]) -> None:
        self._general = list(general)
        self._held = list(held)
        # By endpoint, what the settings were that are changed for a pause.
        self._noted: dict[str, dict[str, str]] = {}

    @classmethod
    def open(
        cls,
        endpoints: Sequence[Endpoint],
        databases: Iterable[str],
        timeout_seconds: float = 5.0,
        application_name: str = "dbops-fleet",
    ) -> Poolers:
        """Log in everywhere: once per process, and twice per process and database.

        Raises:
            OperationFailed: one of them cannot be reached; nothing is left open then.
        """
        names = list(dict.fromkeys(databases))
        wanted = list(endpoints) + [endpoint for endpoint in endpoints for _name in names for _role in range(2)]
        outcomes = open_together(wanted, timeout_seconds, application_name)
        consoles = [outcome for outcome in outcomes if isinstance(outcome, Console)]
        if len(consoles) < len(outcomes):
            for console in consoles:
                console.close()
            raise next(outcome for outcome in outcomes if isinstance(outcome, OperationFailed))
        rest = iter(consoles[len(endpoints) :])
        held = [_Held(endpoint.name, name, next(rest), next(rest)) for endpoint in endpoints for name in names]
        return cls(consoles[: len(endpoints)], held)

    def __enter__(self) -> Poolers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up everywhere. It resumes nothing."""
        for console in self._general:
            console.close()
        for held in self._held:
            held.pauser.close()
            held.rescuer.close()

    def facts(self, timeout_seconds: float = 5.0, *, traffic: bool = False) -> tuple[PoolerFacts, ...]:
        """What each process says now."""
        return facts_of(self._general, timeout_seconds, traffic=traffic)

    def databases(self, timeout_seconds: float = 1.0) -> dict[str, tuple[Database, ...]]:
        """SHOW DATABASES by endpoint; an endpoint that does not answer is missing."""
        replies = self._ask("SHOW DATABASES", timeout_seconds)
        return {name: tuple(map(Database.from_row, reply.rows)) for name, reply in replies.items() if reply.ok}

    def pause(self, budget_seconds: float) -> Pause:
        """Pause every database at every process at once, or none.

        PAUSE waits for transactions to end. A server connection that is logging in at that moment would be broken
        off, and PgBouncer would not try again for `server_login_retry`; so the logins are waited for first, and no
        new ones begin without a client's need.

        Args:
            budget_seconds: until the last PAUSE must have answered. Up to half of it is for the logins.

        Raises:
            PauseFailed: at least one did not answer in time; the others have been resumed.
        """
        started = time.monotonic()
        already = self._already_paused(budget_seconds / 2)
        self._keep_from_filling_pools(budget_seconds / 2)
        work = [held for held in self._held if held.pair not in already]
        logins = self._wait_for_logins(started + budget_seconds / 2)
        sent = time.monotonic()
        replies = run_together(
            [(held.pauser, f"PAUSE {identifier(held.database)}") for held in work], started + budget_seconds - sent
        )
        failed = [(held, reply) for held, reply in zip(work, replies, strict=True) if not reply.ok]
        if failed:
            raise self._undo(work, failed, budget_seconds)
        return Pause(
            seconds=time.monotonic() - started,
            login_wait_seconds=sent - started,
            paused=tuple(held.pair for held in work),
            already_paused=tuple(sorted(already)),
            logins_in_flight=logins,
        )

    def resume(self, timeout_seconds: float = 5.0) -> Errors:
        """RESUME every database everywhere and verify it. One that is not paused is fine.

        Args:
            timeout_seconds: for the commands, and again for the verification.
        """
        unverified = self._resume(self._held, timeout_seconds)
        errors: Errors = {held.endpoint: None for held in self._held}
        for held, reason in unverified:
            errors[held.endpoint] = f"{held.database}: {reason}"
        return errors

    def kill(self, timeout_seconds: float = 5.0) -> Errors:
        """KILL every database: drop its clients and servers at once. It stays paused until `resume`."""
        return self._each("KILL", timeout_seconds)

    def reconnect(self, timeout_seconds: float = 5.0) -> Errors:
        """RECONNECT every database: server connections are replaced as soon as they are free."""
        return self._each("RECONNECT", timeout_seconds)

    def reload(self, timeout_seconds: float = 5.0) -> Errors:
        """Make every process read its files again.

        PgBouncer says yes to RELOAD even when the files are bad and it goes on with the old ones: verify what you
        wanted, for databases with `wait_target`.
        """
        return {name: reply.error for name, reply in self._ask("RELOAD", timeout_seconds).items()}

    def wait_target(self, database: str, host: str, port: int, timeout_seconds: float = 1.0) -> Errors:
        """Wait until `database` points to this server everywhere, after a `reload`.

        Args:
            database: the entry's name.
            host: exactly as in the file.
            port: of the server.
            timeout_seconds: for all endpoints together.
        """

        def check(rows: tuple[Database, ...]) -> str | None:
            found = next((row for row in rows if row.name == database), None)
            if target_matches(found, host, port):
                return None
            return f"{database} points to {f'{found.host}:{found.port}' if found else 'nothing'}, not to {host}:{port}"

        return self._wait_for_databases(check, timeout_seconds)

    def who_holds_up(self, timeout_seconds: float = 0.5) -> dict[str, tuple[str, ...]]:
        """Clients whose transactions (in session mode: whose connections) keep a PAUSE waiting, by endpoint."""
        servers = self._ask("SHOW SERVERS", timeout_seconds)
        clients = self._ask("SHOW CLIENTS", timeout_seconds)
        names = list(dict.fromkeys(held.database for held in self._held))
        return {
            endpoint: tuple(
                f"{name}: {sentence}"
                for name in names
                for sentence in holding_up(
                    [Peer.from_row(row) for row in reply.rows],
                    [Peer.from_row(row) for row in clients[endpoint].rows],
                    name,
                )
            )
            for endpoint, reply in servers.items()
        }

    def _ask(self, command: str, timeout_seconds: float) -> dict[str, Reply]:
        """One command at every process. A console that did not answer in time answers nothing from then on."""
        replies = run_together([(console, command) for console in self._general], timeout_seconds)
        return {console.endpoint.name: reply for console, reply in zip(self._general, replies, strict=True)}

    def _each(self, verb: str, timeout_seconds: float) -> Errors:
        commands = [(held.rescuer, f"{verb} {identifier(held.database)}") for held in self._held]
        errors: Errors = {held.endpoint: None for held in self._held}
        for held, reply in zip(self._held, run_together(commands, timeout_seconds), strict=True):
            if not reply.ok:
                errors[held.endpoint] = f"{held.database}: {reply.error}"
        return errors

    def _already_paused(self, timeout_seconds: float) -> set[tuple[str, str]]:
        by_endpoint = self.databases(timeout_seconds)
        silent = [console.endpoint.name for console in self._general if console.endpoint.name not in by_endpoint]
        if silent:
            raise PauseFailed(
                f"The poolers were not paused: no answer from {', '.join(silent)}",
                [],
                "Nothing has been paused. Start or thaw PgBouncer there, or leave it out.",
            )
        return {
            held.pair
            for held in self._held
            if any(row.name == held.database and row.paused for row in by_endpoint[held.endpoint])
        }

    def _wait_for_logins(self, until: float) -> int:
        """Wait for a moment without server logins; how many there were when time was up."""
        names = {held.database for held in self._held}
        while True:
            replies = self._ask("SHOW POOLS", max(until - time.monotonic(), 0.01))
            pools = [Pool.from_row(row) for reply in replies.values() for row in reply.rows]
            logins = sum(pool.sv_login for pool in pools if pool.database in names)
            if not logins or time.monotonic() >= until:
                return logins
            time.sleep(POLL_SECONDS)

    def _keep_from_filling_pools(self, timeout_seconds: float) -> None:
        """Set min_pool_size to 0 in the running processes until `resume` or a RELOAD.

        Three times a second PgBouncer opens connections up to min_pool_size, also for a database that is paused (only
        a PAUSE of all databases stops it: janitor.c, check_pool_size). Where such a login meets a server that shuts
        down, PgBouncer refuses new clients after RESUME until a login has worked.
        """
        self._note_settings(timeout_seconds)
        self._set_noted("min_pool_size", timeout_seconds, "0")

    def _log_in_at_once(self, timeout_seconds: float) -> None:
        """Put the settings back, and until then have PgBouncer wait for nothing before its next login.

        One that broke off in the pause would keep it from that for `server_login_retry`, and from then on until it
        wakes up, up to a third of a second later. A command at the console wakes it up. All this comes after RESUME:
        a process that does not answer must not keep clients of the others waiting.
        """
        self._note_settings(timeout_seconds)
        self._set_noted("server_login_retry", timeout_seconds, _RETRY_AT_ONCE)
        for setting in _SET_IN_A_PAUSE:
            self._set_noted(setting, timeout_seconds)

    def _note_settings(self, timeout_seconds: float) -> None:
        if not self._noted:
            for name, reply in self._ask("SHOW CONFIG", timeout_seconds).items():
                values = {row["key"] or "": row["value"] or "" for row in reply.rows}
                self._noted[name] = {setting: values[setting] for setting in _SET_IN_A_PAUSE if setting in values}

    def _set_noted(self, setting: str, timeout_seconds: float, value: str | None = None) -> None:
        """Change a setting where its value is known, or (without a value) put that back."""
        commands = [
            (console, f"SET {setting} = {literal(value or noted[setting])}")
            for console in self._general
            if setting in (noted := self._noted.get(console.endpoint.name, {}))
        ]
        run_together(commands, timeout_seconds)

    def _undo(self, work: Sequence[_Held], failed: Sequence[tuple[_Held, Reply]], budget_seconds: float) -> PauseFailed:
        """Resume everything that may have been paused, and say what went wrong."""
        holding = self.who_holds_up(timeout_seconds=0.2)
        for held in work:
            # A PAUSE that is still waiting ends only with its login.
            held.pauser.close()
        unverified = self._resume(work, timeout_seconds=1.0)
        still = [held.pair for held, _reason in unverified]
        reasons = "; ".join(f"{held.database} at {held.endpoint}: {reply.error}" for held, reply in failed)
        sentences = [f"{endpoint}: {sentence}" for endpoint in holding for sentence in holding[endpoint]]
        if sentences:
            reasons += f". Waiting for {'; '.join(sentences)}"
        if still:
            places = ", ".join(f"{database} at {endpoint}" for endpoint, database in still)
            remedy = (
                f"Everything else is resumed, but not verified for {places}: the dead-man there resumes it once the "
                f"process answers again; if none is armed, run RESUME at its console."
            )
        else:
            remedy = "Everything is resumed. End the transactions that hold it up, or allow more time, and try again."
        return PauseFailed(
            f"The poolers could not be paused within {budget_seconds:g} s: {reasons}",
            still,
            remedy,
            waiting_for=sentences,
        )

    def _resume(self, chosen: Sequence[_Held], timeout_seconds: float) -> list[tuple[_Held, str]]:
        """RESUME, once more over a fresh login where the first failed; what is not verified as resumed, and why."""
        failures = self._send_resume(chosen, timeout_seconds)
        # A process that is frozen has RESUME in its receive buffer now, behind PAUSE, and obeys when it is thawed.
        outcomes = open_together([held.rescuer.endpoint for held, _reason in failures], timeout_seconds)
        again = []
        for (held, _reason), outcome in zip(failures, outcomes, strict=True):
            if isinstance(outcome, Console):
                held.rescuer.close()
                held.rescuer = outcome
                again.append(held)
        lost = [(held, reason) for held, reason in failures if held not in again]
        lost += self._send_resume(again, timeout_seconds)
        reached = [held for held in chosen if held not in [one for one, _reason in lost]]
        replies = run_together([(held.rescuer, "SHOW DATABASES") for held in reached], timeout_seconds)
        for held, reply in zip(reached, replies, strict=True):
            rows = [Database.from_row(row) for row in reply.rows]
            if not reply.ok:
                lost.append((held, reply.error or ""))
            elif any(row.name == held.database and row.paused for row in rows):
                lost.append((held, "still paused"))
        self._log_in_at_once(timeout_seconds)
        return lost

    def _send_resume(self, chosen: Sequence[_Held], timeout_seconds: float) -> list[tuple[_Held, str]]:
        commands = [(held.rescuer, f"RESUME {identifier(held.database)}") for held in chosen]
        replies = run_together(commands, timeout_seconds)
        # "database ... is not paused" is what was wanted.
        return [
            (held, reply.error)
            for held, reply in zip(chosen, replies, strict=True)
            if reply.error is not None and "is not paused" not in reply.error
        ]

    def _wait_for_databases(
        self, check: Callable[[tuple[Database, ...]], str | None], timeout_seconds: float
    ) -> Errors:
        deadline = time.monotonic() + timeout_seconds
        while True:
            found = self.databases(max(deadline - time.monotonic(), 0.01))
            errors: Errors = {
                console.endpoint.name: check(found[console.endpoint.name])
                if console.endpoint.name in found
                else "no answer"
                for console in self._general
            }
            if not any(errors.values()) or time.monotonic() >= deadline:
                return errors
            time.sleep(POLL_SECONDS)

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules do at the console: `pgbouncer_pool` with a state other than present, and `pgbouncer_pool_info`."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, OperationFailed, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome
from ansible_collections.dbops.fleet.plugins.module_utils.pooler import deadman, files, guard
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.console import Endpoint
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.facts import ADMIN_DATABASE, PoolerFacts
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.judge import pause_obstacles
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.operations import Errors, PauseFailed, Poolers
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.read import read_facts

# Obstacles that an operator who pauses by hand is told of, but not refused for.
_ONLY_WARNED_OF = ("wait_limit", "login_retry", "already_paused")
# How long another operation may take to use the servers that it has staged, or to take them back: some seconds, unless
# it was interrupted.
_PATIENCE_SECONDS = 30.0
_LOOK_SECONDS = 0.2


_UNNAMED = "takes clients at the same port, and is not among the processes of this pooler that are known"


@dataclass(frozen=True)
class _Request:
    """What is asked for, with what was found."""

    params: Mapping[str, Any]
    check_mode: bool
    endpoints: Sequence[Endpoint]
    facts: Sequence[PoolerFacts]
    names: Sequence[str]


def manage(params: Mapping[str, Any], check_mode: bool) -> Outcome:
    """Do what the module `pgbouncer_pool` is asked for. See the module.

    Raises:
        FleetError: with the host it happened on.
    """
    try:
        named = params["databases"]
        params = {**params, "databases": named or []}
        if params["state"] in ("present", "absent", "settled"):
            with _no_others(params, _PATIENCE_SECONDS):
                write = _settled if params["state"] == "settled" else files.make_present
                return write(params, check_mode)
        if named == []:
            raise Refused("No database is named", remedy="Name some, or leave databases out to act on all of them.")
        endpoints = _endpoints(params)
        facts = read_facts(endpoints, params["timeout_seconds"], traffic=False)
        silent = [one for one in facts if one.error is not None]
        if silent:
            raise OperationFailed(silent[0].error or "", host=silent[0].endpoint, remedy="Nothing has been changed.")
        names = _all_databases(facts) if named is None else [database["name"] for database in named]
        _refuse_unknown(facts, names)
        return _STATES[params["state"]](_Request(params, check_mode, endpoints, facts, names))
    except FleetError as error:
        error.host = error.host or socket.gethostname()
        raise


def gather(params: Mapping[str, Any], check_mode: bool) -> Outcome:
    """What the module `pgbouncer_pool_info` returns. An unreachable endpoint is a fact, not a failure."""
    endpoints = _endpoints(params)
    unnamed = (PoolerFacts(path, error=f"{path} {_UNNAMED}") for path in files.unnamed_processes(endpoints))
    facts = (*read_facts(endpoints, params["timeout_seconds"], traffic=True), *unnamed)
    return Outcome(
        changed=False,
        result={
            "endpoints": {one.endpoint: one.to_dict() for one in facts},
            "unreachable_endpoints": [one.endpoint for one in facts if one.error is not None],
            "deadmen": list(deadman.armed()),
        },
    )


def _endpoints(params: Mapping[str, Any]) -> list[Endpoint]:
    """The endpoints that were given, or the process of the main file, whether it runs or not."""
    given = files.endpoints_of(params)
    if given:
        return given
    path = Path(params["config_file"])
    if not path.is_file():
        raise OperationFailed(f"There is no {path} to read the console's socket from", remedy="Set endpoints.")
    return [files.local_endpoint(path.read_text(), params["config_file"])]


@contextlib.contextmanager
def _no_others(params: Mapping[str, Any], patience_seconds: float) -> Iterator[None]:
    """Have the files alone, and in them no servers that another operation has staged: a RELOAD would use them too soon.

    Raises:
        Refused: there are some, and they did not go in time.
    """
    own = {database["name"] for database in params["databases"]}
    deadline = time.monotonic() + patience_seconds
    while True:
        with files.locked(params["config_file"]):
            others = deadman.staged_by_others(params["operation"], own)
            if not others:
                yield
                return
        if time.monotonic() >= deadline:
            staged = "; ".join(f"{other} for {', '.join(names)}" for other, names in others.items())
            raise Refused(
                f"Another change of roles has named servers in PgBouncer's files that are not to be used yet: {staged}",
                remedy="Wait for its end. Was it interrupted? Run its playbook again, which finishes or takes it back.",
            )
        time.sleep(_LOOK_SECONDS)


def _all_databases(facts: Sequence[PoolerFacts]) -> list[str]:
    return sorted({database.name for one in facts for database in one.databases} - {ADMIN_DATABASE})


def _refuse_unknown(facts: Sequence[PoolerFacts], names: Sequence[str]) -> None:
    for one in facts:
        for name in names:
            if one.database(name) is None:
                known = ", ".join(_all_databases(facts)) or "none"
                raise Refused(f"PgBouncer has no database {name}", host=one.endpoint, remedy=f"It has these: {known}.")


def _paused(do: _Request) -> Outcome:
    obstacles = [
        obstacle
        for one in do.facts
        for obstacle in pause_obstacles(
            one, do.names, do.params["budget_seconds"], accept_session_mode=do.params["accept_session_mode"]
        )
    ]
    for obstacle in obstacles:
        if obstacle.code not in _ONLY_WARNED_OF:
            raise Refused(obstacle.message, host=obstacle.endpoint, remedy=obstacle.remedy)
    warnings = tuple(
        f"{obstacle.endpoint}: {obstacle.message}." for obstacle in obstacles if obstacle.code != "already_paused"
    )
    changed = bool(_in_state(do.facts, do.names, paused=False))
    result: dict[str, Any] = {}
    if changed and not do.check_mode:
        if do.params["max_pause_seconds"]:
            deadman.arm(_deadman(do))
        with Poolers.open(do.endpoints, do.names, do.params["timeout_seconds"]) as poolers:
            try:
                pause = poolers.pause(do.params["budget_seconds"])
            except PauseFailed as error:
                # Where a process could not be verified as resumed, the dead-man is what still can. One of `staged` is
                # not this call's to stop.
                if do.params["max_pause_seconds"] and not error.still_paused:
                    deadman.disarm(do.params["operation"])
                raise
        result["pause_seconds"] = round(pause.seconds, 3)
    return _outcome(do, changed, True, result, warnings)


def _resumed(do: _Request) -> Outcome:
    globally = [one.endpoint for one in do.facts if one.globally_paused]
    if globally:
        raise Refused(
            "The whole pooler is paused or suspended, by a PAUSE or SUSPEND without a database",
            host=globally[0],
            remedy="If that is no longer wanted, run RESUME at its console.",
        )
    changed = bool(_in_state(do.facts, do.names, paused=True))
    if not do.check_mode:
        if changed:
            _act(do, Poolers.resume)
        if all(endpoint.is_local for endpoint in do.endpoints):
            deadman.disarm(do.params["operation"])
    return _outcome(do, changed, False, {})


def _killed(do: _Request) -> Outcome:
    if not do.check_mode:
        if do.params["max_pause_seconds"]:
            deadman.arm(_deadman(do))
        _act(do, Poolers.kill)
    return _outcome(do, True, True, {})


def _reloaded(do: _Request) -> Outcome:
    with _no_others(do.params, _PATIENCE_SECONDS):
        if not do.check_mode:
            _act(replace(do, names=[]), Poolers.reload)
    return Outcome(True)


def _reconnected(do: _Request) -> Outcome:
    if not do.check_mode:
        _act(do, Poolers.reconnect)
    return Outcome(True)


def _armed(do: _Request) -> Outcome:
    wanted = _deadman(do)
    if not do.check_mode:
        deadman.arm(wanted)
    return Outcome(True)


def _staged(do: _Request) -> Outcome:
    """Files that name servers which are not used yet, and a dead-man that knows them. First each server is tried."""
    for path in files.unnamed_processes(do.endpoints):
        remedy = "Set pgbouncer_processes of this host in the inventory as many as run, or end those that are too many."
        raise Refused(f"{path} {_UNNAMED}", host=do.endpoints[0].name, remedy=remedy)
    servers = {
        one["name"]: {"host": one["host"][0], "port": one["port"] or 5432, "dbname": one["dbname"] or one["name"]}
        for one in do.params["databases"]
        if len(one["host"]) == 1  # several are for reading only
    }
    for facts in do.facts:
        for server in servers.values():
            _log_in(server, facts)
    wanted = replace(_deadman(do), databases=tuple(servers), staged=servers)
    # Two at a time would each bring the other's servers into use, by their RELOAD in the pause.
    with _no_others(do.params, 0.0):
        outcome = files.stage(do.params, do.check_mode)
        if not do.check_mode:
            deadman.arm(wanted)
    return replace(outcome, changed=True)


def _log_in(server: Mapping[str, Any], facts: PoolerFacts) -> None:
    """Log in to a server as this PgBouncer does; pg_hba.conf of a standby is first needed when it is promoted."""
    settings = {name: facts.setting(name) for name in guard.LOGIN_SETTINGS}
    try:
        guard.is_primary(server, settings)
    except Exception as error:  # psycopg's own classes; without it the facts could not have been read
        raise Refused(
            f"{server['host']}:{server['port']} does not let this pooler in to {server['dbname']}"
            f" as {settings['auth_user'] or 'its own user'}: {' '.join(str(error).split())}",
            host=facts.endpoint,
            remedy="Run playbooks/setup.yml, which writes pg_hba.conf there, or repair the network between them.",
        ) from error


def _settled(params: Mapping[str, Any], check_mode: bool) -> Outcome:
    """As present, also where no process runs; then the dead-man is not needed any more."""
    outcome = files.make_present(params, check_mode)
    changed = params["operation"] in deadman.armed()
    if not check_mode:
        deadman.disarm(params["operation"])
    return replace(outcome, changed=outcome.changed or changed)


def _disarmed(do: _Request) -> Outcome:
    changed = do.params["operation"] in deadman.armed()
    if not do.check_mode:
        deadman.disarm(do.params["operation"])
    return Outcome(changed)


_STATES: Mapping[str, Callable[[_Request], Outcome]] = {
    "paused": _paused,
    "resumed": _resumed,
    "killed": _killed,
    "reloaded": _reloaded,
    "reconnected": _reconnected,
    "armed": _armed,
    "disarmed": _disarmed,
    "staged": _staged,
}


def _deadman(do: _Request) -> deadman.Deadman:
    if not do.params["max_pause_seconds"]:
        raise Refused("A dead-man needs a time", remedy="Set max_pause_seconds.")
    return deadman.Deadman(do.params["operation"], tuple(do.endpoints), tuple(do.names), do.params["max_pause_seconds"])


def _act(do: _Request, action: Callable[[Poolers, float], Errors]) -> None:
    timeout = do.params["timeout_seconds"]
    with Poolers.open(do.endpoints, do.names, timeout) as poolers:
        errors = {name: error for name, error in action(poolers, timeout).items() if error}
    if errors:
        name, error = next(iter(errors.items()))
        raise OperationFailed(error or "", host=name, remedy="Run it again once that process answers.", errors=errors)


def _in_state(facts: Sequence[PoolerFacts], names: Sequence[str], *, paused: bool) -> list[tuple[str, str]]:
    """The (endpoint, database) pairs that are paused, or that are not."""
    return [
        (one.endpoint, database.name)
        for one in facts
        for database in one.databases
        if database.name in names and database.paused is paused
    ]


def _outcome(
    do: _Request, changed: bool, paused: bool, result: dict[str, Any], warnings: tuple[str, ...] = ()
) -> Outcome:
    def text(states: dict[tuple[str, str], bool]) -> str:
        return "".join(
            f"{endpoint}: {database} {'paused' if state else 'active'}\n"
            for (endpoint, database), state in sorted(states.items())
        )

    before = dict.fromkeys(_in_state(do.facts, do.names, paused=True), True)
    before |= dict.fromkeys(_in_state(do.facts, do.names, paused=False), False)
    return Outcome(
        changed=changed,
        result={"databases": list(do.names), **result},
        before=text(before),
        after=text(dict.fromkeys(before, paused)),
        warnings=warnings,
    )

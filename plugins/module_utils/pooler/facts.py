# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a PgBouncer process is doing, as frozen dataclasses, from the rows of its SHOW commands.

A column that a version does not have is None here, never zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

from ansible_collections.dbops.fleet.plugins.module_utils.pooler.versions import Version

Row: TypeAlias = "Mapping[str, str | None]"

# The console's own database: it is listed like the others, but cannot be paused.
ADMIN_DATABASE = "pgbouncer"


@dataclass(frozen=True)
class Database:
    """A row of SHOW DATABASES. `host` may be a comma-separated list; None is a unix socket of PostgreSQL."""

    name: str
    host: str | None
    port: int
    dbname: str | None
    force_user: str | None
    pool_size: int | None
    min_pool_size: int | None
    reserve_pool_size: int | None
    pool_mode: str | None
    max_connections: int | None
    current_connections: int | None
    paused: bool
    disabled: bool

    @classmethod
    def from_row(cls, row: Row) -> Database:
        """From a row of SHOW DATABASES of any version (``reserve_pool`` is ``reserve_pool_size`` from 1.24 on)."""
        return cls(
            name=row["name"] or "",
            host=row.get("host"),
            port=_integer(row, "port") or 0,
            dbname=row.get("database"),
            force_user=row.get("force_user"),
            pool_size=_integer(row, "pool_size"),
            min_pool_size=_integer(row, "min_pool_size"),
            reserve_pool_size=_integer(row, "reserve_pool_size", "reserve_pool"),
            pool_mode=row.get("pool_mode"),
            max_connections=_integer(row, "max_connections"),
            current_connections=_integer(row, "current_connections"),
            paused=row.get("paused") == "1",
            disabled=row.get("disabled") == "1",
        )


@dataclass(frozen=True)
class Pool:
    """A row of SHOW POOLS: one database and user. `sv_login` counts server connections that are logging in."""

    database: str
    user: str
    pool_mode: str | None
    cl_active: int
    cl_waiting: int
    sv_active: int
    sv_idle: int
    sv_used: int
    sv_tested: int
    sv_login: int
    maxwait_seconds: float

    @classmethod
    def from_row(cls, row: Row) -> Pool:
        """From a row of SHOW POOLS."""

        def count(key: str) -> int:
            return _integer(row, key) or 0

        return cls(
            database=row["database"] or "",
            user=row["user"] or "",
            pool_mode=row.get("pool_mode"),
            cl_active=count("cl_active"),
            cl_waiting=count("cl_waiting"),
            sv_active=count("sv_active"),
            sv_idle=count("sv_idle"),
            sv_used=count("sv_used"),
            sv_tested=count("sv_tested"),
            sv_login=count("sv_login"),
            maxwait_seconds=count("maxwait") + count("maxwait_us") / 1e6,
        )


@dataclass(frozen=True)
class Peer:
    """A row of SHOW CLIENTS or SHOW SERVERS. `link` is the `ptr` of the other side while the two are bound."""

    kind: str
    user: str | None
    database: str | None
    state: str | None
    address: str
    port: int
    application_name: str
    request_time: str | None
    wait_seconds: float
    remote_pid: int | None
    tls: str | None
    ptr: str | None
    link: str | None

    @classmethod
    def from_row(cls, row: Row) -> Peer:
        """From a row of SHOW CLIENTS (kind ``C``) or SHOW SERVERS (kind ``S``)."""
        return cls(
            kind=row.get("type") or "",
            user=row.get("user"),
            database=row.get("database"),
            state=row.get("state"),
            address=row.get("addr") or "",
            port=_integer(row, "port") or 0,
            application_name=row.get("application_name") or "",
            request_time=row.get("request_time"),
            wait_seconds=(_integer(row, "wait") or 0) + (_integer(row, "wait_us") or 0) / 1e6,
            remote_pid=_integer(row, "remote_pid"),
            tls=row.get("tls") or None,
            ptr=row.get("ptr") or None,
            link=row.get("link") or None,
        )


@dataclass(frozen=True)
class Setting:
    """A row of SHOW CONFIG. One that is not `changeable` takes a restart; RELOAD and SET leave it as it is."""

    name: str
    value: str
    default: str | None
    changeable: bool

    @classmethod
    def from_row(cls, row: Row) -> Setting:
        """From a row of SHOW CONFIG."""
        return cls(row["key"] or "", row.get("value") or "", row.get("default"), row.get("changeable") == "yes")


@dataclass(frozen=True)
class PoolerFacts:
    """Everything read from one PgBouncer process at one moment.

    Attributes:
        endpoint: the name of the endpoint.
        error: why nothing could be read; all the rest is empty then.
        globally_paused: PAUSE without a database is in force. SHOW DATABASES does not show it.
        clients, servers: one row each; only where asked for.
        stats: SHOW STATS by database, numbers only, with PgBouncer's own names.
        lists: SHOW LISTS.
    """

    endpoint: str
    error: str | None = None
    version: Version = (0, 0, 0)
    globally_paused: bool = False
    databases: tuple[Database, ...] = ()
    pools: tuple[Pool, ...] = ()
    settings: Mapping[str, Setting] = field(default_factory=dict)
    clients: tuple[Peer, ...] = ()
    servers: tuple[Peer, ...] = ()
    stats: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    lists: Mapping[str, int] = field(default_factory=dict)

    def database(self, name: str) -> Database | None:
        """The entry of this name, if the process knows one."""
        return next((database for database in self.databases if database.name == name), None)

    @property
    def clients_connected(self) -> int:
        """Clients other than logins at the console."""
        return sum(pool.cl_active + pool.cl_waiting for pool in self.pools if pool.database != ADMIN_DATABASE)

    def setting(self, name: str) -> str:
        """The value in force, empty if the version has no such setting."""
        return self.settings[name].value if name in self.settings else ""

    def number(self, name: str) -> float:
        """The value of a setting that is a number; 0 (for most of them: no limit) where there is none."""
        try:
            return float(self.setting(name))
        except ValueError:
            return 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, for the module: clients and servers as counts by database and state, versions as text."""
        return {
            "endpoint": self.endpoint,
            "reachable": self.error is None,
            "error": self.error,
            "version": ".".join(map(str, self.version)) if self.error is None else None,
            "globally_paused": self.globally_paused,
            "databases": {database.name: asdict(database) for database in self.databases},
            "pools": [asdict(pool) for pool in self.pools],
            "settings": {
                setting.name: {"value": setting.value, "default": setting.default, "changeable": setting.changeable}
                for setting in self.settings.values()
            },
            "clients": _count_by_state(self.clients),
            "servers": _count_by_state(self.servers),
            "stats": {database: dict(numbers) for database, numbers in self.stats.items()},
            "lists": dict(self.lists),
        }


def is_globally_paused(answer: str | None) -> bool:
    """Read the answer to ``PAUSE pgbouncer``, which asks without doing anything.

    PgBouncer looks at the pooler-wide pause first ("already suspended/paused") and only then sees that the admin
    database cannot be paused. It is the one way to know before SHOW STATE came with 1.19, and works since.
    """
    return answer is not None and "already" in answer


def numbers_by_database(rows: Iterable[Row]) -> dict[str, dict[str, int]]:
    """The rows of SHOW STATS as numbers."""
    return {
        row["database"] or "": {key: int(value) for key, value in row.items() if value is not None and value.isdigit()}
        for row in rows
    }


def _count_by_state(peers: Iterable[Peer]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for peer in peers:
        counts.setdefault(peer.database or "", Counter())[peer.state or ""] += 1
    return {database: dict(states) for database, states in sorted(counts.items())}


def _integer(row: Row, *names: str) -> int | None:
    for name in names:
        value = row.get(name)
        if value is not None and value.lstrip("-").isdigit():
            return int(value)
    return None

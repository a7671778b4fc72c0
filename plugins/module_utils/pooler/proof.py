# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes through a pooler as an application does, and reads it on every replica: the work of `pgbouncer_proof`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.session import deadline, require_psycopg

if TYPE_CHECKING:
    import psycopg

_POLL_SECONDS = 0.05
# PgBouncer holds a client whose server is away for its query_wait_timeout, two minutes.
_LOGIN_SECONDS = 15

# A row per pooler, made by the role postgres_primary. Names are in full, as search_path is the application's.
_WRITE = """
INSERT INTO fleet.proof (pooler, token) VALUES (%s, pg_catalog.gen_random_uuid()::pg_catalog.text)
ON CONFLICT (pooler) DO UPDATE SET token = excluded.token, written = pg_catalog.now() RETURNING token
"""
_READ = "SELECT token, pg_catalog.pg_is_in_recovery() FROM fleet.proof WHERE pooler = %s"


def pgbouncer_proof(params: Mapping[str, Any], check_mode: bool) -> Outcome:
    """Parameters and results as documented in the module.

    Raises:
        OperationFailed: somebody could not log in, or what was written was not read; with the host and the database.
    """
    proof = _Proof(params)
    proven = []
    for database in params["databases"]:
        token = None if check_mode else proof.write(database)
        replicas = {replica["name"]: proof.read_on(replica, database, token) for replica in database["replicas"]}
        proof.read_only_entry(database)
        proven.append({"name": database["name"], "replicas": replicas})
    # The same row each time: a proof, no change of the host.
    return Outcome(changed=False, result={"databases": proven})


class _Proof:
    def __init__(self, params: Mapping[str, Any]) -> None:
        self._pooler: Mapping[str, Any] = params["pooler"]
        self._ca_file: str = params["ca_file"]
        self._timeout: int = params["timeout"]

    def write(self, database: Mapping[str, Any]) -> str:
        """Write a new token through the read-write entry, and return it."""
        with self._session(self._pooler, database["name"], database["writer"]) as session:
            rows = session.execute(_WRITE, [self._pooler["name"]]).fetchall()
        return str(rows[0][0])

    def read_on(self, replica: Mapping[str, Any], database: Mapping[str, Any], token: str | None) -> float | None:
        """The seconds until the replica had the token; None where nothing was written."""
        began = time.monotonic()
        with self._session(replica, database["name"], database["reader"]) as session:
            while token is not None:
                row = session.execute(_READ, [self._pooler["name"]]).fetchone()
                waited = time.monotonic() - began
                if row is not None and row[0] == token:
                    return round(waited, 3)
                if waited > self._timeout:
                    raise OperationFailed(
                        f"what was written into {database['name']} through {self._pooler['name']} is not there after"
                        f" {self._timeout} s",
                        host=replica["name"],
                        remedy="See whether it streams and how far it is behind: its log, and the report of setup.yml.",
                    )
                time.sleep(_POLL_SECONDS)
        return None

    def read_only_entry(self, database: Mapping[str, Any]) -> None:
        """Read through the read-only entry, which leads to a replica where there is one."""
        entry = f"{database['name']}_ro"
        with self._session(self._pooler, entry, database["reader"]) as session:
            row = session.execute(_READ, [self._pooler["name"]]).fetchone()
        # Before the first write the row is missing, in check mode on a new database.
        if row is not None and row[1] != bool(database["replicas"]):
            raise OperationFailed(
                f"its entry {entry} leads to {'a standby' if row[1] else 'the primary'}",
                host=self._pooler["name"],
                remedy=f"It should lead to {', '.join(one['name'] for one in database['replicas']) or 'the primary'}."
                " A role changed during the run: run setup.yml again.",
            )

    @contextlib.contextmanager
    def _session(
        self, server: Mapping[str, Any], dbname: str, account: Mapping[str, Any]
    ) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """A session over TLS with the host verified. No `options`: PgBouncer 1.18 refuses logins that have them."""
        driver = require_psycopg()
        began = "the login"
        # Longer than a replica may take. Without it a commit that waits for a standby that is gone, a frozen server or
        # a paused pooler would hold us for ever.
        bound = self._timeout + 5
        started = time.monotonic()
        try:
            session = driver.connect(
                host=server["host"],
                port=server["port"],
                dbname=dbname,
                user=account["name"],
                password=account["password"],
                sslmode="verify-full",
                sslrootcert=self._ca_file,
                application_name="dbops.fleet",
                connect_timeout=_LOGIN_SECONDS,
                autocommit=True,
                # In transaction mode the next statement may be another server's.
                prepare_threshold=None,
            )
            began, started = "a statement", time.monotonic()
            with session, deadline(session, bound):
                yield session
        except driver.Error as error:
            cut = time.monotonic() - started >= bound
            reason = f"no answer within {bound} s" if cut else " ".join(str(error).split())
            raise OperationFailed(
                f"{began} as {account['name']} in {dbname} on port {server['port']} failed: {reason}",
                host=server["name"],
                remedy="Mend what it names, and run setup.yml again.",
            ) from error

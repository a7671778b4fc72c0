# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof that a write through a pooler is read on every replica: right, and wrong in each way that it finds."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.certificates.issue import fleet_certificates
from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.proof import pgbouncer_proof
from ansible_collections.dbops.fleet.tests.integration.poolers import Pooler, Poolers
from ansible_collections.dbops.fleet.tests.integration.servers import Server, Servers, wait_until

SECRET = "a:quite\\odd'password"


def account(name: str, password: str = SECRET) -> dict[str, str]:
    return {"name": name, "password": password}


@dataclass
class Cluster:
    """A primary, a replica that follows it, and a pooler, all with TLS on 127.0.0.1."""

    primary: Server
    replica: Server
    pooler: Pooler
    ca_file: Path

    def params(self, **changed: Any) -> dict[str, Any]:
        orders = {
            "name": "orders",
            "writer": account("orders_app"),
            "reader": account("orders_read"),
            "replicas": [{"name": "pg2", "host": "127.0.0.1", "port": self.replica.port}],
        }
        pooler = {"name": "pool1", "host": "127.0.0.1", "port": self.pooler.port}
        databases = [{**orders, **changed.pop("database", {})}]
        return {"pooler": pooler, "databases": databases, "ca_file": str(self.ca_file), "timeout": 5, **changed}

    def prove(self, check_mode: bool = False, **changed: Any) -> Outcome:
        return pgbouncer_proof(self.params(**changed), check_mode)

    def tokens(self) -> list[tuple[Any, ...]]:
        return self.primary.sql("SELECT pooler, token FROM fleet.proof", dbname="orders")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    secrets = tmp_path_factory.mktemp("secrets")
    hosts = [{"name": "pg1", "address": "127.0.0.1"}]
    fleet_certificates(
        {"directory": str(secrets), "hosts": hosts, "ca_kept": False, "days": 1, "renew_days": 0}, check_mode=False
    )
    with Servers() as servers, Poolers() as poolers:
        primary = servers.primary("pg1")
        for name in ("host.crt", "host.key"):
            give(secrets / "hosts/pg1" / name, primary.data)
        primary.configure(ssl="on", ssl_cert_file="host.crt", ssl_key_file="host.key").restart()
        primary.sql("CREATE DATABASE orders")
        for role in ("orders_app", "orders_read"):
            escaped = SECRET.replace("'", "''")
            primary.sql(f"CREATE ROLE {role} LOGIN PASSWORD '{escaped}'")
        primary.sql("CREATE SCHEMA fleet", dbname="orders")
        primary.sql("GRANT USAGE ON SCHEMA fleet TO orders_app, orders_read", dbname="orders")
        primary.sql(
            "CREATE TABLE fleet.proof (pooler text PRIMARY KEY, token text NOT NULL,"
            " written timestamptz NOT NULL DEFAULT now())",
            dbname="orders",
        )
        primary.sql("GRANT SELECT, INSERT, UPDATE ON fleet.proof TO orders_app", dbname="orders")
        primary.sql("GRANT SELECT ON fleet.proof TO orders_read", dbname="orders")
        replica = servers.replica("pg2", of=primary)
        for server in (primary, replica):
            server.allow("local all all", "host replication all 127.0.0.0/8", "host all postgres 127.0.0.0/8")
            rules = (server.data / "pg_hba.conf").read_text() + "hostssl all all 127.0.0.0/8 scram-sha-256\n"
            (server.data / "pg_hba.conf").write_text(rules)
            server.reload()
        pooler = poolers.start(
            "pool1",
            {
                "orders": f"host=127.0.0.1 port={primary.port} dbname=orders",
                "orders_ro": f"host=127.0.0.1 port={replica.port} dbname=orders",
            },
        )
        for name in ("host.crt", "host.key"):
            give(secrets / "hosts/pg1" / name, pooler.directory)
        pooler.write_file("userlist.txt", "".join(f'"{role}" "{SECRET}"\n' for role in ("orders_app", "orders_read")))
        pooler.settings |= {
            "auth_type": "scram-sha-256",
            "client_tls_sslmode": "require",
            "client_tls_cert_file": str(pooler.directory / "host.crt"),
            "client_tls_key_file": str(pooler.directory / "host.key"),
            "server_tls_sslmode": "require",
        }
        pooler.write()
        pooler.kill()
        pooler.start()
        yield Cluster(primary, replica, pooler, secrets / "ca/ca.crt")


def give(source: Path, directory: Path) -> None:
    """A copy that is its new owner's alone."""
    target = directory / source.name
    shutil.copy(source, target)
    shutil.chown(target, directory.owner(), directory.group())
    target.chmod(0o600)


def test_what_is_written_through_the_pooler_is_read_on_the_replica(cluster: Cluster) -> None:
    outcome = cluster.prove()
    assert not outcome.changed
    (database,) = outcome.result["databases"]
    assert database["name"] == "orders"
    assert 0 <= database["replicas"]["pg2"] < 5
    before = cluster.tokens()
    cluster.prove()
    assert [pooler for pooler, _token in cluster.tokens()] == ["pool1"]
    assert cluster.tokens() != before


def test_check_mode_logs_in_everywhere_and_writes_nothing(cluster: Cluster) -> None:
    cluster.prove()
    before = cluster.tokens()
    outcome = cluster.prove(check_mode=True)
    assert outcome.result["databases"] == [{"name": "orders", "replicas": {"pg2": None}}]
    assert cluster.tokens() == before


def test_a_replica_that_does_not_replay_is_named(cluster: Cluster) -> None:
    cluster.replica.sql("SELECT pg_wal_replay_pause()")
    wait_until(lambda: cluster.replica.value("SELECT pg_get_wal_replay_pause_state()") == "paused", "replay to pause")
    try:
        with pytest.raises(OperationFailed) as caught:
            cluster.prove(timeout=1)
    finally:
        cluster.replica.sql("SELECT pg_wal_replay_resume()")
    assert str(caught.value).startswith(
        "pg2: what was written into orders through pool1 is not there after 1 s. See whether it streams"
    )


def test_a_commit_that_waits_for_a_standby_that_is_gone_is_told(cluster: Cluster) -> None:
    cluster.primary.configure(synchronous_standby_names="FIRST 1 (nobody)").reload()
    wait_until(lambda: cluster.primary.value("SHOW synchronous_standby_names") == "FIRST 1 (nobody)", "the reload")
    try:
        with pytest.raises(
            OperationFailed, match=r"pool1: a statement as orders_app in orders .* no answer within 6 s"
        ):
            cluster.prove(timeout=1)
    finally:
        cluster.primary.configure(synchronous_standby_names="").reload()
    wait_until(lambda: proven(cluster), "the proof")


def test_a_read_only_entry_that_leads_to_the_primary_is_found(cluster: Cluster) -> None:
    right = dict(cluster.pooler.databases)
    lead(cluster.pooler, {**right, "orders_ro": right["orders"]})
    try:
        with pytest.raises(OperationFailed, match=r"pool1: its entry orders_ro leads to the primary\. .* pg2\."):
            wait_until(lambda: not cluster.prove(), "the entry to lead elsewhere")
    finally:
        lead(cluster.pooler, right)
        wait_until(lambda: proven(cluster), "the entry to be right again")


def lead(pooler: Pooler, databases: dict[str, str]) -> None:
    """Have it read new entries."""
    pooler.databases = databases
    pooler.write()
    assert pooler.process is not None
    os.kill(pooler.process.pid, signal.SIGHUP)


def proven(cluster: Cluster) -> bool:
    try:
        return bool(cluster.prove().result)
    except OperationFailed:
        return False


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"database": {"writer": account("orders_app", "wrong")}}, "pool1: the login as orders_app in orders "),
        ({"database": {"reader": account("orders_read", "wrong")}}, "pg2: the login as orders_read in orders "),
        ({"database": {"writer": account("orders_read")}}, "pool1: a statement as orders_read in orders "),
        ({"database": {"name": "sales"}}, "pool1: the login as orders_app in sales "),
        ({"pooler": {"name": "pool1", "host": "127.0.0.1", "port": 1}}, "pool1: the login as orders_app in orders on "),
    ],
    ids=["writer's password", "reader's password", "writer who may not write", "no such entry", "no pooler"],
)
def test_what_fails_is_told_with_host_role_and_database_but_no_password(
    cluster: Cluster, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(OperationFailed) as caught:
        cluster.prove(**changed)
    assert str(caught.value).startswith(said)
    assert SECRET not in str(caught.value)
    assert "wrong" not in str(caught.value)


def test_a_host_that_the_ca_does_not_know_is_not_trusted(cluster: Cluster, tmp_path: Path) -> None:
    hosts = [{"name": "pg1", "address": "127.0.0.1"}]
    fleet_certificates(
        {"directory": str(tmp_path), "hosts": hosts, "ca_kept": False, "days": 1, "renew_days": 0}, check_mode=False
    )
    with pytest.raises(OperationFailed, match="certificate verify failed"):
        cluster.prove(ca_file=str(tmp_path / "ca/ca.crt"))

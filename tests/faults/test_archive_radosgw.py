# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archive, backup and restore through an honest S3 server: radosgw on a test host, which checks signatures and digests
and refuses to overwrite. A proxy in front of it plays the network.

Not had: encryption with a key of the client (SSE-C), which the engine does not use: it seals objects itself.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from ansible_collections.dbops.fleet.tests.integration.repository.engine import Engine, directory
from ansible_collections.dbops.fleet.tests.integration.servers import Servers, wait_until
from ansible_collections.dbops.fleet.tests.support.fault_proxy import (
    FaultProxy,
    cut_answer,
    cut_body,
    flip_received,
    flip_sent,
    refuse,
)

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "tests"))

from hosts.fixtures import Hosts  # noqa: E402

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

KEY, SECRET = "faults", "of-test-hosts-alone"


@dataclass
class Store:
    """A bucket on the store's host.

    Attributes:
        endpoint: URL.
        bucket: name.
        client: boto3's, past the proxy.
        refuses_overwriting: whether it does when told so. In a bucket with versions radosgw 18 ignores the condition.
    """

    endpoint: str
    bucket: str
    client: Any
    refuses_overwriting: bool = True


@pytest.fixture(scope="module")
def store() -> Store:
    hosts = Hosts()
    hosts.up("store1")
    script = (CHECKOUT / "tests/support/radosgw.sh").read_text()
    bucket = f"faults-{uuid.uuid4().hex[:8]}"
    hosts.ssh("store1", f"bash -s -- {KEY} {SECRET} {bucket} <<'END_OF_SCRIPT'\n{script}\nEND_OF_SCRIPT\n", timeout=600)
    endpoint = f"http://{hosts.address('store1')}:8080"
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="x", aws_access_key_id=KEY, aws_secret_access_key=SECRET
    )
    return Store(endpoint, bucket, client)


@pytest.fixture
def proxy(store: Store) -> Iterator[FaultProxy]:
    with FaultProxy(store.endpoint) as made:
        yield made


@pytest.fixture
def servers() -> Iterator[Servers]:
    with Servers() as made:
        yield made


@pytest.fixture
def engine(servers: Servers, store: Store, proxy: FaultProxy) -> Iterator[Engine]:
    with archiving(servers, store, proxy) as made:
        yield made


@contextlib.contextmanager
def archiving(servers: Servers, store: Store, proxy: FaultProxy) -> Iterator[Engine]:
    """A running primary that archives into the bucket, through the proxy, below a prefix of its own."""
    server = servers.primary("db1", archive_mode="on", archive_command="/bin/false", wal_level="replica")
    with Engine(servers, server, [repository(servers, store, proxy, SECRET)]) as made:
        made.dbops("init")
        made.use_archive_command()
        yield made


def twice(proxy: FaultProxy) -> set[str]:
    """Keys that the store took more than once."""
    return {key for key, count in proxy.stored.items() if count > 1}


def repository(servers: Servers, store: Store, proxy: FaultProxy, secret: str) -> dict[str, object]:
    credentials = servers.root / "credentials"
    credentials.write_text(f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {secret}\n")
    return {
        "name": "s3",
        "type": "s3",
        "bucket": store.bucket,
        "prefix": servers.root.name,
        "endpoint": proxy.endpoint,
        "region": "x",
        "path_style": True,
        "credentials_file": str(credentials),
    }


def place(engine: Engine) -> Path:
    return directory(engine.servers.root / "to") / "data"


def everything_goes_there_and_comes_back(engine: Engine, store: Store) -> None:
    assert engine.json("wal", "status")["configured"]
    identity = store.client.get_object(Bucket=store.bucket, Key=f"{engine.servers.root.name}/repository.json")
    assert json.load(identity["Body"])["refuses_overwriting"] is store.refuses_overwriting
    engine.start_archiver()
    engine.rows(3)
    engine.dbops("backup")
    engine.rows(3)
    engine.archive()
    (second,) = engine.json("backup")
    assert second["incremental"]
    report = engine.json("restore", "--to", str(place(engine)), "--action", "scratch")
    assert report["ended"] == "at the target"
    assert engine.json("check", "--all")["problems"] == []
    engine.configure(retention={"daily": 0, "weekly": 0, "monthly": 0, "window_days": 0, "verified": 0, "count": 1})
    assert engine.json("expire")["s3"]["objects"] > 0
    assert engine.json("verify")["good"]


def test_everything_goes_there_and_comes_back_and_nothing_is_overwritten(
    engine: Engine, store: Store, proxy: FaultProxy
) -> None:
    everything_goes_there_and_comes_back(engine, store)
    assert twice(proxy) == set()


def test_where_the_store_keeps_versions_and_would_overwrite_nothing_is_overwritten_either(
    servers: Servers, store: Store, proxy: FaultProxy
) -> None:
    versioned = replace(store, bucket=f"{store.bucket}-versions", refuses_overwriting=False)
    store.client.create_bucket(Bucket=versioned.bucket)
    store.client.put_bucket_versioning(Bucket=versioned.bucket, VersioningConfiguration={"Status": "Enabled"})
    with archiving(servers, versioned, proxy) as engine:
        everything_goes_there_and_comes_back(engine, versioned)
        name = engine.archive()
        content = bytearray((engine.server.data / "pg_wal" / name).read_bytes())
        content[9000] ^= 1
        other = directory(engine.home / "other") / name
        other.write_bytes(content)
        shutil.chown(other, "postgres", "postgres")
        assert "with other content" in engine.dbops("wal", "push", str(other), status=1).stderr
    written: Counter[str] = Counter()
    for page in store.client.get_paginator("list_object_versions").paginate(Bucket=versioned.bucket):
        # The probe of `dbops init` tries to overwrite a key of its own.
        written.update(item["Key"] for item in page.get("Versions", ()) if "/probe/" not in item["Key"])
    assert {key for key, count in written.items() if count > 1} == set()


def test_a_wrong_secret_is_told(engine: Engine, store: Store, proxy: FaultProxy, servers: Servers) -> None:
    engine.configure(repositories=[repository(servers, store, proxy, "wrong")])
    told = engine.dbops("list", status=1).stderr
    assert "SignatureDoesNotMatch" in told
    assert "Check the secret key" in told


def test_what_the_network_spoils_is_refused_by_the_store_and_goes_through_later(
    engine: Engine, proxy: FaultProxy
) -> None:
    # Not three times: after three failures PostgreSQL waits for a minute.
    proxy.add(flip_sent, method="PUT", key=r"\.zst", times=2)
    proxy.add(cut_answer, method="PUT", key=r"-claim", times=1)
    engine.rows(1)
    name = engine.archive()
    target = engine.home / "spool" / "x"
    proxy.add(flip_received, method="GET", key=r"\.zst", times=1)
    engine.dbops("wal", "get", name, str(target), status=126)
    engine.dbops("wal", "get", name, str(target))
    assert target.read_bytes() == (engine.server.data / "pg_wal" / name).read_bytes()
    assert twice(proxy) == set()


def test_a_restore_that_loses_its_permission_on_the_way_cannot_be_started_and_carries_on(
    engine: Engine, proxy: FaultProxy
) -> None:
    engine.server.sql("CREATE TABLE filler AS SELECT i, repeat(md5(i::text), 6) AS w FROM generate_series(1, 200000) i")
    engine.dbops("backup")
    engine.rows(4)
    engine.archive()
    proxy.add(cut_body, method="GET", key="pack-", times=2)
    proxy.add(refuse(403, "AccessDenied"), key="pack-", skip=1, times=None)
    told = engine.dbops("restore", "--to", str(place(engine)), status=1).stderr
    assert "AccessDenied" in told
    assert not (place(engine) / "global" / "pg_control").exists()
    proxy.heal()
    # Later on the way: replay waits for WAL that it is not given, and promotes nothing.
    report = engine.json("restore", "--to", str(place(engine)), "--delta", "--action", "scratch")
    assert report["ended"] == "at the target"


def test_while_the_store_is_away_wal_waits_and_then_all_of_it_arrives(engine: Engine, proxy: FaultProxy) -> None:
    engine.start_archiver()
    engine.rows(1)
    engine.archive()
    proxy.add(refuse(503, "SlowDown"), times=None)
    names = []
    for _ in range(3):
        engine.rows(1)
        names.append(engine.switch())
    failed = "SELECT failed_count > 0 FROM pg_stat_archiver"
    wait_until(lambda: engine.server.value(failed), "archiving to fail", 120)
    proxy.heal()
    last = "SELECT last_archived_wal >= %s FROM pg_stat_archiver"
    wait_until(lambda: engine.server.value(last, names[-1]), "everything to arrive", 180)
    state = engine.json("wal", "status")
    assert state["archiving"]
    assert state["problems"] == []

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The S3 store against stores that honour, ignore or reject conditions, and against faults on the way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("boto3")

from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import (
    ObjectCorrupt,
    ObjectExists,
    ObjectMissing,
    StoreUnavailable,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.store import probe
from ansible_collections.dbops.fleet.plugins.module_utils.repository.store.s3 import S3Settings, S3Store
from ansible_collections.dbops.fleet.tests.unit.module_utils.repository.store.s3_server import Handler, S3Server


@pytest.fixture
def server() -> Iterator[S3Server]:
    with S3Server() as made:
        yield made


def store_at(server: S3Server, tmp_path: Path, *, refuses_overwriting: bool = True) -> S3Store:
    credentials = tmp_path / "credentials"
    credentials.write_text("[default]\naws_access_key_id = x\naws_secret_access_key = y\n")
    settings = S3Settings(
        bucket="bucket",
        prefix="/fleet/",
        endpoint=server.endpoint,
        region="us-east-1",
        path_style=True,
        credentials_file=str(credentials),
    )
    return S3Store(settings, refuses_overwriting=refuses_overwriting)


def test_what_was_created_is_read_listed_and_deleted(server: S3Server, tmp_path: Path) -> None:
    store = store_at(server, tmp_path)
    store.create("a/b", b"content")
    assert store.read("a/b") == b"content"
    assert store.read_range("a/b", 3, 2) == b"te"
    assert [(item.key, item.size) for item in store.list("a/")] == [("a/b", 7)]
    assert list(server.objects) == ["fleet/a/b"]
    store.delete("a/b")
    store.delete("a/b")
    with pytest.raises(ObjectMissing):
        store.read("a/b")


def test_a_listing_goes_on_behind_its_first_page(tmp_path: Path) -> None:
    with S3Server(page=7) as server:
        store = store_at(server, tmp_path)
        server.objects = {f"fleet/k{number:03}": b"" for number in range(50)}
        assert [item.key for item in store.list("")] == [f"k{number:03}" for number in range(50)]
        assert [item.key for item in store.list("k", after="k047")] == ["k048", "k049"]


def test_the_probe_believes_only_a_refusal(tmp_path: Path) -> None:
    for condition, expected in (("honoured", True), ("ignored", False), ("501", False)):
        with S3Server(condition) as server:
            assert probe.refuses_overwriting(store_at(server, tmp_path, refuses_overwriting=False)) is expected
            assert server.objects == {}


def test_of_many_writers_exactly_one_wins(server: S3Server, tmp_path: Path) -> None:
    stores = [store_at(server, tmp_path) for _ in range(8)]
    won: list[int] = []

    def write(number: int) -> None:
        try:
            stores[number].create("claim", str(number).encode())
        except ObjectExists:
            return
        won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert server.objects["fleet/claim"] == str(won[0]).encode()


def flipped(handler: Handler) -> bool:
    """Store and acknowledge something else than was sent."""
    handler.answer(200, ETag='"00000000000000000000000000000000"')
    return True


def empty_success(handler: Handler) -> bool:
    handler.answer(200)
    return True


def slow_down(handler: Handler) -> bool:
    handler.error(503, "SlowDown")
    return True


def forbidden(handler: Handler) -> bool:
    handler.error(403, "AccessDenied")
    return True


def short_body(handler: Handler) -> bool:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"too short")
    return handler.cut()


def test_passing_errors_are_repeated(server: S3Server, tmp_path: Path) -> None:
    store = store_at(server, tmp_path)
    server.faults = [slow_down, Handler.cut]
    store.create("a", b"content")
    server.faults = [slow_down, short_body, Handler.cut]
    assert store.read("a") == b"content"


def test_an_error_that_stays_ends_in_time_and_says_what_it_is(server: S3Server, tmp_path: Path) -> None:
    store = store_at(server, tmp_path)
    server.faults = [forbidden]
    with pytest.raises(StoreUnavailable, match="s3:PutObject"):
        store.create("a", b"content")
    server.faults = [slow_down] * 20
    with pytest.raises(StoreUnavailable, match="SlowDown"):
        store.create("a", b"content")
    server.faults = [forbidden]
    with pytest.raises(StoreUnavailable):
        list(store.list(""))


def test_a_success_without_proof_is_none(server: S3Server, tmp_path: Path) -> None:
    store = store_at(server, tmp_path)
    server.faults = [flipped]
    with pytest.raises(ObjectCorrupt):
        store.create("a", b"content")
    server.faults = [empty_success]
    with pytest.raises(StoreUnavailable, match="nothing is proven"):
        store.create("a", b"content")


def test_a_write_whose_answer_was_lost_is_no_write_of_somebody_else(server: S3Server, tmp_path: Path) -> None:
    store = store_at(server, tmp_path)
    server.lost_answers = 1
    store.create("a", b"content")
    assert [request for request in server.requests if request[0] == "PUT"] == [("PUT", "fleet/a")] * 2
    with pytest.raises(ObjectExists):
        store.create("a", b"content")


def test_what_somebody_else_wrote_before_a_repeated_write_is_told(server: S3Server, tmp_path: Path) -> None:
    store = store_at(server, tmp_path)
    server.objects["fleet/a"] = b"another's"
    server.faults = [slow_down]
    with pytest.raises(ObjectExists):
        store.create("a", b"content")
    assert server.objects["fleet/a"] == b"another's"


@pytest.mark.parametrize("encryption", ["aws:kms", "aws:kms:dsse"])
def test_where_the_bucket_encrypts_with_kms_by_default_the_etag_proves_nothing_and_the_object_stays(
    server: S3Server, tmp_path: Path, encryption: str
) -> None:
    server.encryption = encryption
    store_at(server, tmp_path).create("a", b"content")
    assert server.objects == {"fleet/a": b"content"}


def test_an_unreachable_store_is_no_absence(tmp_path: Path) -> None:
    with S3Server() as server:
        store = store_at(server, tmp_path)
    with pytest.raises(StoreUnavailable):
        store.read("a")
    with pytest.raises(StoreUnavailable):
        list(store.list(""))

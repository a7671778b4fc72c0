# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List 5.1: WAL on its way into the archive and back. Real WAL of a real server, real directories, an S3 server that
misbehaves to order, and (slow) radosgw on a test host behind a proxy that does.

Elsewhere, in tests/integration/repository/test_wal_archive.py: WAL of another cluster (8), a wrong name (9) or size
(10), an empty backup label (11), a repository that is not mounted (17), an archive_command that lied (31). A disk that
fails on fsync (16) in tests/unit/.../store/test_directory.py, as no disk here does so to order.

Not had: 20, because nothing is ever uploaded in parts; a real clock skew (22), because hosts share the machine's clock:
the store's answer to one is played by the proxy.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("boto3")

from ansible_collections.dbops.fleet.plugins.module_utils.repository import compression, layout
from ansible_collections.dbops.fleet.plugins.module_utils.repository.cluster import Cluster
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import (
    ContentConflict,
    ObjectCorrupt,
    StoreUnavailable,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import Repository
from ansible_collections.dbops.fleet.plugins.module_utils.repository.store import probe
from ansible_collections.dbops.fleet.plugins.module_utils.repository.store.directory import DirectoryStore
from ansible_collections.dbops.fleet.plugins.module_utils.repository.store.s3 import S3Settings, S3Store
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal import client
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.answer import Found
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.fetch import fetch
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.push import hashes, push
from ansible_collections.dbops.fleet.tests.integration.repository.engine import Engine, clean, directory
from ansible_collections.dbops.fleet.tests.integration.servers import Servers, command_prefix, wait_until
from ansible_collections.dbops.fleet.tests.support.fault_proxy import (
    Fault,
    FaultProxy,
    cut,
    cut_answer,
    cut_body,
    flip_received,
    flip_sent,
    refuse,
    short_list,
    succeed_with,
)
from ansible_collections.dbops.fleet.tests.unit.module_utils.repository.store.s3_server import S3Server


class Wal:
    """Segments of a real server, in a directory of their own.

    Attributes:
        cluster: that they belong to.
        paths: in order.
        history, partial: two other kinds of files.
    """

    def __init__(self, servers: Servers, place: Path) -> None:
        server = servers.primary("source")
        system = int(server.value("SELECT system_identifier FROM pg_control_system()"))
        server.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
        self.cluster = Cluster(system, server.version, 16 << 20)
        self.paths = []
        for _ in range(3):
            server.sql("SELECT pg_create_restore_point('test')")
            name = server.value("SELECT pg_walfile_name(pg_switch_wal())")
            self.paths.append(Path(shutil.copy(server.data / "pg_wal" / name, place)))
        server.stop()
        self.history = place / "00000002.history"
        self.history.write_text("1\t0/3000000\tno recovery target specified\n")
        self.partial = Path(shutil.copy(self.paths[2], place / f"{self.paths[2].name}.partial"))


@pytest.fixture(scope="module")
def wal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wal]:
    with Servers() as servers:
        yield Wal(servers, tmp_path_factory.mktemp("wal"))


@pytest.fixture
def servers() -> Iterator[Servers]:
    with Servers() as made:
        yield made


@pytest.fixture
def engine(servers: Servers) -> Iterator[Engine]:
    """A running primary whose WAL goes to a directory repository, without an archiver yet."""
    with Engine.with_primary(servers) as made:
        yield made


@pytest.fixture
def store() -> Iterator[S3Server]:
    with S3Server() as made:
        yield made


@pytest.fixture
def proxy(store: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(store.endpoint) as made:
        yield made


def s3(endpoint: str, tmp_path: Path, *, refuses_overwriting: bool = True) -> Repository:
    credentials = tmp_path / "credentials"
    credentials.write_text("[default]\naws_access_key_id = x\naws_secret_access_key = y\n")
    settings = S3Settings("bucket", "fleet", endpoint, "us-east-1", path_style=True, credentials_file=str(credentials))
    return Repository("s3", S3Store(settings, refuses_overwriting=refuses_overwriting), None)


def local(path: Path) -> Repository:
    path.mkdir(exist_ok=True)
    return Repository("local", DirectoryStore(path), None)


def other_content(path: Path, place: Path) -> Path:
    """A segment of the same name with another content."""
    place.mkdir(exist_ok=True)
    copy = Path(shutil.copy(path, place))
    with copy.open("r+b") as file:
        file.seek(9000)
        file.write(b"another server wrote this")
    return copy


def comes_back(repository: Repository, wal: Wal, path: Path, place: Path) -> bool:
    """Whether what is archived is what was pushed."""
    got = place / "back"
    fetched = fetch([repository], wal.cluster, path.name, got)
    return fetched.found is Found.DELIVERED and got.read_bytes() == path.read_bytes()


# Names and contents


def test_05_another_compression_of_the_same_content_is_no_second_object(wal: Wal, tmp_path: Path) -> None:
    repository = local(tmp_path / "repository")
    push([repository], wal.cluster, wal.paths[0], level=1)
    assert push([repository], wal.cluster, wal.paths[0], level=9).already == ("local",)
    assert len(hashes(repository, wal.cluster.system, wal.paths[0].name)) == 1


def test_06_another_content_is_refused_for_ever_and_the_first_one_stays(wal: Wal, tmp_path: Path) -> None:
    repository = local(tmp_path / "repository")
    push([repository], wal.cluster, wal.paths[0], level=1)
    other = other_content(wal.paths[0], tmp_path / "other")
    for _ in range(2):
        with pytest.raises(ContentConflict) as refusal:
            push([repository], wal.cluster, other, level=1)
        assert refusal.value.details["archived_sha256"] != refusal.value.details["sha256"]
    assert comes_back(repository, wal, wal.paths[0], tmp_path)


@pytest.mark.parametrize("kind", ["directory", "s3"])
def test_07_of_two_servers_that_race_with_one_name_exactly_one_wins(
    kind: str, wal: Wal, store: S3Server, tmp_path: Path
) -> None:
    repository = local(tmp_path / "repository") if kind == "directory" else s3(store.endpoint, tmp_path)
    ours, theirs = wal.paths[0], other_content(wal.paths[0], tmp_path / "other")
    ends: dict[Path, object] = {}

    def race(path: Path) -> None:
        try:
            ends[path] = push([repository], wal.cluster, path, level=1)
        except ContentConflict as error:
            ends[path] = error

    threads = [threading.Thread(target=race, args=(path,)) for path in (ours, theirs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lost = [path for path, end in ends.items() if isinstance(end, ContentConflict)]
    assert len(lost) == 1
    assert comes_back(repository, wal, ours if lost == [theirs] else theirs, tmp_path)


def test_12_a_history_is_never_replaced(wal: Wal, tmp_path: Path) -> None:
    repository = local(tmp_path / "repository")
    push([repository], wal.cluster, wal.history, level=1)
    assert push([repository], wal.cluster, wal.history, level=1).already == ("local",)
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / wal.history.name
    other.write_text("1\t0/4000000\tanother promotion\n")
    with pytest.raises(ContentConflict):
        push([repository], wal.cluster, other, level=1)


def test_13_a_partial_segment_never_answers_for_the_whole_one(wal: Wal, tmp_path: Path) -> None:
    repository = local(tmp_path / "repository")
    push([repository], wal.cluster, wal.partial, level=1)
    assert fetch([repository], wal.cluster, wal.paths[2].name, tmp_path / "back").found is Found.ABSENT
    push([repository], wal.cluster, wal.paths[2], level=1)
    assert comes_back(repository, wal, wal.paths[2], tmp_path)
    assert comes_back(repository, wal, wal.partial, tmp_path)


# Disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    if os.geteuid() != 0:
        pytest.skip("a file system of its own takes root")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=0755", "none", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_15_a_full_repository_takes_nothing_and_goes_on_when_there_is_room(
    wal: Wal, small_disk: Path, tmp_path: Path
) -> None:
    repository = local(small_disk)
    push([repository], wal.cluster, wal.paths[0], level=1)
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    before = sorted(small_disk.rglob("*"))
    with pytest.raises(StoreUnavailable, match="Make room"):
        push([repository], wal.cluster, wal.paths[1], level=1)
    after = [path for path in sorted(small_disk.rglob("*")) if not path.name.endswith("-claim") and path.is_file()]
    assert after == [path for path in before if not path.name.endswith("-claim") and path.is_file()]
    assert comes_back(repository, wal, wal.paths[0], tmp_path)
    assert fetch([repository], wal.cluster, wal.paths[1].name, tmp_path / "x").found is Found.ABSENT
    filler.unlink()
    push([repository], wal.cluster, wal.paths[1], level=1)
    assert comes_back(repository, wal, wal.paths[1], tmp_path)


def test_17_a_repository_that_went_read_only_says_so(wal: Wal, small_disk: Path) -> None:
    repository = local(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreUnavailable, match="must be writable"):
        push([repository], wal.cluster, wal.paths[0], level=1)


def test_30_a_segment_counts_only_when_every_repository_has_it_and_the_other_catches_up(
    wal: Wal, tmp_path: Path
) -> None:
    first, second = local(tmp_path / "first"), local(tmp_path / "second")
    away = (tmp_path / "second").rename(tmp_path / "away")
    with pytest.raises(StoreUnavailable):
        push([first, second], wal.cluster, wal.paths[0], level=1)
    away.rename(tmp_path / "second")
    assert push([first, second], wal.cluster, wal.paths[0], level=1).already == ("local",)
    assert comes_back(first, wal, wal.paths[0], tmp_path)
    assert comes_back(second, wal, wal.paths[0], tmp_path)


def second_repository(engine: Engine) -> Path:
    """Write a second one into the configuration and make it."""
    path = directory(engine.servers.root / "second")
    first = engine.settings["repositories"][0]
    engine.configure(repositories=[first, {"name": "second", "type": "directory", "path": str(path)}])
    return path


def segments(place: Path) -> set[str]:
    return {path.name[:24] for path in place.glob("*/wal/*/*/*.zst")}


def test_30_while_the_first_repository_is_down_the_second_gets_all_of_a_backlog_and_the_first_catches_up(
    engine: Engine,
) -> None:
    second = second_repository(engine)
    engine.configure(wal={"ahead": 4})
    engine.dbops("init")
    engine.start_archiver()
    engine.archive()
    first = Path(engine.settings["repositories"][0]["path"])
    away = first.rename(first.with_name("unmounted"))
    names = []
    for _ in range(12):
        engine.rows(1)
        names.append(engine.switch())
    wait_until(lambda: segments(second) >= set(names), "the second to get everything", 60)
    assert engine.server.value("SELECT last_archived_wal FROM pg_stat_archiver") < names[0]
    assert not segments(away) & set(names)
    away.rename(first)
    query = "SELECT last_archived_wal FROM pg_stat_archiver"
    wait_until(lambda: engine.server.value(query) >= names[-1], "the first to catch up", 120)
    assert segments(first) >= set(names)
    # That one was down is told once for each try, not once for each segment of the backlog.
    assert engine.archiver_log().count("does not exist") < 40


def test_a_running_archiver_acknowledges_nothing_that_is_not_in_a_repository_that_came_since(engine: Engine) -> None:
    archiver = engine.start_archiver()
    engine.archive()
    # Ahead of PostgreSQL, so that there are markers from before.
    ours = engine.server.settings["archive_command"]
    engine.server.configure(archive_command="/bin/false").reload()
    wait_until(lambda: engine.server.value("SHOW archive_command") == "/bin/false", "archiving to stand still")
    engine.rows(1)
    early = engine.switch()
    markers = engine.home / "spool"
    wait_until(lambda: list(markers.glob(f"*/archived/{early}")), "its marker")
    second = second_repository(engine)
    assert archiver.wait(10) == 0
    assert not list(markers.glob("*/archived/*"))
    engine.dbops("init")
    engine.server.configure(archive_command=ours).reload()
    engine.start_archiver()
    engine.rows(1)
    name = engine.archive()
    assert segments(second) >= {early, name}


# Networks and stores


@pytest.mark.parametrize("fault", [refuse(500, "InternalError"), refuse(503, "SlowDown"), cut, cut_answer])
def test_18_and_19_what_passes_is_repeated_and_leaves_one_object(
    fault: Fault, wal: Wal, store: S3Server, proxy: FaultProxy, tmp_path: Path
) -> None:
    repository = s3(proxy.endpoint, tmp_path)
    for key in ("-claim", r"\.zst"):
        proxy.add(fault, method="PUT", key=key)
    push([repository], wal.cluster, wal.paths[0], level=1)
    assert len(store.objects) == 2  # the claim and the segment
    proxy.add(cut_body, method="GET", key=r"\.zst")
    assert comes_back(repository, wal, wal.paths[0], tmp_path)


def test_19_a_backup_outlives_the_lost_answer_to_each_kind_of_its_objects(
    servers: Servers, store: S3Server, proxy: FaultProxy
) -> None:
    server = servers.primary("db1", archive_mode="on", archive_command="/bin/false")
    credentials = servers.root / "credentials"
    credentials.write_text("[default]\naws_access_key_id = x\naws_secret_access_key = y\n")
    repository = {
        "name": "s3",
        "type": "s3",
        "bucket": "bucket",
        "endpoint": proxy.endpoint,
        "region": "us-east-1",
        "path_style": True,
        "credentials_file": str(credentials),
    }
    with Engine(servers, server, [repository]) as engine:
        engine.dbops("init")
        engine.use_archive_command()
        engine.rows(1)
        engine.archive()
        kinds = ("/begun.json", "/pack-000001", "/index-000001", "/entry.json", "/catalog/")
        for key in kinds:
            proxy.add(cut_answer, method="PUT", key=key)
        (entry,) = engine.json("backup")
        written = [key for method, key in store.requests if method == "PUT"]
        assert all(sum(kind in key for key in written) >= 2 for kind in kinds)
        assert [one["id"] for one in engine.json("list")] == [entry["id"]]
        assert engine.json("verify")["good"]


@pytest.mark.parametrize("fault", [refuse(503, "SlowDown"), cut])
def test_18_what_does_not_pass_ends_in_time(fault: Fault, wal: Wal, proxy: FaultProxy, tmp_path: Path) -> None:
    repository = s3(proxy.endpoint, tmp_path)
    proxy.add(fault, times=None)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        push([repository], wal.cluster, wal.paths[0], level=1)
    assert time.monotonic() - began < 60
    assert fetch([repository], wal.cluster, wal.paths[0].name, tmp_path / "x").found is Found.FAILED
    proxy.heal()
    push([repository], wal.cluster, wal.paths[0], level=1)
    assert comes_back(repository, wal, wal.paths[0], tmp_path)


@pytest.mark.parametrize("body", [b"", b"<Error><Code>InternalError</Code></Error>", b"<html>welcome</html>"])
def test_20_a_success_that_proves_nothing_is_a_failure(
    body: bytes, wal: Wal, proxy: FaultProxy, tmp_path: Path
) -> None:
    repository = s3(proxy.endpoint, tmp_path)
    proxy.add(succeed_with(body), method="PUT", key=r"\.zst", times=None)
    with pytest.raises(StoreUnavailable):
        push([repository], wal.cluster, wal.paths[0], level=1)
    proxy.heal()
    push([repository], wal.cluster, wal.paths[0], level=1)
    assert comes_back(repository, wal, wal.paths[0], tmp_path)


def test_21_a_bit_that_flips_on_the_way_is_found_and_does_not_stay(
    wal: Wal, store: S3Server, proxy: FaultProxy, tmp_path: Path
) -> None:
    """This store checks no digest, so the content would stay under a name that says that it is right."""
    repository = s3(proxy.endpoint, tmp_path)
    proxy.add(flip_sent, method="PUT", key=r"\.zst")
    with pytest.raises(ObjectCorrupt):
        push([repository], wal.cluster, wal.paths[0], level=1)
    assert not [key for key in store.objects if ".zst" in key]
    push([repository], wal.cluster, wal.paths[0], level=1)
    proxy.add(flip_received, method="GET", key=r"\.zst")
    assert fetch([repository], wal.cluster, wal.paths[0].name, tmp_path / "x").found is Found.FAILED
    assert comes_back(repository, wal, wal.paths[0], tmp_path)


@pytest.mark.parametrize(
    ("code", "remedy"), [("ExpiredToken", "Renew"), ("AccessDenied", "s3:PutObject"), ("RequestTimeTooSkewed", "clock")]
)
def test_22_credentials_that_end_are_said_and_their_renewal_is_enough(
    code: str, remedy: str, wal: Wal, proxy: FaultProxy, tmp_path: Path
) -> None:
    repository = s3(proxy.endpoint, tmp_path)
    push([repository], wal.cluster, wal.paths[0], level=1)
    proxy.add(refuse(403, code), times=None)
    with pytest.raises(StoreUnavailable, match=remedy):
        push([repository], wal.cluster, wal.paths[1], level=1)
    assert fetch([repository], wal.cluster, wal.paths[0].name, tmp_path / "x").found is Found.FAILED
    proxy.heal()
    push([repository], wal.cluster, wal.paths[1], level=1)


@pytest.mark.parametrize("condition", ["ignored", "501"])
def test_23_where_the_store_overwrites_a_second_content_is_still_found(
    condition: str, wal: Wal, tmp_path: Path
) -> None:
    with S3Server(condition) as store:
        repository = s3(store.endpoint, tmp_path, refuses_overwriting=False)
        assert isinstance(repository.store, S3Store)
        assert not probe.refuses_overwriting(repository.store)
        push([repository], wal.cluster, wal.paths[0], level=1)
        other = other_content(wal.paths[0], tmp_path / "other")
        with pytest.raises(ContentConflict):
            push([repository], wal.cluster, other, level=1)
        assert comes_back(repository, wal, wal.paths[0], tmp_path)


def test_23_two_contents_that_come_at_the_same_moment_are_told_and_never_delivered(wal: Wal, tmp_path: Path) -> None:
    with S3Server("ignored") as store:
        repository = s3(store.endpoint, tmp_path, refuses_overwriting=False)
        other = other_content(wal.paths[0], tmp_path / "other")
        content, sha256 = compression.compress([other.read_bytes()], 1)
        key = f"fleet/{layout.wal_object(wal.cluster.system, other.name, sha256, sealed=False)}"

        def second_writer(_: object) -> bool:
            store.objects[key] = content
            return False

        store.faults = [lambda _: False, second_writer]  # the listing before, then the PUT
        with pytest.raises(ContentConflict):
            push([repository], wal.cluster, wal.paths[0], level=1)
        assert fetch([repository], wal.cluster, other.name, tmp_path / "x").found is Found.CONFLICT


def test_24_a_listing_of_many_pages_is_complete_and_a_short_one_is_no_absence(wal: Wal, tmp_path: Path) -> None:
    with S3Server(page=3) as store, FaultProxy(store.endpoint) as proxy:
        repository = s3(proxy.endpoint, tmp_path)
        store.objects = {f"fleet/{wal.cluster.system}/wal/00000001/x{number}": b"" for number in range(40)}
        push([repository], wal.cluster, wal.paths[0], level=1)
        assert len(list(repository.store.list(""))) == 42
        proxy.add(short_list, method="GET", key="list-type", times=None)
        assert comes_back(repository, wal, wal.paths[0], tmp_path)


# The archiver and its client


def ask(spool: Path, path: str) -> subprocess.CompletedProcess[str]:
    """The client as archive_command runs it, given as text: postgres may not be let into a checkout in root's home."""
    command = ["/usr/bin/python3", "-I", "-S", "-c", Path(client.__file__).read_text(), str(spool), path]
    return subprocess.run([*command_prefix(), *command], capture_output=True, text=True, check=False, env=clean())


@contextlib.contextmanager
def listener(spool: Path, answer: bytes, *, user: str = "postgres") -> Iterator[None]:
    """Somebody else at the archiver's place, who gives this answer."""
    program = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print('listening', flush=True)\n"
        "while True:\n"
        "    c, _ = s.accept(); c.recv(4096); c.sendall(bytes.fromhex(sys.argv[2])); c.close()\n"
    )
    path = spool / client.SOCKET
    path.unlink(missing_ok=True)
    spool.chmod(0o777)
    process = subprocess.Popen(
        ["/usr/bin/python3", "-c", program, str(path), answer.hex()],
        stdout=subprocess.PIPE,
        user=user if os.geteuid() == 0 else None,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
        path.chmod(0o666)
        yield
    finally:
        process.kill()
        process.wait()
        path.unlink(missing_ok=True)


def test_03_and_04_only_the_word_of_our_archiver_about_this_very_file_counts(tmp_path: Path) -> None:
    spool = tmp_path
    for parent in (tmp_path, *tmp_path.parents):
        if parent.name.startswith(("pytest-", "popen-")):
            parent.chmod(0o755)
    assert ask(spool, "pg_wal/A").returncode == 1  # nobody is there
    for answer in (b"archived B\n", b"archived A", b"", b"archived\n", b"\n", b"archived AA\n", b"not archived A\n"):
        with listener(spool, answer):
            assert ask(spool, "pg_wal/A").returncode == 1, answer
    with listener(spool, b"archived A\n"):
        assert ask(spool, "pg_wal/A").returncode == 0
    assert ask(spool, "pg_wal/A").returncode == 1  # its socket is gone


@pytest.mark.skipif(os.geteuid() != 0, reason="another user takes root")
def test_03_a_stranger_at_the_archivers_place_is_not_believed(tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents):
        if parent.name.startswith(("pytest-", "popen-")):
            parent.chmod(0o755)
    with listener(tmp_path, b"archived A\n", user="nobody"):
        told = ask(tmp_path, "pg_wal/A")
    assert told.returncode == 1
    assert "belongs to user id" in told.stderr


def test_27_a_marker_from_before_a_restore_does_not_answer_for_the_new_segment(engine: Engine) -> None:
    engine.start_archiver()
    markers = next((engine.home / "spool").glob("*/archived"))
    name = "000000010000000000000099"
    segment = directory(engine.home / "copies") / name
    (markers / name).touch()
    segment.touch()
    os.utime(markers / name, (1000, 1000))  # archived in the life before
    command = engine.server.settings["archive_command"].replace("%f", name).replace("%p", str(segment))
    assert os.waitstatus_to_exitcode(os.system(command.split("||")[0])) == 1
    # A new archiver believes no marker at all, because the repository may be another one now.
    assert engine.archiver is not None
    engine.archiver.send_signal(signal.SIGTERM)
    engine.archiver.wait()
    os.utime(markers / name, (4e9, 4e9))
    engine.start_archiver()
    assert not (markers / name).exists()


def kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_01_and_02_a_push_that_is_killed_anywhere_leaves_nothing_half_and_the_next_one_succeeds(
    engine: Engine,
) -> None:
    engine.server.configure(archive_command="/bin/false").reload()
    wait_until(lambda: engine.server.value("SHOW archive_command") == "/bin/false", "archiving to stand still")
    names = []
    for _ in range(6):
        engine.rows(1)
        names.append(engine.switch())
    for number, name in enumerate(names):
        path = str(engine.server.data / "pg_wal" / name)
        process = subprocess.Popen(
            engine.command("wal", "push", path), env=clean(), stderr=subprocess.DEVNULL, start_new_session=True
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.15 + 0.07 * number)  # a moment on its way, whichever
        kill(process)
        assert engine.json("check", "--all", status=0)["problems"] == []
        engine.dbops("wal", "push", path)
        assert len(engine.wal_objects(name)) == 1
    root = Path(engine.settings["repositories"][0]["path"])
    left = root / ".0123456789abcdef.unfinished"
    left.write_bytes(b"x")
    os.utime(left, (1000, 1000))
    engine.dbops("backup", status=1)  # archiving stands still, so none is begun
    engine.use_archive_command()
    engine.archive()
    engine.dbops("backup")
    engine.dbops("expire")
    assert not left.exists()  # those of just now stay for a day


def test_02_an_archiver_that_is_killed_while_it_pushes_loses_and_spoils_nothing(engine: Engine) -> None:
    for _ in range(3):
        archiver = engine.start_archiver()
        for _ in range(3):
            engine.rows(1)
            name = engine.switch()
        kill(archiver)
    engine.start_archiver()
    engine.archive()
    state = engine.json("wal", "status")
    assert [gap for report in state["repositories"][0]["timelines"] for gap in report["gaps"]] == []
    assert engine.json("check", "--all")["problems"] == []
    assert engine.wal_objects(name)


@pytest.mark.parametrize("megabytes", [1, 64])
def test_26_other_segment_sizes_are_named_found_and_restored_right(servers: Servers, megabytes: int) -> None:
    server = servers.server("db1").initdb(archive_mode="on", archive_command="/bin/false", wal_level="replica")
    server.run("pg_resetwal", f"--wal-segsize={megabytes}", str(server.data))
    server.configure(min_wal_size=f"{megabytes * 2}MB", max_wal_size=f"{megabytes * 4}MB").start()
    repository = {"name": "local", "type": "directory", "path": str(directory(servers.root / "repository"))}
    with Engine(servers, server, [repository]) as engine:
        engine.dbops("init")
        engine.use_archive_command()
        engine.start_archiver()
        engine.rows(2)
        engine.dbops("backup")
        for _ in range(3):
            engine.rows(2)
            name = engine.archive()
        state = engine.json("wal", "status")
        assert state["repositories"][0]["timelines"][0]["last"] == name
        assert state["problems"] == []
        place = directory(servers.root / "to") / "data"
        report = engine.json("restore", "--to", str(place), "--action", "scratch")
        assert report["ended"] == "at the target"


@pytest.mark.slow
def test_25_one_bad_segment_in_a_long_backlog_holds_the_frontier_and_memory_stays_bounded(servers: Servers) -> None:
    server = servers.server("db1").initdb(archive_mode="on", archive_command="/bin/false", wal_level="replica")
    server.run("pg_resetwal", "--wal-segsize=1", str(server.data))
    server.configure(min_wal_size="2MB", max_wal_size="4MB").start()
    repository = {"name": "local", "type": "directory", "path": str(directory(servers.root / "repository"))}
    with Engine(servers, server, [repository]) as engine:
        engine.dbops("init")
        names = []
        server.sql("CREATE TABLE t (i int)")
        for _ in range(500):
            server.sql("INSERT INTO t VALUES (1)")
            names.append(server.value("SELECT pg_walfile_name(pg_switch_wal())"))
        bad = names[250]
        other = other_content(server.data / "pg_wal" / bad, directory(engine.home / "other"))
        shutil.chown(other, "postgres", "postgres")
        with other.open("r+b") as file:
            file.seek(9000)
            file.write(b"another server wrote this")
        engine.dbops("wal", "push", str(other))
        archiver = engine.start_archiver()
        engine.use_archive_command()
        query = "SELECT last_archived_wal FROM pg_stat_archiver"
        wait_until(lambda: server.value(query) == names[249], "everything before the bad one", 120)
        wait_until(lambda: server.value("SELECT last_failed_wal FROM pg_stat_archiver") == bad, "its failure", 60)
        assert server.value(query) == names[249]
        codes = [problem["code"] for problem in engine.json("wal", "status", status=1)["problems"]]
        assert "archive_failing" in codes
        assert "with other content" in engine.archiver_log()
        status = Path(f"/proc/{archiver.pid}/status").read_text()
        (peak,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        assert peak < 150 * 1024


@pytest.mark.slow
def test_28_a_frozen_archiver_costs_its_deadline_and_no_segment(engine: Engine) -> None:
    archiver = engine.start_archiver()
    engine.archive()
    archiver.send_signal(signal.SIGSTOP)
    try:
        engine.rows(1)
        name = engine.switch()
        query = "SELECT last_archived_wal >= %s FROM pg_stat_archiver"
        began = time.monotonic()
        # The client gives up after a minute, and the server's own process does the work.
        wait_until(lambda: engine.server.value(query, name), f"{name} to be archived", 120)
        assert time.monotonic() - began > 30
        assert engine.wal_objects(name)
    finally:
        archiver.send_signal(signal.SIGCONT)

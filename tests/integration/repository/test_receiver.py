# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The receiver against a real server: what was committed seconds before host and disk were lost comes back."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator

from ansible_collections.dbops.fleet.tests.integration.repository.engine import Engine, clean, directory
from ansible_collections.dbops.fleet.tests.integration.repository.test_backup_restore import place, started
from ansible_collections.dbops.fleet.tests.integration.servers import Servers, wait_until


@contextlib.contextmanager
def receiving(engine: Engine) -> Iterator[None]:
    with (engine.home / "receiver.log").open("ab") as log:
        receiver = subprocess.Popen(engine.command("wal", "receive"), stdout=log, stderr=log, env=clean())
    try:
        yield
    finally:
        receiver.terminate()
        assert receiver.wait(10) == 0, (engine.home / "receiver.log").read_text()


def await_received(engine: Engine) -> None:
    """Until what is committed now is in the repository."""
    position = engine.server.value("select pg_current_wal_insert_lsn()::text")
    query = "select %s::pg_lsn <= %s::pg_lsn"

    def arrived() -> bool:
        received = engine.json("wal", "status")["received_lsn"]
        return received is not None and bool(engine.server.value(query, position, received))

    wait_until(arrived, f"{position} to be received")


def test_commits_that_no_segment_was_archived_for_survive_the_loss_of_the_host(engine: Engine) -> None:
    engine.configure(wal={"receive_seconds": 0.2})
    engine.rows(1)
    engine.dbops("backup")
    with receiving(engine):
        engine.rows(5)
        await_received(engine)
        # A segment that gets full goes on in the next one; the archive has it then, and its pieces go.
        engine.archive()
        engine.rows(5)
        await_received(engine)
        state = engine.json("wal", "status")
        assert state["rpo_seconds"] < 5
        assert state["problems"] == []
        expected = engine.server.sql("select i from t order by i")
        moment = str(engine.server.value("select clock_timestamp()"))
        engine.rows(2)
        await_received(engine)
        engine.server.stop("immediate")
    assert engine.json("check", "--all")["problems"] == []
    earlier = directory(engine.servers.root / "before") / "data"
    words = ("--action", "scratch", "--target", "time", moment)
    engine.dbops("restore", "--to", str(earlier), *words)
    assert started(engine, earlier, "earlier").sql("select i from t order by i") == expected
    # Nothing of the host's own WAL is left.
    shutil.rmtree(engine.server.data / "pg_wal")
    path = place(engine)
    plan = engine.json("restore", "--to", str(path), "--dry-run")
    report = engine.json("restore", "--to", str(path))
    assert (report["wal_to"], report["ended"], report["new_timeline"]) == (plan["wal_to"], "at the target", 2)
    assert len(started(engine, path).sql("select i from t")) == len(expected) + 2


def test_after_a_promotion_the_new_timeline_is_received_and_restored(engine: Engine, servers: Servers) -> None:
    replica = engine.sibling(servers.replica("db2", engine.server))
    replica.configure(wal={"receive_seconds": 0.2})
    engine.rows(3)
    engine.dbops("backup")
    with receiving(replica):
        replica.server.wait_for_replay(engine.server)
        assert engine.objects("*/tail/**/*") == []  # a standby sends nothing
        engine.server.stop("immediate")
        replica.server.promote()
        replica.use_archive_command()
        replica.rows(4)
        await_received(replica)
        assert {path.parent.name[:8] for path in engine.objects("*/tail/**/*-*.zst")} == {"00000002"}
        wait_until(lambda: engine.objects("*/wal/history/00000002.history-*"), "the history to be archived")
        replica.server.stop("immediate")
    path = place(engine)
    replica.dbops("restore", "--to", str(path), "--action", "scratch")
    assert len(started(engine, path).sql("select i from t")) == 7


def test_a_piece_that_is_damaged_stops_the_restore_before_anything_is_promoted(engine: Engine) -> None:
    engine.configure(wal={"receive_seconds": 0.2})
    engine.rows(1)
    engine.dbops("backup")
    with receiving(engine):
        engine.rows(5)
        await_received(engine)
    piece = engine.objects("*/tail/**/*-*.zst")[0]
    data = bytearray(piece.read_bytes())
    data[len(data) // 2] ^= 1
    piece.write_bytes(data)
    assert piece.name in engine.dbops("check", "--all", status=1).stdout
    told = engine.dbops("restore", "--to", str(place(engine)), "--action", "scratch", status=1).stderr
    assert piece.name in told
    piece.unlink()
    engine.json("restore", "--to", str(place(engine)), "--action", "scratch", "--delta")

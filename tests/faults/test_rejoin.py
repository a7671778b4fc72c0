# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List R: a member becomes a replica again. Real servers on loopback.

Elsewhere: a rejoin that is killed between any two of its acts (test_rejoin_killed.py); on test hosts
(test_failover_hosts.py) R02 by the shipped playbook, R06 by power cuts, R13 with PostgreSQL 17's failover slots, R15 on
a disk that is full; Debian's configuration in /etc (R07) there and in Molecule's scenario `rejoin`. R01 looks at the
physical slots of R13.

The list has no R08 and R09.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.tests.faults.pair import Pair, rejoined_servers
from ansible_collections.dbops.fleet.tests.integration.servers import Servers


@pytest.fixture
def servers() -> Iterator[Servers]:
    yield from rejoined_servers()


@pytest.fixture
def pair(servers: Servers, tmp_path: Path) -> Pair:
    tmp_path.chmod(0o755)
    return Pair(servers, tmp_path)


def test_r01_a_primary_that_stopped_cleanly_needs_no_rewind(pair: Pair) -> None:
    pair.n1.sql("INSERT INTO acked VALUES (1)")
    pair.n2.wait_for_replay(pair.n1)
    pair.n1.stop()
    pair.take_over()
    planned = pair.rejoin(check_mode=True)
    assert planned.changed
    assert planned.result["action"] == "start"
    outcome = pair.rejoin()
    assert outcome.result["action"] == "start"
    assert outcome.result["streaming"]
    assert pair.n1.value("SELECT count(*) FROM pg_replication_slots") == 0
    pair.assert_follows()


def test_r02_a_diverged_primary_is_rewound_and_what_is_lost_is_counted_and_kept(pair: Pair) -> None:
    pair.diverge(lost=10)
    outcome = pair.rejoin()
    assert outcome.result["action"] == "rewind", outcome.result.get("rewind_failed")
    lost = outcome.result["lost"]
    assert lost["commits"] == 1
    assert [(t["inserted"], t["name"]) for t in lost["tables"] if t["name"]] == [(10, "postgres: public.acked")]
    assert (Path(lost["saved"]) / "pg_waldump.txt").stat().st_size > 0
    assert list(Path(lost["saved"]).glob("0000*"))
    pair.assert_follows()


def test_r02_after_a_clean_stop_too(pair: Pair) -> None:
    pair.diverge(lost=3, crash=False)
    outcome = pair.rejoin()
    assert outcome.result["action"] == "rewind", outcome.result.get("rewind_failed")
    pair.assert_follows()


def test_r03_without_checksums_and_hints_it_is_cloned_beside_the_old_directory(pair: Pair) -> None:
    pair.diverge(crash=False)
    pair.n1.run("pg_checksums", "--disable", "--pgdata", str(pair.n1.data))
    pair.n1.configure(wal_log_hints="off")
    pair.n1.start().stop()
    outcome = pair.rejoin()
    assert outcome.result["action"] == "clone", outcome.result
    assert list(pair.n1.directory.glob("data.old-*"))
    pair.assert_follows()


def test_r04_a_new_primary_that_was_not_checkpointed_is_checkpointed_first(pair: Pair) -> None:
    """Its control file says timeline 1 until then, and pg_rewind would compare with that."""
    pair.diverge(crash=False)
    pair.rejoin()
    assert pair.n2.value("SELECT timeline_id FROM pg_control_checkpoint()") == 2
    pair.assert_follows()


def test_r05_without_the_log_back_to_the_last_common_checkpoint_it_is_cloned(pair: Pair) -> None:
    pair.n1.configure(wal_keep_size="0").reload()
    pair.n2.sql("ALTER SYSTEM SET primary_conninfo = ''")
    pair.n2.reload()
    pair.n1.sql("SELECT pg_drop_replication_slot('n2') FROM pg_sleep(0.5)")
    for _ in range(3):
        pair.n1.sql("INSERT INTO acked SELECT max(id) + 1 FROM (SELECT 0 AS id UNION SELECT id FROM acked) AS known")
        pair.n1.sql("SELECT pg_switch_wal()")
        pair.n1.sql("CHECKPOINT")
    pair.n1.stop()
    pair.take_over()
    outcome = pair.rejoin()
    assert outcome.result["action"] == "clone"
    pair.assert_follows()


def test_r06_an_interrupted_rewind_becomes_a_clone(pair: Pair) -> None:
    pair.diverge(crash=False)
    state = pair.root / "state"
    state.mkdir()
    (state / f"rewind-{pair.n1.version}-n1.json").write_text("{}")
    assert pair.rejoin(check_mode=True).result["action"] == "clone"
    pair.rejoin()
    assert not list(state.glob("rewind-*"))
    pair.assert_follows()


def test_r07_a_member_keeps_its_own_configuration(pair: Pair) -> None:
    """pg_rewind and a clone bring the primary's files along."""
    pair.n1.configure(work_mem="7MB").reload()
    pair.diverge(crash=False)
    port = pair.n1.port
    assert pair.rejoin().result["action"] == "rewind"
    assert (pair.n1.value("SHOW work_mem"), pair.n1.value("SHOW port")) == ("7MB", str(port))
    assert pair.n2.value("SHOW work_mem") != "7MB"
    pair.assert_follows()


def test_r14_write_ahead_log_that_was_never_archived_is_kept(pair: Pair) -> None:
    pair.n1.configure(archive_mode="on", archive_command="false").restart()
    pair.n2.wait_for_streaming()
    pair.n1.sql("INSERT INTO acked VALUES (900)")
    pair.n1.sql("SELECT pg_switch_wal()")
    pair.diverge()
    ready = {path.stem for path in (pair.n1.data / "pg_wal/archive_status").glob("*.ready")}
    assert ready, "nothing waits for the archiver"
    saved = Path(pair.rejoin().result["lost"]["saved"])
    assert ready <= {path.name for path in saved.iterdir()}
    pair.assert_follows()


def test_r18_a_member_that_replays_late_only_has_to_receive(pair: Pair) -> None:
    """What it has before its rejoin is consistent; what the new primary committed since comes an hour later."""
    pair.n1.configure(recovery_min_apply_delay="1h")
    pair.n2.wait_for_replay(pair.n1)
    pair.n1.stop()
    pair.take_over()
    result = pair.rejoin().result
    assert (result["action"], result["streaming"]) == ("start", True)
    assert Lsn.parse(result["replayed"]) < Lsn.parse(result["received"])
    assert pair.n1.value("SELECT count(*) FROM acked WHERE id = 5000") == 0


def test_r10_a_primary_that_still_runs_is_refused_until_it_is_named(pair: Pair) -> None:
    pair.diverge()
    pair.n1.start()
    with pytest.raises(Refused) as refused:
        pair.rejoin()
    assert refused.value.details["code"] == "runs_as_primary"
    assert pair.rejoin(stop_primary=True).result["action"] == "rewind"
    pair.assert_follows()


def test_r17_a_stale_primary_does_not_get_the_members_of_the_newer_timeline(pair: Pair) -> None:
    """All hosts lost their power; the primary from before the failover came up, and a standby of the new one."""
    pair.n1.sql("INSERT INTO acked VALUES (1)")
    pair.n2.wait_for_replay(pair.n1)
    pair.n1.kill()
    pair.take_over()
    pair.n2.stop()
    (pair.n2.data / "standby.signal").touch()
    pair.n2.start()
    pair.n1.start()
    with pytest.raises(Refused) as refused:
        pair.rejoin(member=pair.n2, primary=pair.n1)
    assert refused.value.details["code"] == "stale_primary"
    assert pair.n2.value("SELECT count(*) FROM acked WHERE id = 5000") == 1
    outcome = pair.rejoin(member=pair.n2, primary=pair.n1, replace_data=True)
    assert outcome.result["action"] == "clone"
    assert list(pair.n2.directory.glob("data.old-*"))


def test_r11_another_clusters_data_are_refused(servers: Servers, pair: Pair) -> None:
    stranger = servers.primary("n3").stop()
    pair.diverge()
    with pytest.raises(Refused) as refused:
        pair.rejoin(member=stranger)
    assert refused.value.details["code"] == "foreign"


def test_r12_a_standby_is_nobody_to_rejoin(pair: Pair) -> None:
    pair.n1.stop()
    with pytest.raises(Refused) as refused:
        pair.rejoin()
    assert refused.value.details["code"] == "source_not_primary"


def test_r16_a_cascaded_replica_is_left_at_its_upstream_as_long_as_that_streams(servers: Servers, pair: Pair) -> None:
    third = servers.replica("n3", of=pair.n2, slot="n3")
    left = pair.rejoin(member=third, primary=pair.n1, upstream=pair.n2)
    assert (left.changed, left.result["action"]) == (False, "nothing")
    pair.n2.follow_nobody()
    moved = pair.rejoin(member=third, primary=pair.n1, upstream=pair.n2)
    assert moved.result["action"] == "follow"
    assert third.value("SELECT sender_port FROM pg_stat_wal_receiver") == pair.n1.port


def test_r16_a_healthy_standby_is_left_alone(pair: Pair) -> None:
    pair.n1.stop()
    pair.take_over()
    pair.rejoin()
    again = pair.rejoin()
    assert not again.changed
    assert again.result["action"] == "nothing"

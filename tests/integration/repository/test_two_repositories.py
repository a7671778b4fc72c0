# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""While the first of two repositories is down, the timed jobs and the module keep the second one going."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.tests.integration.repository.engine import Engine, directory
from ansible_collections.dbops.fleet.tests.integration.repository.test_modules import call
from ansible_collections.dbops.fleet.tests.integration.servers import Servers, wait_until

FAILING = "SELECT last_failed_time > last_archived_time FROM pg_stat_archiver"


@pytest.fixture
def two(servers: Servers) -> Iterator[Engine]:
    """A primary with two repositories, an archiver, and jobs that repeat at once."""
    with Engine.with_primary(servers) as engine:
        second = {"name": "second", "type": "directory", "path": str(directory(servers.root / "second"))}
        engine.configure(repositories=[engine.settings["repositories"][0], second])
        engine.dbops("init")
        scratch = directory(servers.root / "scratch")
        jobs = {"apart_hours": 0, "drill_directory": str(scratch)}
        engine.config_file.with_name("backup-jobs.json").write_text(json.dumps(jobs))
        engine.rows(1)
        engine.start_archiver()
        engine.archive()
        yield engine


def unmount(engine: Engine) -> tuple[Path, Path]:
    """Take the first repository away and wait until PostgreSQL has seen it. Returns where it was, and where it is."""
    first = Path(engine.settings["repositories"][0]["path"])
    away = first.rename(first.with_name("away"))
    engine.rows(1)
    engine.switch()
    wait_until(lambda: engine.server.value(FAILING), "archiving to fail", 60)
    return first, away


def backups(engine: Engine, name: str) -> list[str]:
    return [entry["id"] for entry in engine.json("list", "--repository", name)]


def test_jobs_go_on_in_the_second_repository_and_fail_for_the_first(two: Engine) -> None:
    first, away = unmount(two)
    for job in ("backup", "check", "expire", "drill"):
        assert "does not exist" in two.dbops("job", job, status=1).stderr, job
    assert len(backups(two, "second")) == 1
    assert two.json("list", "--repository", "second")[0]["verified"]["how"] == "drill"
    away.rename(first)
    assert backups(two, "local") == []
    wait_until(lambda: not two.server.value(FAILING), "archiving to go on", 120)
    done = two.dbops("job", "backup").stdout
    assert "local: took" in done
    assert "second: took" in done


def test_a_drill_proves_every_repository(two: Engine) -> None:
    two.dbops("job", "backup")
    two.dbops("job", "drill")
    for name in ("local", "second"):
        verified = two.json("list", "--repository", name)[0]["verified"]
        assert (verified["how"], verified["good"]) == ("drill", True), name


def test_the_module_takes_the_backup_in_the_second_and_says_what_is_wrong_with_the_first(two: Engine) -> None:
    unmount(two)
    failure = call(two, "base_backup", failed=True, engine_directory=None, wal_timeout=60)
    assert "does not exist" in failure["msg"]
    (result,) = failure["results"]
    assert (result["repository"], result["taken"]) == ("second", True)
    assert backups(two, "second") == [result["backup"]["id"]]


def test_the_command_takes_the_backup_in_the_second_and_fails_for_the_first(two: Engine) -> None:
    unmount(two)
    done = two.dbops("backup", status=1)
    assert "second: " in done.stdout
    assert "does not exist" in done.stderr
    assert len(backups(two, "second")) == 1

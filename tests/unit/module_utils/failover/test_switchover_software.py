# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a candidate's host lacks, and what systemd would do in the pause."""

from __future__ import annotations

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_software import (
    Software,
    compare,
    judge_restart,
)

HERE = Software({"orders": "2.36"}, {"plpgsql": "1.0", "pg_trgm": "1.6", "unused": "1"})
USED = {"plpgsql": ["orders"], "pg_trgm": ["orders"]}


def results(there: Software) -> dict[str, tuple[str, str]]:
    return {one.name: (one.result, one.found) for one in compare("pg2", HERE, there, USED)}


def test_the_same_software_is_fine() -> None:
    there = Software({"orders": "2.36"}, {"plpgsql": "1.0", "pg_trgm": "1.6"})
    assert {result for result, _ in results(there).values()} == {"ok"}


def test_warns_of_another_version_of_the_collation() -> None:
    result, found = results(Software({"orders": "2.41"}, HERE.extensions))["candidate_collations"]
    assert result == "warn"
    assert "2.41" in found
    assert "2.36" in found


def test_refuses_a_candidate_without_an_extension_that_a_database_has() -> None:
    result, found = results(Software(HERE.collations, {"plpgsql": "1.0"}))["candidate_extensions"]
    assert result == "refuse"
    assert found == "pg_trgm is not installed, which orders has"


def test_warns_of_another_version_of_an_extension() -> None:
    result, found = results(Software(HERE.collations, {"plpgsql": "1.0", "pg_trgm": "1.5"}))["candidate_extensions"]
    assert (result, found) == ("warn", "pg_trgm 1.5, the primary has 1.6")


@pytest.mark.parametrize(("restart", "result"), [("", "ok"), ("no", "ok"), ("on-failure", "ok"), ("always", "warn")])
def test_warns_of_a_unit_that_is_started_again_after_a_clean_stop(restart: str, result: str) -> None:
    assert judge_restart("pg1", "postgresql@17-main.service", restart)[0].result == result

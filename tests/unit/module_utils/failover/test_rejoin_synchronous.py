# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lowered synchronous_standby_names is taken back when enough standbys stream again, and not before."""

from __future__ import annotations

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.failover.rejoin_synchronous import SETTING, is_whole, restore
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_ports import PortError

BEFORE = "FIRST 1 (n1, n2)"


class FakeServer:
    """A server with a value in its files and perhaps one stored by ALTER SYSTEM."""

    def __init__(self, stored: str | None, in_files: str = BEFORE, streaming: tuple[str, ...] = ()) -> None:
        self.stored, self.in_files, self.streaming = stored, in_files, streaming

    def setting(self, name: str) -> str:
        assert name == SETTING
        return self.in_files if self.stored is None else self.stored

    def configure(self, settings: dict[str, str | None]) -> None:
        self.stored = settings[SETTING]

    def standbys(self) -> tuple[str, ...]:
        return self.streaming


class Silent(FakeServer):
    def setting(self, name: str) -> str:
        raise PortError(f"no {name}")


@pytest.mark.parametrize(
    ("rule", "streaming", "whole"),
    [
        (BEFORE, ["n1"], True),
        (BEFORE, [], False),
        ("FIRST 2 (n1, n2, n3)", ["n1"], False),
        ("ANY 2 (n1, n2, n3)", ["n1", "n3"], True),
        (BEFORE, ["n2"], False),  # the primary itself
        (BEFORE, ["stranger"], False),
    ],
)
def test_it_is_whole_when_commits_would_not_hang(rule: str, streaming: list[str], whole: bool) -> None:
    assert is_whole(rule, "n2", streaming) is whole


def test_everybody_gets_back_what_the_files_say() -> None:
    primary, other = FakeServer("", streaming=("n1",)), FakeServer("")
    done = restore(primary, {"n1": other}, name="n2", lowered="", before=BEFORE)
    assert done == {"from": "", "to": BEFORE, "not_told": {}}
    assert primary.stored is None
    assert other.stored is None


def test_a_rule_that_was_stored_before_is_stored_again() -> None:
    primary = FakeServer("", in_files="ANY 1 (*)", streaming=("n1",))
    restore(primary, {}, name="n2", lowered="", before=BEFORE)
    assert primary.stored == BEFORE


def test_check_mode_says_so_and_changes_nothing() -> None:
    primary = FakeServer("", streaming=("n1",))
    assert restore(primary, {}, name="n2", lowered="", before=BEFORE, check_mode=True) is not None
    assert primary.stored == ""


def test_with_too_few_standbys_nothing_is_done() -> None:
    primary = FakeServer("")
    assert restore(primary, {}, name="n2", lowered="", before=BEFORE) is None
    assert primary.stored == ""


def test_what_an_operator_has_set_since_is_left_alone() -> None:
    primary = FakeServer("ANY 1 (n3)", streaming=("n1",))
    assert restore(primary, {}, name="n2", lowered="", before=BEFORE) is None


def test_a_replica_that_does_not_answer_is_told_of() -> None:
    done = restore(FakeServer("", streaming=("n1",)), {"n3": Silent("")}, name="n2", lowered="", before=BEFORE)
    assert done is not None
    assert done["not_told"] == {"n3": f"no {SETTING}"}

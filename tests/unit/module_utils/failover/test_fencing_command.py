# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""F05: a fence is believed when the state command says so, and for no other reason. Real processes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.failover.fencing import CONFIRMED, UNCONFIRMED
from ansible_collections.dbops.fleet.plugins.module_utils.failover.fencing_command import fence_by_command


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """What the power controller says."""
    path = tmp_path / "state"
    path.write_text("Chassis Power is on\n")
    return path


def switching(state: Path, *, exit_code: int = 0) -> str:
    """A command that switches off."""
    return f"sh -c 'echo Chassis Power is off > {state}; exit {exit_code}'"


def test_off_and_seen_off_is_confirmed(state: Path) -> None:
    rung = fence_by_command(switching(state), f"cat {state}", "is off", timeout=5)
    assert rung.status == CONFIRMED
    assert "is off" in rung.evidence[-1]


def test_a_command_that_returns_0_without_effect_is_not_confirmed(state: Path) -> None:
    rung = fence_by_command("true", f"cat {state}", "is off", timeout=0.5)
    assert rung.status == UNCONFIRMED
    assert "is on" in " ".join(rung.evidence)


def test_a_command_that_fails_although_the_host_is_off_is_confirmed(state: Path) -> None:
    """Switching off what is off already is an error for many power controllers."""
    assert fence_by_command(switching(state, exit_code=1), f"cat {state}", "is off", timeout=5).status == CONFIRMED


def test_a_command_that_hangs_is_given_up_and_the_state_asked_all_the_same(state: Path) -> None:
    begun = time.monotonic()
    rung = fence_by_command("sleep 60", f"cat {state}", "is off", timeout=0.5, command_timeout=0.3)
    assert rung.status == UNCONFIRMED
    assert "did not end within 0.3 s" in rung.evidence[0]
    assert time.monotonic() - begun < 10
    state.write_text("Chassis Power is off\n")
    again = fence_by_command("sleep 60", f"cat {state}", "is off", timeout=0.5, command_timeout=0.3)
    assert again.status == CONFIRMED


def test_a_state_command_that_fails_is_not_believed_whatever_it_says() -> None:
    rung = fence_by_command("true", "sh -c 'echo power is off; exit 1'", "is off", timeout=0.4)
    assert rung.status == UNCONFIRMED


def test_a_state_command_that_hangs_is_not_believed() -> None:
    rung = fence_by_command("true", "sh -c 'echo power is off; sleep 60'", "is off", timeout=0.4, command_timeout=0.3)
    assert rung.status == UNCONFIRMED


@pytest.mark.parametrize("command", ["/nowhere/ipmitool power off", "unbalanced 'quote", ""])
def test_a_command_that_cannot_be_run_is_told(command: str, state: Path) -> None:
    rung = fence_by_command(command, f"cat {state}", "is off", timeout=0.3)
    assert rung.status == UNCONFIRMED
    assert "could not be run" in rung.evidence[0]


def test_it_waits_for_a_host_that_takes_its_time(state: Path) -> None:
    slowly = f"sh -c '(sleep 0.5; echo Chassis Power is off > {state}) >/dev/null 2>&1 &'"
    assert fence_by_command(slowly, f"cat {state}", "is off", timeout=10).status == CONFIRMED

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the steps of an unplanned failover need from the world, as protocols.

`unplanned_remote.py` is the real one; the unit tests have a simulated cluster. Every method may raise PortError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_ports import Pooler, PortError
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts

__all__ = ["Pooler", "PortError", "Replica", "World"]


class Replica(Protocol):
    """A replica, over SQL."""

    def facts(self) -> MemberFacts:
        """Its state now; never raises, says "unreachable" instead."""

    def setting(self, name: str) -> str:
        """The value in force, passwords included."""

    def configure(self, settings: Mapping[str, str | None]) -> None:
        """ALTER SYSTEM SET (None: RESET) and reload, and wait until the values are in force."""

    def create_slot(self, name: str) -> bool:
        """Make a physical slot; False where it exists."""

    def drop_slot(self, name: str) -> None:
        """Nothing where it does not exist."""

    def promote(self) -> None:
        """Ask for promotion; does not wait."""

    def switchpoint(self, timeline: int) -> Lsn:
        """Where this timeline began, from its history file."""

    def write(self) -> None:
        """Commit a real write that waits for nobody but this server's own disk."""

    def confirmed(self, position: Lsn) -> Sequence[str]:
        """Application names of its standbys that have the log up to there on their disks."""

    def checkpoint(self) -> None:
        """CHECKPOINT, which may take long."""


class World(Protocol):
    """Everything outside."""

    def replica(self, name: str) -> Replica:
        """A member that can be asked."""

    def pooler(self, name: str) -> Pooler:
        """A PgBouncer process of the request."""

    def primary_answers(self) -> str | None:
        """How the old primary shows life, as seen from here just now; None where it does not."""

    def monotonic(self) -> float:
        """Seconds of a clock that never jumps."""

    def sleep(self, seconds: float) -> None:
        """Wait."""

    def gather(self, calls: Sequence[Callable[[], Any]], timeout: float) -> list[Any]:
        """Run all calls at once; per call its result, or the exception it raised (PortError after the timeout)."""

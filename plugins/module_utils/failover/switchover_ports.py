# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the steps of a switchover need from the world, as protocols.

`switchover_local.py`, `switchover_remote.py` and `switchover_pooler.py` are the real ones; the unit tests have a
simulated cluster. Every method may raise PortError (nothing is known about whether it took effect).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn


class PortError(Exception):
    """An act outside failed or its answer was lost: connection gone, timeout, refused by the server."""


@dataclass(frozen=True)
class ControlState:
    """The part of a control file that a switchover reads.

    Attributes:
        state: as pg_controldata prints it.
        checkpoint: START of the latest checkpoint record.
    """

    state: str
    checkpoint: Lsn
    timeline: int


@dataclass(frozen=True)
class LocalStatus:
    """The old primary as its host sees it.

    Attributes:
        running: there is a postmaster, whether or not it takes sessions.
        in_recovery: of a server that answers; None of one that does not.
        timeline: of a server that answers the one it writes or replays, else the control file's.
        standby_signal: whether the next start makes it a standby.
        stopping: its postmaster was asked to shut down, which cannot be taken back. One that runs, does not answer and
            was not asked is starting (crash recovery can take long), or too busy to answer.
    """

    running: bool
    in_recovery: bool | None
    timeline: int
    control: ControlState
    standby_signal: bool
    stopping: bool = False

    @property
    def is_primary(self) -> bool:
        """Takes writes."""
        return self.running and self.in_recovery is False

    @property
    def silent(self) -> bool:
        """Runs, and does not answer."""
        return self.running and self.in_recovery is None


@dataclass(frozen=True)
class Position:
    """A member as its SQL session sees it.

    Attributes:
        timeline: the one a primary writes, or a standby's last received one.
        receive, replay: a standby's; a primary has its write position in both.
        streaming: its walreceiver is streaming.
    """

    in_recovery: bool
    timeline: int
    receive: Lsn
    replay: Lsn
    streaming: bool = False


@dataclass(frozen=True)
class Writer:
    """A client session of the primary that has a transaction with writes open."""

    pid: int
    user: str
    application: str
    seconds: float


class Clock(Protocol):
    """Time and threads."""

    def monotonic(self) -> float:
        """Seconds."""

    def sleep(self, seconds: float) -> None:
        """Wait."""

    def gather(self, calls: Sequence[Callable[[], Any]], timeout: float) -> list[Any]:
        """Run all calls at once; per call its result, or the exception it raised (PortError after the timeout)."""


class LocalServer(Protocol):
    """The old primary, on this host."""

    def status(self) -> LocalStatus:
        """Whether it runs, and as what."""

    def control(self) -> ControlState:
        """What pg_controldata says."""

    def checkpoint(self) -> None:
        """CHECKPOINT."""

    def fill_segment(self, leave: int) -> Lsn:
        """Use the present segment of write-ahead log up, all but so many bytes; where it ends then."""

    def writers(self) -> Sequence[Writer]:
        """Sessions that have a transaction with writes open."""

    def terminate(self, pids: Sequence[int]) -> None:
        """pg_terminate_backend for each."""

    def configure(self, settings: Mapping[str, str | None]) -> None:
        """ALTER SYSTEM SET (None: RESET) and reload. Nothing where a value is set so already."""

    def write_standby_signal(self) -> None:
        """Create standby.signal, synced."""

    def remove_standby_signal(self) -> None:
        """Remove standby.signal."""

    def stop(self, mode: str) -> None:
        """Ask the postmaster to shut down, "fast" or "immediate"; does not wait."""

    def cut_off(self, names: Collection[str]) -> None:
        """Of a server that was just asked to stop: end the walsenders of these application names."""

    def terminate_senders(self, keep: str) -> int:
        """End the walsenders of all but one application name; the number of them."""

    def checkpoint_end(self, control: ControlState) -> Lsn:
        """End of the shutdown checkpoint record in the write-ahead log on disk."""

    def start(self, timeout: float) -> None:
        """Start the server and wait until it takes sessions (as whatever it comes up)."""

    def promote(self, timeout: float) -> None:
        """Only for a rollback: make the standby that it came up as the primary again."""

    def position(self) -> Position:
        """Where it stands in the write-ahead log."""

    def drop_slots(self, names: Sequence[str]) -> Sequence[str]:
        """Drop those of the physical slots that exist and are not in use; their names."""


class RemoteServer(Protocol):
    """The candidate or a sibling, over SQL."""

    def position(self) -> Position:
        """Where it stands in the write-ahead log."""

    def in_recovery(self) -> bool:
        """As in `position`, but so cheap that polling it does not slow a promotion down."""

    def setting(self, name: str) -> str:
        """The value in force, in PostgreSQL's printed form with unit."""

    def override(self, name: str) -> str | None:
        """What ALTER SYSTEM has set; None where it has not."""

    def configure(self, settings: Mapping[str, str | None]) -> None:
        """ALTER SYSTEM SET (None: RESET) and reload. Nothing where a value is set so already."""

    def follow(self, place: Any) -> None:
        """Point it at another primary (ALTER SYSTEM primary_conninfo, reload); nothing where it is so already."""

    def slots(self) -> Sequence[str]:
        """Names of its physical slots."""

    def create_slot(self, name: str) -> None:
        """Make a physical slot that keeps write-ahead log from now on; nothing where it exists."""

    def drop_slot(self, name: str) -> None:
        """Drop a physical slot; nothing where it does not exist or is in use."""

    def checkpoint(self) -> None:
        """CHECKPOINT."""

    def promote(self) -> None:
        """Ask for promotion; does not wait."""

    def switchpoint(self, timeline: int) -> Lsn:
        """Where `timeline` began, from its history file."""

    def write(self) -> None:
        """Commit a real write that waits for nobody but this server's own disk."""

    def standbys(self) -> Sequence[str]:
        """Application names that stream from it."""


class Pooler(Protocol):
    """One PgBouncer process and its databases that follow the primary, over the admin console."""

    def pause(self, timeout: float) -> None:
        """PAUSE all of them once no server connection is in login, or none."""

    def resume(self) -> None:
        """RESUME those that are paused, and see that none is."""

    def retarget(self, host: str, port: int) -> None:
        """RELOAD, and see that all of them point there."""

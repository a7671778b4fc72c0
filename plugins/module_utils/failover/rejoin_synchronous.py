# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes back what a failover lowered: synchronous_standby_names, once enough standbys stream again."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from ansible_collections.dbops.fleet.plugins.module_utils.failover.synchronous import SyncRule
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_ports import PortError

SETTING = "synchronous_standby_names"
RELOAD_SECONDS = 3.0


class Server(Protocol):
    """What is needed of a member (see `unplanned_remote.RemoteReplica`)."""

    def setting(self, name: str) -> str:
        """The value in force."""

    def configure(self, settings: dict[str, str | None]) -> None:
        """ALTER SYSTEM SET (None: RESET) and reload."""

    def standbys(self) -> Sequence[str]:
        """Names of the standbys that stream from it."""


def is_whole(before: str, primary: str, streaming: Collection[str]) -> bool:
    """Whether commits would not hang under the rule from before the failover.

    Args:
        before: value of synchronous_standby_names.
        primary: the present one; its own name counts for nothing.
        streaming: application names of the standbys that stream from it.
    """
    return SyncRule.parse(before).without(primary).can_be_met(streaming)


def restore(
    primary: Server, others: Mapping[str, Server], *, name: str, lowered: str, before: str, check_mode: bool = False
) -> dict[str, object] | None:
    """Put the rule back where it still is the lowered one and the cluster is whole; None where nothing is to be done.

    The primary comes first. A replica that does not answer keeps the lower rule until it rejoins: it only matters when
    it becomes the primary, and then asks for less than was promised, never for more than can be given.

    Args:
        primary, others: members, the others by name.
        name: of the primary.
        lowered, before: what the failover's journal has.

    Returns:
        `from`, `to`, and `not_told`: replicas that keep the lowered rule, each with the reason.
    """
    if primary.setting(SETTING) != lowered or lowered == before or not is_whole(before, name, primary.standbys()):
        return None
    not_told: dict[str, str] = {}
    if not check_mode:
        _put_back(primary, lowered, before)
        for other, server in others.items():
            try:
                if server.setting(SETTING) == lowered:
                    _put_back(server, lowered, before)
            except PortError as error:
                not_told[other] = str(error)
    return {"from": lowered, "to": before, "not_told": not_told}


def _put_back(server: Server, lowered: str, before: str) -> None:
    """What the configuration files say is what was in force before; else it had been stored by ALTER SYSTEM itself."""
    server.configure({SETTING: None})
    deadline = time.monotonic() + RELOAD_SECONDS
    while server.setting(SETTING) == lowered and time.monotonic() < deadline:
        time.sleep(0.01)
    if server.setting(SETTING) != before:
        server.configure({SETTING: before})

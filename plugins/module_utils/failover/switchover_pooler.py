# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One PgBouncer process and its databases, as a port of the switchover: see `switchover_ports.Pooler`."""

from __future__ import annotations

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_ports import PortError
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_request import PoolerPlace
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.console import Endpoint
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.operations import Errors, Poolers

# For all logins at a process. Where processes share a port, each takes as many tries as there are processes; that is
# before the pause. In the pause clients wait.
_SECONDS, _SHARED_PORT_SECONDS = 2.0, 8.0


class PoolerProcess:
    """The logins are opened once and, where one is lost, again by the next call."""

    def __init__(self, place: PoolerPlace, endpoint: Endpoint) -> None:
        self.place = place
        self.endpoint = endpoint
        self._poolers: Poolers | None = None

    def open(self) -> Poolers:
        """Log in, unless that was done."""
        return self._open(_SHARED_PORT_SECONDS if self.endpoint.process else _SECONDS)

    def _open(self, seconds: float) -> Poolers:
        if self._poolers is None:
            try:
                self._poolers = Poolers.open([self.endpoint], self.place.databases, timeout_seconds=seconds)
            except FleetError as error:
                raise PortError(str(error)) from error
        return self._poolers

    def _again(self) -> Poolers:
        if self._poolers is not None:
            self._poolers.close()
            self._poolers = None
        return self._open(_SECONDS)

    def pause(self, timeout: float) -> None:
        """All databases or none."""
        try:
            self.open().pause(timeout)
        except FleetError as error:
            # The login that waited in PAUSE is gone; the undo needs new ones.
            self._poolers = None
            raise PortError(str(error)) from error

    def resume(self) -> None:
        """Verified; a lost login is opened again once."""
        if _first(self.open().resume(timeout_seconds=2.0)):
            self._check(self._again().resume(timeout_seconds=2.0))

    def retarget(self, host: str, port: int) -> None:
        """RELOAD, and see where the databases point."""
        if _first(self.open().reload(timeout_seconds=2.0)):
            self._check(self._again().reload(timeout_seconds=2.0))
        for database in self.place.databases:
            self._check(self.open().wait_target(database, host, port, timeout_seconds=1.0))

    def _check(self, errors: Errors) -> None:
        problem = _first(errors)
        if problem:
            raise PortError(problem)


def _first(errors: Errors) -> str | None:
    return next((error for error in errors.values() if error), None)

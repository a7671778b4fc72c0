# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs an operation in a process that is killed (SIGKILL) at a chosen moment.

killed_at_entry("begin", "promote", lambda: unplanned_worker.work(request, directory))
killed_around("before", rejoin_module, "_prove", lambda: rejoin(order, False))
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.failover.journal import Entry, Journal


def killed_at_entry(event: str, step: str, operate: Callable[[], object]) -> None:
    """It dies as soon as its journal has a line with this event and step."""

    def arrange() -> None:
        original = Journal.append

        def append(self: Journal, said: str, at: str | None = None, **data: Any) -> Entry:
            entry = original(self, said, at, **data)
            if (said, at) == (event, step):
                os.kill(os.getpid(), signal.SIGKILL)
            return entry

        Journal.append = append  # type: ignore[method-assign, assignment]

    _killed(arrange, operate)


def killed_around(when: str, module: ModuleType, name: str, operate: Callable[[], object]) -> None:
    """It dies just "before" or just "after" the first call of a function of a module."""

    def arrange() -> None:
        original = getattr(module, name)

        def call(*arguments: Any, **named: Any) -> Any:
            if when == "after":
                original(*arguments, **named)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(module, name, call)

    _killed(arrange, operate)


def _killed(arrange: Callable[[], None], operate: Callable[[], object]) -> None:
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            arrange()
            print("ended:", operate(), flush=True)
        finally:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"it was not killed: it never came to that point (status {status})"

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller's side of pg_basebackup_restore: waits in short calls and prints a line of progress after each.

A clone may take hours, and Ansible shows nothing while a module runs. So the module is called with a short `wait` again
and again, which also keeps no SSH session open for hours; the work itself goes on in a process on the host.
"""

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

LINE_EVERY_SECONDS = 10.0

display = Display()


class ActionModule(ActionBase):  # type: ignore[misc,unused-ignore]
    """Runs the module until the clone has ended, or as long as the task's own `wait` says."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The result of the first call, with the figures of the last."""
        super().run(tmp, task_vars)
        wanted = self._task.args.get("wait")
        deadline = None if wanted is None else time.monotonic() + float(wanted)
        first = result = self._call(task_vars, deadline, {})
        while not (
            result.get("finished") or result.get("failed") or result.get("unreachable") or self._in_check_mode()
        ):
            if "operation_id" not in result or (deadline is not None and time.monotonic() >= deadline):
                break
            display.display(f"{self._host(task_vars)}: {result['msg']}")
            result = self._call(task_vars, deadline, {"follow": result["operation_id"]})
        return {**first, **result}

    def _call(self, task_vars: dict[str, Any] | None, deadline: float | None, more: dict[str, Any]) -> dict[str, Any]:
        left = LINE_EVERY_SECONDS if deadline is None else max(0.0, deadline - time.monotonic())
        arguments = {**self._task.args, **more, "wait": min(left, LINE_EVERY_SECONDS)}
        result: dict[str, Any] = self._execute_module(
            module_name="dbops.fleet.pg_basebackup_restore", module_args=arguments, task_vars=task_vars
        )
        return result

    def _in_check_mode(self) -> bool:
        return bool(self._task.check_mode)

    def _host(self, task_vars: dict[str, Any] | None) -> str:
        return str((task_vars or {}).get("inventory_hostname", "clone"))

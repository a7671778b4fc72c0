# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place where module_utils meets Ansible: parameters in, an Outcome or an error out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome

Operation = Callable[[dict[str, Any], bool], Outcome]


def run(module: AnsibleModule, operation: Operation) -> NoReturn:
    """Run an operation for a module and leave the process with its result.

    Args:
        module: the module; its parameters and check mode are handed to the operation.
        operation: called as ``operation(params, check_mode)``.
    """
    try:
        outcome = operation(module.params, module.check_mode)
    except FleetError as error:
        module.fail_json(**error.to_dict())
    for warning in outcome.warnings:
        module.warn(warning)
    result: dict[str, Any] = {"changed": outcome.changed, **outcome.result}
    if outcome.diff is not None:
        result["diff"] = outcome.diff
    elif outcome.before is not None or outcome.after is not None:
        result["diff"] = {"before": outcome.before or "", "after": outcome.after or ""}
    module.exit_json(**result)

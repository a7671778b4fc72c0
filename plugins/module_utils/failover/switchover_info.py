# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a switchover begins with on each host: what the journals of earlier ones say, and the instance as it is.

The door of `dbops.fleet.replica_promote_info`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.failover import journal as journals
from ansible_collections.dbops.fleet.plugins.module_utils.failover.lock import LockFile
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_record import record_of
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome
from ansible_collections.dbops.fleet.plugins.module_utils.topology.host import instance_info


def replica_promote_info(params: Mapping[str, Any], check_mode: bool) -> Outcome:
    """The operation that a rerun would go on with, the records of the last ones, and the instance. Reads only."""
    directory = Path(params["state_directory"]) / "switchover" / params["cluster"]
    pending = journals.unfinished(directory)
    found = instance_info(
        {**params, "name": params["instance"], "data_directory": None, "packages": [], "roles": []}, check_mode
    )
    paths = journals.journals(directory)[-params["count"] :] if params["count"] else []
    return Outcome(
        False,
        {
            "pending": record_of(journals.read(pending), str(pending)) if pending else None,
            "at_work": LockFile(Path(params["lock_directory"]), params["cluster"]).owner(),
            "instance": found.result["instance"],
            "records": [record_of(journals.read(path), str(path)) for path in paths],
        },
    )

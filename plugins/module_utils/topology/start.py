# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts an instance, and reads it when it is up: the work of `instance_start`."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.files.apply import manage
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.instance import Instance
from ansible_collections.dbops.fleet.plugins.module_utils.topology.host import owner_file, read_instance
from ansible_collections.dbops.fleet.plugins.module_utils.topology.instance_facts import InstanceFacts

# The end of pg_ctl's own patience, which pg_ctl.conf sets, comes first.
_START_SECONDS = 3600.0
# A walreceiver that found its upstream away tries again after wal_retrieve_retry_interval, 5 s.
_STREAMING_SECONDS, _POLL_SECONDS = 60.0, 0.25
_LOG_LINES, _LOG_BYTES = 15, 64 * 1024


def instance_start(params: Mapping[str, Any], check_mode: bool, *, root: Path = Path("/")) -> Outcome:
    """Parameters and results as documented in the module.

    Args:
        root: of the file system, for tests.

    Raises:
        OperationFailed: it did not start, or does not stream; with the end of its log.
    """

    def instance_now() -> Instance:
        return Instance.debian(params["version"], params["name"], root=root)

    def facts_now() -> InstanceFacts:
        return read_instance(instance, socket.gethostname(), root)

    instance = instance_now()
    changed = not instance.running
    if changed and check_mode:
        return Outcome(changed=True)
    if changed:
        _start(instance)
        # A server that runs tells its socket, which the configuration may have elsewhere.
        instance = instance_now()
    facts = facts_now()
    if _complete_mark(facts, root, check_mode):
        changed, facts = True, facts_now()
    if params["streaming"]:
        facts = _await_streaming(instance, facts_now)
    return Outcome(changed=changed, result={"instance": facts.to_dict()})


def _complete_mark(facts: InstanceFacts, root: Path, check_mode: bool) -> bool:
    """Write the system identifier into a mark that was made before the data were; False where nothing is missing."""
    identifier = facts.member.system_identifier
    if facts.owner is None or facts.owner.system_identifier or not identifier:
        return False
    path = owner_file(facts.version, facts.name, root)
    mark = json.loads(path.read_text()) | {"system_identifier": identifier}
    # As the template of the role writes it, which then finds nothing to change.
    content = json.dumps(mark, indent=4, sort_keys=True) + "\n"
    wanted = {"path": str(path), "content": content, "owner": path.owner(), "group": path.group(), "mode": "0644"}
    return manage({"files": [wanted]}, check_mode).changed


def _await_streaming(instance: Instance, facts_now: Callable[[], InstanceFacts]) -> InstanceFacts:
    deadline = time.monotonic() + _STREAMING_SECONDS
    while True:
        facts = facts_now()
        if facts.member.receiver is not None and facts.member.receiver.status == "streaming":
            return facts
        if time.monotonic() > deadline:
            raise OperationFailed(
                f"PostgreSQL {instance.version} runs, but does not stream after {_STREAMING_SECONDS:.0f} s",
                host=socket.gethostname(),
                remedy="See whether the upstream runs, lets fleet_replication in and can be reached, and run again:"
                f" {_end_of_log(instance)}",
            )
        time.sleep(_POLL_SECONDS)


def _start(instance: Instance) -> None:
    # pg_createcluster leaves its files to the kernel: a power cut within half a minute empties start.conf, and the next
    # boot starts nothing.
    for path in sorted(instance.config_directory.iterdir()) if instance.config_directory else []:
        if path.is_file():
            _sync(path)
    try:
        instance.reload_units()
        instance.start(timeout=_START_SECONDS)
    except OperationFailed as error:
        raise OperationFailed(
            f"PostgreSQL {instance.version} did not start. Its data is untouched. {error.message}",
            host=socket.gethostname(),
            remedy=f"Mend what journalctl -u {instance.unit} or the end of {instance.log_file} names, often a setting"
            f" in postgres_server_settings, and run again: {_end_of_log(instance)}",
        ) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _end_of_log(instance: Instance) -> str:
    try:
        with instance.log_file.open("rb") as log:
            log.seek(max(0, instance.log_file.stat().st_size - _LOG_BYTES))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-_LOG_LINES:])
    except OSError:
        return "(no log)"

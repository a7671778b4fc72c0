# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The instance that a cluster wants on a host: what state it is in, and whose data those are. Decided from what was
found; `host.py` finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.control import ControlData
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts

INSTANCE_STATES = (
    "absent",  # no data directory
    "empty",  # an empty one
    "interrupted_clone",  # what a clone of ours that has not come to its end left there
    "stopped",  # shut down cleanly
    "crashed",  # no server, and no clean end
    "starting",  # a server that takes no sessions yet or any more
    "running",
    "foreign",  # data that no fleet of ours put there
)

# File systems take the time of the kernel's last tick, which is up to this old. One reload too many does no harm.
_TICK_SECONDS = 0.01


@dataclass(frozen=True)
class Peer(Record):
    """Another member of the cluster, as the start guard knows it."""

    name: str
    address: str
    port: int


@dataclass(frozen=True)
class Owner(Record):
    """The mark that the roles leave in /var/lib/dbops-fleet/instance-<version>-<name>.json: these data are ours.

    Attributes:
        system_identifier: None or empty when the mark was made before the data were.
        peers: the other members, whom the host asks before PostgreSQL starts as a primary there.
    """

    cluster: str
    system_identifier: str | None = None
    peers: tuple[Peer, ...] = ()


@dataclass(frozen=True)
class OtherInstance(Record):
    """An instance on the same host: Debian's, or a data directory that is in Debian's place without configuration.

    Attributes:
        empty: there is nothing in its data directory, or no such directory.
        owner: our mark, if there is one.
    """

    version: int
    name: str
    data_directory: str
    port: int | None = None
    configured: bool = False
    running: bool = False
    empty: bool = False
    owner: Owner | None = None


@dataclass(frozen=True)
class InstanceFacts(Record):
    """The wanted instance of one host, as `dbops.fleet.instance_info` returns it.

    Attributes:
        state: one of INSTANCE_STATES.
        reason: for the states foreign, crashed and interrupted_clone: what was found.
        port: that it runs with or, stopped, that its configuration has; its member's port is the one that the inventory
            wants, once cluster_info has named it.
        configured: Debian's configuration of it is there.
        owner: our mark, if there is one.
        clone: the marker of the last clone into this place (phase, directory, system_identifier, ...).
        data_directory_owner: OS user.
        disk_total_mb, disk_free_mb: of the file system that holds or will hold the data directory.
        member: its facts; its state is the physical one, also for foreign data.
        others: further instances of the host.
        reload_pending: files of its configuration that it has not read as they are; None where no session told.
        roles_present: those that were asked for and exist, in the order asked; None where no session told.
    """

    version: int
    name: str
    state: str
    data_directory: str
    member: MemberFacts
    reason: str | None = None
    port: int | None = None
    configured: bool = False
    unit: str | None = None
    owner: Owner | None = None
    clone: Mapping[str, Any] | None = None
    data_directory_owner: str | None = None
    disk_total_mb: int | None = None
    disk_free_mb: int | None = None
    others: tuple[OtherInstance, ...] = field(default=())
    reload_pending: tuple[str, ...] | None = None
    roles_present: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.state not in INSTANCE_STATES:
            raise ValueError(f"state {self.state!r} is not one of {', '.join(INSTANCE_STATES)}")


@dataclass(frozen=True)
class Found:
    """What is in the place of an instance.

    Attributes:
        data_version: PG_VERSION, None where there is none.
        control: None where there is none, or it cannot be read; then control_error says why.
        member_state: of MemberFacts, for a running server.
    """

    data_directory: str
    exists: bool
    empty: bool
    running: bool
    configured: bool
    data_version: str | None = None
    control: ControlData | None = None
    control_error: str | None = None
    owner: Owner | None = None
    clone: Mapping[str, Any] | None = None
    member_state: str = "unreachable"


def classify(found: Found, version: int) -> tuple[str, str | None]:
    """The instance's state and, where it is not obvious, the reason.

    Data are ours if our mark is there and names the same system identifier. Nothing else makes them ours here; the plan
    for the whole cluster may also recognise them by the system identifier of the other members.
    """
    if _is_interrupted_clone(found):
        phase = (found.clone or {}).get("phase")
        return "interrupted_clone", f"a clone into {found.data_directory} stands at {phase!r} and was not taken over"
    if found.empty:
        return ("empty" if found.exists else "absent"), None
    strange = _not_ours(found, version)
    if strange:
        return "foreign", strange
    if found.running:
        return ("starting" if found.member_state == "starting" else "running"), None
    if found.control is None:
        return "crashed", found.control_error or f"there is no control file in {found.data_directory}"
    if found.control.shut_down_cleanly:
        return "stopped", None
    return "crashed", f"no server runs, and its control file says {found.control.state!r}"


def reload_pending(loaded: float, changed: Mapping[str, float]) -> tuple[str, ...]:
    """Which files a server has not read as they are now: those that changed after it had loaded its configuration.

    Args:
        loaded: when it did so, in seconds since 1970, as pg_conf_load_time() says.
        changed: path to the time of the file's last change.
    """
    return tuple(path for path, when in changed.items() if when > loaded - _TICK_SECONDS)


def _is_interrupted_clone(found: Found) -> bool:
    """A clone counts until Debian's configuration stands beside it: only then was it taken over."""
    if found.clone is None or found.running or found.configured:
        return False
    if found.empty:
        return found.clone.get("phase") not in ("finished", None)
    in_place = found.clone.get("directory") == found.data_directory
    same = found.control is not None and found.clone.get("system_identifier") == found.control.system_identifier
    return in_place or same


def _not_ours(found: Found, version: int) -> str | None:
    where = found.data_directory
    if found.data_version is None:
        return f"{where} is not empty, and what it holds are no PostgreSQL data"
    if found.data_version != str(version):
        return f"{where} holds data of PostgreSQL {found.data_version}, not {version}"
    if found.owner is None:
        return f"{where} holds a database cluster that this fleet did not make"
    marked, real = found.owner.system_identifier, found.control.system_identifier if found.control else None
    if marked and real and marked != real:
        return f"{where} holds the database cluster with system identifier {real}, where this fleet had made {marked}"
    return None

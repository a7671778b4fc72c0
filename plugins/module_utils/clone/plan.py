# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What to do about a clone: facts in, a plan or a refusal out. Nothing here touches a disk or a server.

A clone is written to `<data_directory>.dbops-clone` and renamed into place when it is complete, so that the data
directory is either absent or whole. Only where the data directory is a mount point, whose neighbour would lie on
another filesystem, is it written in place. A marker beside it, written before the first byte, proves that remains are
ours.

An unfinished copy is removed and made anew: PostgreSQL 15 offers no safe way to go on with half a base backup, and
files of two backups must never mix. Only what comes after a complete copy (verification, settings, the rename) is
carried on, and only with a slot that has kept the WAL since.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible_collections.dbops.fleet.plugins.module_utils.clone.facts import (
    CloneRequest,
    DirectoryState,
    Marker,
    Place,
    SlotState,
    SourceFacts,
    Target,
)
from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused

NOTHING = "nothing"  # the data directory is a member of this cluster already
JOIN = "join"  # a worker is at it right now
FINISH = "finish"  # the copy is complete: verify, configure, rename
CLONE = "clone"
IDENTIFY = "identify"  # a data directory is there: whose it is only the source can tell

# pg_basebackup takes one WAL sender for the files and one for the WAL.
WAL_SENDERS_NEEDED = 2
# Growth while copying, and what is not counted as relations (pg_xact, logs of extensions, ...).
SPACE_MARGIN = 1.05
WAL_SEGMENTS_MARGIN = 3
_RATE = re.compile(r"\d+[kM]?")


@dataclass(frozen=True)
class Plan:
    """What will be done.

    Attributes:
        action: NOTHING, JOIN, FINISH, CLONE or IDENTIFY.
        directory: where the copy is written.
        in_place: it is the data directory itself.
        remains: of an earlier clone of ours, to be removed first (the contents of `directory` and of tablespaces).
        create_slot: on the source, before the copy; renew_slot: drop our own earlier one before.
        tablespaces: every tablespace's directory on the source to its directory here.
    """

    action: str
    directory: str
    in_place: bool = False
    remains: bool = False
    create_slot: bool = False
    renew_slot: bool = False
    tablespaces: Mapping[str, str] = field(default_factory=dict)
    bytes_total: int = 0
    system_identifier: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        return self.action != NOTHING


def decide(request: CloneRequest, target: Target, system_identifier: str | None = None) -> Plan:
    """What the directories alone tell: the action, where, and whether remains are in the way.

    Args:
        system_identifier: of the cluster to clone, where it is known; a data directory that is there already cannot
            be judged without it, and the answer is then IDENTIFY.

    Raises:
        Refused: going on would overwrite or doubt something that is not provably ours.
    """
    _check_request(request)
    if target.marker is not None and target.worker_alive:
        return _join(request, target.marker)
    _check_host(request, target)
    known = system_identifier or request.expected_system_identifier
    marker = unfinished(target)
    in_place = target.mount_point
    if in_place and request.replace:
        raise Refused(
            f"{request.data_directory} is a mount point and cannot be renamed to keep what is in it",
            remedy="Move its contents away by hand, then clone into the empty directory.",
        )
    if target.data.entries and not request.replace:
        if not (in_place and marker is not None and _ours(target.data, marker, request.data_directory)):
            return _occupied(request, target.data, known)
        return _redo(request, target.data, marker, in_place=True)
    if target.data.running:
        raise Refused(
            f"A server runs on {request.data_directory}", remedy="Stop it first; it is kept beside the new one."
        )
    if target.copy.exists:
        if marker is None or not _ours(target.copy, marker, request.copy_directory):
            raise Refused(
                f"{request.copy_directory} exists and is no clone that this tool left unfinished",
                remedy="See what it is. Remove or rename it if nobody needs it, then run again.",
            )
        return _redo(request, target.copy, marker, in_place=False)
    directory = request.data_directory if in_place else request.copy_directory
    return Plan(CLONE, directory, in_place, remains=marker is not None and bool(marker.tablespace_directories))


def complete(
    request: CloneRequest, decision: Plan, target: Target, source: SourceFacts, places: Mapping[str, Place]
) -> Plan:
    """Check the source, the slot, the tablespaces and the space, and complete the plan of a CLONE.

    Args:
        places: for the plan's directory and every directory that `tablespace_directories` names.

    Raises:
        Refused: with the remedy; nothing has been changed.
    """
    _check_source(request, source)
    marker = unfinished(target)
    ours = marker is not None and marker.slot_created and marker.request.slot == request.slot
    _check_slot(request, source, ours)
    tablespaces = tablespace_directories(request, source)
    _check_tablespaces(request, tablespaces, places)
    needed = bytes_needed(decision.directory, tablespaces, source)
    _check_space(needed, places)
    return Plan(
        action=CLONE,
        directory=decision.directory,
        in_place=decision.in_place,
        remains=decision.remains,
        create_slot=request.slot is not None and (source.slot is None or ours),
        renew_slot=ours and source.slot is not None,
        tablespaces=tablespaces,
        bytes_total=source.size_bytes + sum(each.size_bytes for each in source.tablespaces),
        system_identifier=source.system_identifier,
        warnings=_warnings(request, decision, source, places),
    )


def unfinished(target: Target) -> Marker | None:
    """The marker of an earlier clone that did not come to its end; a finished one gives no rights over anything."""
    return target.marker if target.marker is not None and target.marker.unfinished else None


def tablespace_directories(request: CloneRequest, source: SourceFacts) -> dict[str, str]:
    """Every tablespace's directory on the source to its directory here.

    Raises:
        Refused: a mapping is for a directory that no tablespace of the source has.
    """
    locations = [each.location for each in source.tablespaces]
    for mapped in request.tablespaces:
        if mapped not in locations:
            offered = ", ".join(locations) or "none"
            raise Refused(
                f"{request.source.host} has no tablespace in {mapped}", remedy=f"Its tablespaces lie in: {offered}."
            )
    return {location: request.tablespaces.get(location, location) for location in locations}


def bytes_needed(directory: str, tablespaces: Mapping[str, str], source: SourceFacts) -> dict[str, int]:
    """Bytes that each directory must have room for."""
    wal = WAL_SEGMENTS_MARGIN * source.wal_segment_size
    needed = {directory: int(source.size_bytes * SPACE_MARGIN) + wal}
    for each in source.tablespaces:
        needed[tablespaces[each.location]] = int(each.size_bytes * SPACE_MARGIN)
    return needed


def describe(request: CloneRequest, plan: Plan) -> list[str]:
    """The plan as the sentences that check mode shows."""
    if plan.action == NOTHING:
        return [f"{request.data_directory} is a data directory of this cluster already: nothing to do."]
    if plan.action == JOIN:
        return [f"A clone into {request.data_directory} is running: wait for it."]
    steps = []
    if plan.action == CLONE:
        if plan.remains:
            steps.append("Remove what an earlier, unfinished clone has left.")
        if plan.create_slot:
            steps.append(f"Create the replication slot {request.slot} on {request.source.host}.")
        steps.append(f"Copy {megabytes(plan.bytes_total)} from {request.source.host} to {plan.directory}.")
    if request.verify:
        steps.append("Verify every file against the backup manifest.")
    steps.append(f"Write standby.signal and the settings to stream from {request.source.host} as {request.member}.")
    if request.replace:
        steps.append(f"Keep the old data directory as {request.data_directory}.old-<timestamp>.")
    if not plan.in_place:
        steps.append(f"Rename {plan.directory} to {request.data_directory}.")
    return steps


def megabytes(size: int) -> str:
    """Bytes for people: "512 MB", "1.4 GB" (decimal, as disks are sold)."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _check_request(request: CloneRequest) -> None:
    if request.max_rate is not None and not _RATE.fullmatch(request.max_rate):
        raise Refused(
            f"{request.max_rate} is no transfer rate",
            remedy="Write kilobytes per second, or with a suffix: 800k, 100M.",
        )
    for path in (request.data_directory, *request.tablespaces.values()):
        if not path.startswith("/") or os.path.normpath(path) in {"/", "//"}:
            raise Refused(f"{path} is no absolute path of a directory of its own", remedy="Begin it with /.")


def _join(request: CloneRequest, marker: Marker) -> Plan:
    running, asked = marker.request, request
    if (running.source.host, running.source.port, running.slot) != (asked.source.host, asked.source.port, asked.slot):
        raise Refused(
            f"A clone of {running.source.host}:{running.source.port} with slot {running.slot or 'none'} into "
            f"{request.data_directory} is running",
            remedy=f"Wait for it, or end its process {marker.worker.pid} and run again.",
        )
    return Plan(JOIN, marker.directory, marker.directory == request.data_directory)


def _check_host(request: CloneRequest, target: Target) -> None:
    if target.marker_problem is not None:
        raise Refused(
            f"{request.marker_path} cannot be trusted: {target.marker_problem}",
            remedy=f"See what is in {request.data_directory} and {request.copy_directory}; then remove that file.",
        )
    if target.missing_program is not None:
        raise Refused(
            f"{target.missing_program} is missing", remedy=f"Install the package postgresql-{request.version}."
        )
    if not target.owner_known:
        raise Refused(
            f"There is no user {request.owner} or no group {request.group}",
            remedy=f"Install the package postgresql-{request.version}, or name another owner.",
        )
    if not (target.parent_exists or target.grandparent_exists):
        parent = os.path.dirname(request.data_directory)
        raise Refused(
            f"The directory {parent} for the data directory does not exist", remedy="Mount its volume or create it."
        )


def _ours(state: DirectoryState, marker: Marker, directory: str) -> bool:
    """Whether a directory is what the marker's unfinished clone has left: a server on it would have made it its own."""
    return marker.directory == directory and not state.used and not state.running


def _occupied(request: CloneRequest, state: DirectoryState, known: str | None) -> Plan:
    directory = request.data_directory
    if state.version is None:
        names = ", ".join(state.entries)
        hint = " A mount point's lost+found counts too: use a directory below it." if "lost+found" in names else ""
        raise Refused(
            f"{directory} is not empty ({names}) and no data directory that this tool knows",
            remedy=f"See what it is; clone into another directory, or move it away if nobody needs it.{hint}",
        )
    if state.version != str(request.version):
        raise Refused(
            f"{directory} is a data directory of PostgreSQL {state.version}, not {request.version}",
            remedy="Name the right version or another data directory.",
        )
    if state.system_identifier is None:
        raise Refused(
            f"{directory} holds a data directory whose control file cannot be read",
            remedy="Restore it, or move it away if nobody needs it; it is not overwritten.",
        )
    if known is None:
        return Plan(IDENTIFY, directory)
    if known != state.system_identifier:
        raise Refused(
            f"{directory} belongs to another cluster: its system identifier is {state.system_identifier}, "
            f"that of {request.source.host} is {known}",
            remedy="Check the inventory. If nobody needs these data, move the directory away and run again.",
            system_identifier=state.system_identifier,
        )
    return Plan(NOTHING, directory, system_identifier=known)


def _redo(request: CloneRequest, state: DirectoryState, marker: Marker, *, in_place: bool) -> Plan:
    directory = marker.directory
    same_way = marker.request.source == request.source and marker.request.slot == request.slot
    expected = request.expected_system_identifier or marker.system_identifier
    if marker.copied and same_way and request.slot is not None and state.system_identifier == expected:
        return Plan(FINISH, directory, in_place, system_identifier=expected, bytes_total=marker.bytes_total)
    return Plan(CLONE, directory, in_place, remains=True)


def _check_source(request: CloneRequest, source: SourceFacts) -> None:
    host = request.source.host
    expected = request.expected_system_identifier
    if expected is not None and expected != source.system_identifier:
        raise Refused(
            f"{host} is no member of this cluster: its system identifier is {source.system_identifier}, not {expected}",
            remedy="Check the address of the source.",
        )
    if source.version_num // 10000 != request.version:
        raise Refused(
            f"{host} runs PostgreSQL {source.version_num // 10000}, and a replica of {request.version} is wanted",
            remedy="A replica must have the major version of its source.",
        )
    if source.wal_level == "minimal":
        raise Refused(f"{host} runs with wal_level minimal", remedy="Set wal_level to replica there and restart it.")
    free = source.max_wal_senders - source.used_wal_senders
    if free < WAL_SENDERS_NEEDED:
        raise Refused(
            f"{host} has {free} of {source.max_wal_senders} WAL senders left, and a clone needs {WAL_SENDERS_NEEDED}",
            remedy="Raise max_wal_senders there (needs a restart), or wait for other backups and clones to end.",
        )


def _check_slot(request: CloneRequest, source: SourceFacts, ours: bool) -> None:
    host, slot = request.source.host, source.slot
    if request.slot is None:
        return
    if slot is None:
        if source.used_replication_slots >= source.max_replication_slots:
            raise Refused(
                f"{host} has no replication slot left for {request.slot}: all {source.max_replication_slots} are taken",
                remedy="Drop an unused slot there, or raise max_replication_slots (needs a restart).",
            )
        return
    problem = _slot_problem(slot, ours)
    if problem is not None:
        raise Refused(f"The replication slot {request.slot} on {host} {problem[0]}", remedy=problem[1])


def _slot_problem(slot: SlotState, ours: bool) -> tuple[str, str] | None:
    if slot.slot_type != "physical":
        return "is a logical one", "Name another slot."
    # Our own is dropped and made anew; who still holds it is the killed clone.
    if slot.active and not ours:
        return (
            f"is in use by {slot.user or 'another replica'}",
            "Every replica needs a slot of its own: name another, or stop the replica that uses this one.",
        )
    if slot.wal_status == "lost" and not ours:
        return (
            "has lost WAL that it should have kept",
            "Drop it there with pg_drop_replication_slot; the clone makes it anew.",
        )
    return None


def _check_tablespaces(request: CloneRequest, tablespaces: Mapping[str, str], places: Mapping[str, Place]) -> None:
    if len(set(tablespaces.values())) < len(tablespaces):
        raise Refused("Two tablespaces are mapped to the same directory", remedy="Give each a directory of its own.")
    for location, directory in tablespaces.items():
        for inside in (request.data_directory, request.copy_directory):
            if (directory + "/").startswith(inside + "/"):
                raise Refused(
                    f"The tablespace {location} would lie inside the data directory, in {directory}",
                    remedy="Map it to a directory elsewhere.",
                )
        if places[directory].entries:
            names = ", ".join(places[directory].entries)
            raise Refused(
                f"The directory {directory} for the tablespace {location} is not empty ({names})",
                remedy="Map the tablespace to an empty directory, or move the contents away if nobody needs them.",
            )


def _check_space(needed: Mapping[str, int], places: Mapping[str, Place]) -> None:
    by_device: dict[int, int] = {}
    for directory, size in needed.items():
        device = places[directory].device
        by_device[device] = by_device.get(device, 0) + size
    for directory in needed:
        place, size = places[directory], by_device[places[directory].device]
        # Two directories on one filesystem may both hold remains.
        reclaimable = sum(each.reclaimable_bytes for each in places.values() if each.device == place.device)
        available = place.free_bytes + reclaimable
        if available < size:
            raise Refused(
                f"The filesystem {place.mount_point} of {directory} has {megabytes(available)} free, "
                f"and the clone needs {megabytes(size)}",
                remedy="Make room or enlarge it, then run again.",
                bytes_needed=size,
                bytes_free=available,
            )


def _warnings(
    request: CloneRequest, decision: Plan, source: SourceFacts, places: Mapping[str, Place]
) -> tuple[str, ...]:
    warnings = []
    place = places[decision.directory]
    room = place.free_bytes + place.reclaimable_bytes - source.size_bytes
    if room < source.max_wal_size:
        warnings.append(
            f"After the clone the filesystem {place.mount_point} has room for {megabytes(max(room, 0))} more; "
            f"WAL alone may take max_wal_size = {megabytes(source.max_wal_size)}."
        )
    if source.in_recovery and not source.streaming:
        warnings.append(f"{request.source.host} is a standby that streams from nobody: the clone is as old as it is.")
    return tuple(warnings)

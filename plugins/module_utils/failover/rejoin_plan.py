# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a member becomes a replica of the present primary again: nothing, follow, start, rewind, clone, or a refusal.

The one question behind it: is everything in the member's write-ahead log also on the primary's line? Then it only has
to go on from there. If not, what is beyond the fork has to go, and with it every page that it changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.failover.confirm import Check
from ansible_collections.dbops.fleet.plugins.module_utils.failover.orchestrators import managed_by_others
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.wal import segment_name
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts

ACTIONS = ("nothing", "follow", "start", "rewind", "clone")

# pg_rewind and a clone want room for more than they copy: the server writes as soon as it starts.
SPACE_MARGIN_BYTES = 256 << 20


@dataclass(frozen=True)
class Directory(Record):
    """The member's data directory, as far as facts do not say it.

    Attributes:
        wal_end: end of the last readable record in its pg_wal; None where it could not be read.
        interrupted: a rewind or clone of ours was begun in it and never finished.
        unfit_files: files below it that pg_rewind could not overwrite: symbolic links, read-only or special files.
        tablespaces: location per tablespace name.
        ready_segments: finished write-ahead log segments that were never archived.
        free_bytes: on the file system of the data directory.
        unreadable: why its control file could not be read; None where it could.
        restores: it has a restore_command, and may get from the archive what no server has any more.
    """

    wal_end: Lsn | None = None
    interrupted: bool = False
    unfit_files: tuple[str, ...] = ()
    tablespaces: tuple[str, ...] = ()
    ready_segments: int = 0
    free_bytes: int | None = None
    unreadable: str | None = None
    restores: bool = False


@dataclass(frozen=True)
class Source(Record):
    """The primary to rejoin, as far as facts do not say it.

    Attributes:
        control_timeline: of its last checkpoint; behind its timeline until the first checkpoint after a promotion.
        wal_bytes, data_bytes: sizes of its pg_wal and of everything else.
        tablespaces: location per tablespace name.
        oldest_segment: the last 16 digits of the name of the oldest segment in its pg_wal; None where not known.
    """

    control_timeline: int | None = None
    wal_bytes: int = 0
    data_bytes: int = 0
    tablespaces: tuple[str, ...] = ()
    oldest_segment: str | None = None


@dataclass(frozen=True)
class Consent(Record):
    """What the operator allowed for this member by naming it.

    Attributes:
        stop_primary: `fleet_rejoin_stop_primary`: it still takes writes; stop it and give up what only it has.
        replace_data: `fleet_rejoin_replace`: its data are of another cluster, or of a newer timeline than the
            primary's; put them aside and clone.
        rewind: False: clone whatever does not stream already (`fleet_rejoin_method=clone`).
    """

    stop_primary: bool = False
    replace_data: bool = False
    rewind: bool = True


@dataclass(frozen=True)
class RejoinPlan(Record):
    """What is going to be done.

    Attributes:
        action: one of ACTIONS.
        reason: a sentence.
        checks: the preconditions of pg_rewind, where a rewind was considered.
        stop_first: the member runs and has to be stopped before.
        checkpoint_source: the primary needs a CHECKPOINT before pg_rewind reads its control file.
        fork_timeline, fork: where the member left the primary's line; None where it did not.
        lost_bytes: write-ahead log beyond the fork; None where not known.
        fallback: "clone" where a rewind may still turn out to be impossible (its dry run fails).
        fallback_refused: why a clone would not be possible either; None where it would.
    """

    action: str
    reason: str
    checks: tuple[Check, ...] = field(default_factory=tuple)
    stop_first: bool = False
    checkpoint_source: bool = False
    fork_timeline: int | None = None
    fork: Lsn | None = None
    lost_bytes: int | None = None
    fallback: str | None = None
    fallback_refused: str | None = None

    @property
    def changes(self) -> bool:
        """Whether anything is done at all."""
        return self.action != "nothing"


def plan_rejoin(
    target: MemberFacts,
    source: MemberFacts,
    directory: Directory,
    origin: Source,
    consent: Consent,
    *,
    cluster: str,
    upstream: MemberFacts | None = None,
) -> RejoinPlan:
    """Decide how `target` becomes a replica of `source`.

    Args:
        target: read on its own host.
        source: the live primary, as read by a session.
        directory: of the target.
        origin: of the source.
        consent: the operator's.
        cluster: for remedies.
        upstream: the replica that it is meant to stream from (cascading); None where that is the primary.

    Raises:
        Refused: it would lose something without consent, or cannot work.
    """
    _refuse_wrong_source(target, source, cluster)
    _refuse_unsafe_target(target, source, consent, cluster)
    clone_refused = _no_room_for_clone(target, directory, origin)
    must_clone = _must_clone(target, source, directory)
    if must_clone:
        return _clone(target, must_clone, clone_refused)
    if target.is_standby and _follows(target, source, source):
        return RejoinPlan("nothing", f"{target.name} streams from {source.name}")
    if target.is_standby and upstream is not None and _cascades(target, upstream, source):
        return RejoinPlan("nothing", f"{target.name} streams from {upstream.name}, as it is meant to")

    end = _end_of(target, directory)
    if end is not None and _is_on_line(target, source, end):
        if not consent.rewind:
            return _clone(target, "the operator wants a clone", clone_refused)
        if _is_removed(target, end, origin) and not directory.restores:
            return _clone(
                target,
                f"{source.name} has removed the write-ahead log from {end} on, and no archive is set",
                clone_refused,
            )
        if target.is_standby:
            return RejoinPlan(
                "follow", f"{target.name} runs as a standby, and all that it has is on {source.name}'s line"
            )
        return RejoinPlan(
            "start", f"all that {target.name} has (up to {end}) is on {source.name}'s line: no rewind is needed"
        )
    return _plan_diverged(target, source, directory, origin, consent, end, clone_refused)


def _refuse_wrong_source(target: MemberFacts, source: MemberFacts, cluster: str) -> None:
    managed = managed_by_others((target, source), "rejoin")
    if managed:
        raise managed
    if source.name == target.name:
        raise Refused(
            f"{target.name} is the primary of {cluster}; there is nothing to rejoin",
            host=target.name,
            remedy="Name the member that is to become a replica: -e fleet_rejoin_member=...",
            code="is_primary",
        )
    if not source.is_primary:
        raise Refused(
            f"it cannot rejoin {source.name}, which is no running primary"
            + (f" ({source.error})" if source.error else ""),
            host=target.name,
            remedy="A member rejoins the primary only. Bring one up first: ansible-playbook dbops.fleet.failover "
            f"-e fleet_cluster={cluster}.",
            code="source_not_primary",
        )
    if source.history is None or source.timeline is None or source.system_identifier is None:
        raise Refused(
            f"timeline and history of {source.name} could not be read",
            host=source.name,
            remedy="The role fleet_operator needs the grants that setup.yml gives; run setup.yml.",
            code="source_unreadable",
        )


def _refuse_unsafe_target(target: MemberFacts, source: MemberFacts, consent: Consent, cluster: str) -> None:
    if target.state == "unreachable":
        raise Refused(
            f"its state cannot be read: {target.error or 'no answer'}",
            host=target.name,
            remedy="Make the host reachable over SSH and its PostgreSQL answer or stop.",
            code="unreachable",
        )
    if target.state == "starting":
        raise Refused(
            f"PostgreSQL is just starting or stopping: {target.error or 'no reason given'}",
            host=target.name,
            remedy="Wait until it has, and run again.",
            code="starting",
        )
    if target.is_primary and not consent.stop_primary:
        raise Refused(
            f"it still runs as a primary, beside {source.name}",
            host=target.name,
            remedy="See that no client uses it. Then let it be stopped, giving up what only it has, with "
            f"-e fleet_rejoin_stop_primary={target.name}.",
            code="runs_as_primary",
            cluster=cluster,
        )
    foreign = target.state == "foreign" or (
        target.system_identifier is not None and target.system_identifier != source.system_identifier
    )
    if foreign and not consent.replace_data:
        raise Refused(
            f"its data directory is of another cluster (system identifier {target.system_identifier or 'unknown'}, "
            f"{source.name} has {source.system_identifier})",
            host=target.name,
            remedy=f"If {target.name} is the right host, put these data aside and clone with "
            f"-e fleet_rejoin_replace={target.name}.",
            code="foreign",
        )
    if not foreign and _is_ahead(target, source) and not consent.replace_data:
        raise Refused(
            f"it is on timeline {target.timeline}, but {source.name} takes writes on timeline {source.timeline}: "
            f"{source.name} was replaced by a promotion and may be back by mistake",
            host=target.name,
            remedy=f"Find out which one has the writes that count. If not {source.name}: stop PostgreSQL there, start "
            f"the primary of timeline {target.timeline}, and rejoin {source.name}. If {source.name}: put the data of "
            f"{target.name} aside and clone with -e fleet_rejoin_replace={target.name}.",
            code="stale_primary",
        )
    if target.major_version and source.major_version and target.major_version != source.major_version:
        raise Refused(
            f"it has PostgreSQL {target.major_version}, {source.name} has {source.major_version}",
            host=target.name,
            remedy="Streaming replication works within one major version only. Install the primary's version.",
            code="other_version",
        )


def _is_ahead(target: MemberFacts, source: MemberFacts) -> bool:
    """Whether the member has seen a promotion that the running primary has not."""
    return target.timeline is not None and source.timeline is not None and target.timeline > source.timeline


def _must_clone(target: MemberFacts, source: MemberFacts, directory: Directory) -> str | None:
    """Why nothing in the directory can be used; None where it can."""
    if target.state == "absent":
        return "it has no data directory"
    if directory.interrupted:
        return "an earlier rewind or clone of its data directory was interrupted"
    if directory.unreadable:
        return f"its control file cannot be read ({directory.unreadable})"
    if target.system_identifier != source.system_identifier:
        return "its data are of another cluster"
    if _is_ahead(target, source):
        return f"its data are of timeline {target.timeline}, {source.name}'s of {source.timeline}"
    if target.timeline is None:
        return "its timeline cannot be read"
    return None


def _clone(target: MemberFacts, reason: str, refused: str | None, **more: object) -> RejoinPlan:
    if refused:
        raise Refused(
            f"{reason}, and it cannot be cloned: {refused}",
            host=target.name,
            remedy="Make room: the new copy is made beside the old directory, which is kept. Remove or move away "
            "what is no longer needed (earlier `.old-*` directories), and run again.",
            code="no_room",
        )
    stop = target.state == "running"
    return RejoinPlan("clone", f"{target.name} has to be cloned: {reason}", stop_first=stop, **more)  # type: ignore[arg-type]


def _no_room_for_clone(target: MemberFacts, directory: Directory, origin: Source) -> str | None:
    if directory.free_bytes is None:
        return None
    needed = origin.data_bytes + origin.wal_bytes + SPACE_MARGIN_BYTES
    if directory.free_bytes >= needed:
        return None
    return f"{needed >> 20} MiB are needed beside the old directory, {directory.free_bytes >> 20} MiB are free"


def _follows(target: MemberFacts, sender: MemberFacts, source: MemberFacts) -> bool:
    """It streams, on the primary's timeline, from the sender, which the walreceiver calls by its name or address."""
    receiver = target.receiver
    return (
        receiver is not None
        and receiver.status == "streaming"
        and receiver.sender_host in (sender.address, sender.name)
        and receiver.sender_port in (sender.port, None)
        and target.timeline == source.timeline
    )


def _cascades(target: MemberFacts, upstream: MemberFacts, source: MemberFacts) -> bool:
    """It follows its upstream, and that one is itself a replica that streams on the primary's line."""
    return (
        _follows(target, upstream, source)
        and upstream.is_standby
        and upstream.system_identifier == source.system_identifier
        and upstream.timeline == source.timeline
        and upstream.receiver is not None
        and upstream.receiver.status == "streaming"
    )


def _is_on_line(target: MemberFacts, source: MemberFacts, end: Lsn) -> bool:
    """Whether all of it is on the primary's line. Two independent promotions give two timelines of one number."""
    if target.history is None or source.history is None or target.timeline is None:
        return False
    return target.history.is_ancestor_of(source.history) and source.history.contains(target.timeline, end)


def _is_removed(target: MemberFacts, end: Lsn, origin: Source) -> bool:
    """Whether the primary has no more what comes after the member's own end: it would ask for it for ever."""
    if target.control is None or origin.oldest_segment is None:
        return False
    return segment_name(1, end, target.control.wal_segment_size)[8:] < origin.oldest_segment


def _end_of(target: MemberFacts, directory: Directory) -> Lsn | None:
    """How far the member's write-ahead log goes: what it would replay when it starts, not what it has replayed."""
    known = [lsn for lsn in (target.position, directory.wal_end) if lsn is not None]
    if target.state == "running":
        return max(known, default=None)
    if directory.wal_end is None:
        return None
    if target.control is not None and target.control.min_recovery_lsn:
        known.append(target.control.min_recovery_lsn)
    return max(known)


def _plan_diverged(
    target: MemberFacts,
    source: MemberFacts,
    directory: Directory,
    origin: Source,
    consent: Consent,
    end: Lsn | None,
    clone_refused: str | None,
) -> RejoinPlan:
    fork_timeline, fork = None, None
    shared = source.history.fork_from(target.history) if target.history and source.history else None
    if shared:
        fork_timeline, fork = shared
    lost = end - fork if end is not None and fork is not None else None
    where = f"at {fork} of timeline {fork_timeline}" if fork else "at an unknown position"
    found = "" if lost is None else f", {lost} bytes of its own beyond it"
    reason = f"{target.name} left {source.name}'s line {where}{found}"
    checks = _rewind_checks(target, source, directory, origin, end, fork)
    impossible = [check for check in checks if not check.ok]
    stop = target.state == "running"
    if impossible or not consent.rewind:
        why = "; ".join(f"{check.name}: {check.found}" for check in impossible) or "the operator wants a clone"
        return _clone(
            target,
            f"{reason}; pg_rewind is not possible ({why})" if impossible else f"{reason}; {why}",
            clone_refused,
            checks=checks,
            fork_timeline=fork_timeline,
            fork=fork,
            lost_bytes=lost,
        )
    return RejoinPlan(
        "rewind",
        reason,
        checks,
        stop_first=stop,
        checkpoint_source=origin.control_timeline != source.timeline,
        fork_timeline=fork_timeline,
        fork=fork,
        lost_bytes=lost,
        fallback=None if clone_refused else "clone",
        fallback_refused=clone_refused,
    )


def _rewind_checks(
    target: MemberFacts,
    source: MemberFacts,
    directory: Directory,
    origin: Source,
    end: Lsn | None,
    fork: Lsn | None,
) -> tuple[Check, ...]:
    """What pg_rewind needs, beyond what was checked already. Anything missing means a clone."""
    control = target.control
    unfit = ", ".join(directory.unfit_files[:3]) + (" ..." if len(directory.unfit_files) > 3 else "")
    room = origin.wal_bytes + SPACE_MARGIN_BYTES
    hints = control is not None and (control.data_checksums or control.wal_log_hints)
    pages = control is not None and control.full_page_writes
    # A standby that received, but never replayed, what is beyond the fork: pg_rewind finds nothing to do, and the next
    # start would replay it all the same.
    standby = control is not None and (control.state.endswith("in recovery") or "archive recovery" in control.state)
    only_received = standby and fork is not None and control is not None and control.min_recovery_lsn <= fork
    return (
        Check("fork point", fork is not None and end is not None, f"{fork or 'unknown'}, own end {end or 'unknown'}"),
        Check(
            "data checksums or wal_log_hints", hints, "on" if hints else "neither is on: changed pages are not known"
        ),
        Check("full_page_writes", pages, "on" if pages else "off"),
        Check(
            "replayed beyond the fork",
            not only_received,
            "no: the log beyond the fork is only received, pg_rewind would leave it" if only_received else "yes",
        ),
        Check("files that can be overwritten", not directory.unfit_files, unfit or "all"),
        Check(
            "tablespaces",
            directory.tablespaces == origin.tablespaces,
            "the same" if directory.tablespaces == origin.tablespaces else f"differ from those of {source.name}",
        ),
        Check(
            "free space",
            directory.free_bytes is None or directory.free_bytes >= room,
            f"{(directory.free_bytes or 0) >> 20} MiB free, {room >> 20} MiB needed for {source.name}'s pg_wal",
        ),
    )

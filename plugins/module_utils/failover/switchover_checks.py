# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every check before a switchover: facts in, one result per check out. Nothing is hidden behind an earlier failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ansible_collections.dbops.fleet.plugins.module_utils.failover.orchestrators import managed_by_others
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_request import Budgets
from ansible_collections.dbops.fleet.plugins.module_utils.failover.synchronous import SyncRule
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts, WalSender

# Settings of which a standby needs at least as much as its primary has, or a promoted one serves worse.
_AT_LEAST = (
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
)

# How far a logical subscriber may be behind, in bytes.
_LOGICAL_LAG = 1024 * 1024


@dataclass(frozen=True)
class CheckResult(Record):
    """The result of one check.

    Attributes:
        name: of the check, stable, for machines.
        result: "ok", "warn" (told, does not stop anything) or "refuse".
        member: the member or pooler that it is about; None for the cluster.
        found: what was measured, as a sentence.
        remedy: for the operator, where the result is not "ok".
    """

    name: str
    result: str
    found: str
    member: str | None = None
    remedy: str = ""


@dataclass(frozen=True)
class Policy(Record):
    """What the operator accepts.

    Attributes:
        max_lag_bytes: of the candidate: not received yet, and received but not replayed.
        accept_slot_loss: logical slots that the candidate does not have may be lost.
        accept_session_mode: clients in session mode may be waited for (and the budget be exceeded).
        max_ready_segments: so many segments may wait to be archived.
        min_free_mb: free disk space of the candidate.
        dead_man_seconds: how long the dead-men let a database be paused.
    """

    max_lag_bytes: int = 16 * 1024 * 1024
    accept_slot_loss: bool = False
    accept_session_mode: bool = False
    max_ready_segments: int = 500
    min_free_mb: int = 512
    dead_man_seconds: float = 15.0


@dataclass(frozen=True)
class Scene:
    """All that checks look at.

    Attributes:
        members: facts of every member that the inventory names.
        local: name of the member on whose host this runs.
        free_mb: free disk space by member, where it is known.
        orchestrated: facts that were read on the members' own hosts (these alone name other managers).
    """

    members: tuple[MemberFacts, ...]
    local: str
    policy: Policy
    budgets: Budgets
    free_mb: dict[str, int]
    orchestrated: tuple[MemberFacts, ...] = ()

    @property
    def primary(self) -> MemberFacts | None:
        """The only primary; None where there is none or more than one."""
        found = [member for member in self.members if member.is_primary]
        return found[0] if len(found) == 1 else None

    def member(self, name: str) -> MemberFacts:
        """Facts by name."""
        return next(member for member in self.members if member.name == name)

    def sender(self, name: str) -> WalSender | None:
        """The primary's walsender for a member."""
        senders = self.primary.senders if self.primary else ()
        return next((sender for sender in senders if sender.application_name == name), None)


Check = Callable[[Scene], Iterator[CheckResult]]
CandidateCheck = Callable[[Scene, MemberFacts], Iterator[CheckResult]]


def _result(name: str, member: str | None, found: str, result: str = "ok", remedy: str = "") -> CheckResult:
    return CheckResult(name, result, found, member, remedy)


# --- the cluster ---


def _reachable(scene: Scene) -> Iterator[CheckResult]:
    for member in scene.members:
        if member.state == "running":
            yield _result("reachable", member.name, "runs and answers")
        else:
            found = f"is {member.state}" + (f" ({member.error})" if member.error else "")
            remedy = "Start it or bring its host back, or take it out of the inventory."
            yield _result("reachable", member.name, found, "refuse", remedy)


def _one_primary(scene: Scene) -> Iterator[CheckResult]:
    names = [member.name for member in scene.members if member.is_primary]
    if len(names) == 1 and names[0] == scene.local:
        yield _result("one_primary", names[0], "is the only primary, and this runs on its host")
    elif len(names) == 1:
        remedy = f"Run this on {names[0]}."
        yield _result("one_primary", names[0], f"is the primary, but this runs on {scene.local}", "refuse", remedy)
    elif names:
        remedy = "Find out which one clients write to, stop the other, and bring it back with playbooks/rejoin.yml."
        yield _result("one_primary", None, f"two primaries: {' and '.join(names)}", "refuse", remedy)
    else:
        remedy = "A switchover needs a primary: this is a case for playbooks/failover.yml."
        yield _result("one_primary", None, "no member takes writes", "refuse", remedy)


def _same(name: str, value: Callable[[MemberFacts], object], what: str, remedy: str) -> Check:
    def check(scene: Scene) -> Iterator[CheckResult]:
        by_value: dict[object, list[str]] = {}
        for member in scene.members:
            if member.state == "running" and value(member) is not None:
                by_value.setdefault(value(member), []).append(member.name)
        said = "; ".join(f"{', '.join(names)}: {key}" for key, names in by_value.items())
        result = "ok" if len(by_value) <= 1 else "refuse"
        yield _result(name, None, f"{what} {said}", result, "" if result == "ok" else remedy)

    return check


def _not_managed(scene: Scene) -> Iterator[CheckResult]:
    refusal = managed_by_others(scene.orchestrated, "switchover")
    if refusal:
        yield _result("not_managed_by_others", refusal.host, refusal.message, "refuse", refusal.remedy or "")
    else:
        names = ", ".join(member.name for member in scene.orchestrated) or "no host"
        yield _result("not_managed_by_others", None, f"no other manager of PostgreSQL on {names}")


# --- the primary ---


def _no_backup(scene: Scene) -> Iterator[CheckResult]:
    primary = scene.primary
    if primary and primary.activity:
        running = primary.activity.base_backups
        if running:
            remedy = "Wait for its end, or end it: the stop would break it off."
            yield _result("no_base_backup", primary.name, f"{running} base backup(s) run", "refuse", remedy)
        else:
            yield _result("no_base_backup", primary.name, "no base backup runs")


def _transactions(scene: Scene) -> Iterator[CheckResult]:
    primary = scene.primary
    if not primary or not primary.activity:
        return
    activity = primary.activity
    age = activity.oldest_transaction_seconds
    found = f"oldest transaction {age:.1f} s, {activity.idle_in_transaction} idle in transaction"
    if age > scene.budgets.drain:
        remedy = "End it (pg_stat_activity names it) or wait: PAUSE and the stop wait for transactions."
        yield _result("no_long_transaction", primary.name, found, "refuse", remedy)
    else:
        yield _result("no_long_transaction", primary.name, found)
    if activity.prepared_transactions:
        remedy = "They survive the switchover, but hold locks until somebody finishes them."
        count = f"{activity.prepared_transactions} prepared transaction(s)"
        yield _result("no_prepared_transactions", primary.name, count, "warn", remedy)


def _archive(scene: Scene) -> Iterator[CheckResult]:
    primary = scene.primary
    if not primary or not primary.archiver:
        return
    ready = primary.archiver.ready_count or 0
    found = f"{ready} segment(s) wait to be archived" + (
        ", the last attempt failed" if primary.archiver.failing else ""
    )
    if ready > scene.policy.max_ready_segments:
        remedy = "Repair archive_command first: the old primary cannot end before its archiver does."
        yield _result("archive", primary.name, found, "refuse", remedy)
    elif primary.archiver.failing or ready > 10:
        remedy = "Repair archive_command; the old primary may be slow to return as a standby."
        yield _result("archive", primary.name, found, "warn", remedy)
    else:
        yield _result("archive", primary.name, found)


def _walsenders(scene: Scene) -> Iterator[CheckResult]:
    """A standby that is behind does not hold up the stop, whose walsender is ended. A logical subscriber can: the
    shutdown waits until it has everything, and a walsender whose client does not read cannot even be ended."""
    primary = scene.primary
    if not primary or primary.current_lsn is None:
        return
    logical = {slot.name for slot in primary.slots if slot.slot_type == "logical"}
    for sender in primary.senders:
        behind = max(0, primary.current_lsn - (sender.flush_lsn or sender.sent_lsn or Lsn(0)))
        found = f"{sender.application_name or sender.pid} is {_size(behind)} behind ({sender.state})"
        if sender.slot_name in logical and behind > _LOGICAL_LAG:
            remedy = "Stop this subscriber, or let it catch up: the stop would wait for it."
            yield _result("walsenders_caught_up", primary.name, found, "refuse", remedy)
        elif behind > scene.policy.max_lag_bytes:
            remedy = "It would hold up the stop, so its walsender will be ended; it connects again by itself."
            yield _result("walsenders_caught_up", primary.name, found, "warn", remedy)
        else:
            yield _result("walsenders_caught_up", primary.name, found)


# --- the candidate ---


def _candidate_streams(scene: Scene, candidate: MemberFacts) -> Iterator[CheckResult]:
    name = "candidate_streams"
    receiver, sender = candidate.receiver, scene.sender(candidate.name)
    if not candidate.is_standby:
        state = "is the primary" if candidate.is_primary else f"is {candidate.state}"
        yield _result(name, candidate.name, state, "refuse", "Choose a running standby.")
    elif receiver is None or receiver.status != "streaming":
        found = f"walreceiver: {receiver.status if receiver else 'none'}"
        yield _result(name, candidate.name, found, "refuse", "Read its log for why it does not stream.")
    elif sender is None:
        found = f"streams from {receiver.sender_host}:{receiver.sender_port}, and the primary has no walsender for it"
        remedy = "Choose a standby that streams from the primary itself, under its inventory name."
        yield _result(name, candidate.name, found, "refuse", remedy)
    elif sender.state != "streaming":
        yield _result(name, candidate.name, f"walsender: {sender.state}", "refuse", "Wait until it has caught up.")
    else:
        yield _result(name, candidate.name, "streams from the primary")


def _candidate_replays(scene: Scene, candidate: MemberFacts) -> Iterator[CheckResult]:
    if candidate.replay_paused:
        remedy = "SELECT pg_wal_replay_resume() there, or choose another."
        yield _result("candidate_replays", candidate.name, "replay is paused", "refuse", remedy)
    elif candidate.apply_delay_seconds:
        found = f"applies {candidate.apply_delay_seconds:g} s late on purpose"
        yield _result(
            "candidate_replays", candidate.name, found, "refuse", "Choose another: a delayed one stays behind."
        )
    else:
        yield _result("candidate_replays", candidate.name, "replays without delay")


def _candidate_lag(scene: Scene, candidate: MemberFacts) -> Iterator[CheckResult]:
    primary, limit = scene.primary, scene.policy.max_lag_bytes
    if primary is None or primary.current_lsn is None:
        return
    received = candidate.receive_lsn or candidate.replay_lsn or Lsn(0)
    missing = max(0, primary.current_lsn - received)
    waiting = max(0, received - (candidate.replay_lsn or Lsn(0)))
    found = f"{_size(missing)} not received, {_size(waiting)} received and not replayed (limit {_size(limit)})"
    if max(missing, waiting) > limit:
        remedy = "Wait until it has caught up: a promotion replays all that was received first."
        yield _result("candidate_lag", candidate.name, found, "refuse", remedy)
    else:
        yield _result("candidate_lag", candidate.name, found)


def _candidate_settings(scene: Scene, candidate: MemberFacts) -> Iterator[CheckResult]:
    primary = scene.primary
    if primary is None:
        return
    name = "candidate_settings"
    wrong = []
    for setting in _AT_LEAST:
        have, want = _number(candidate, setting), _number(primary, setting)
        if have is not None and want is not None and have < want:
            wrong.append(f"{setting} is {have}, the primary has {want}")
    followers = len(scene.members) - 1
    for setting, needed in (("max_wal_senders", followers + 1), ("max_replication_slots", followers)):
        have = _number(candidate, setting)
        if have is not None and have < needed:
            wrong.append(f"{setting} is {have}, {needed} are needed")
    if candidate.settings.get("default_transaction_read_only") == "on":
        wrong.append("default_transaction_read_only is on")
    if candidate.settings.get("hot_standby") == "off":
        wrong.append("hot_standby is off")
    level = candidate.settings.get("wal_level")
    if level is not None and level != primary.settings.get("wal_level", level):
        wrong.append(f"wal_level is {level}, the primary has {primary.settings['wal_level']}")
    if wrong:
        yield _result(
            name, candidate.name, "; ".join(wrong), "refuse", "Set it as on the primary (playbooks/setup.yml)."
        )
    else:
        yield _result(name, candidate.name, "can serve what the primary serves")
    if candidate.pending_restart:
        found = f"waits for a restart to take {', '.join(candidate.pending_restart)}"
        yield _result("candidate_restart", candidate.name, found, "warn", "Restart it before, or it stays so.")


def _candidate_disk(scene: Scene, candidate: MemberFacts) -> Iterator[CheckResult]:
    free = scene.free_mb.get(candidate.name)
    if free is None:
        return
    if free < scene.policy.min_free_mb:
        yield _result("candidate_disk", candidate.name, f"{free} MB free", "refuse", "Make room there first.")
    else:
        yield _result("candidate_disk", candidate.name, f"{free} MB free")


def _rewindable(scene: Scene, candidate: MemberFacts) -> Iterator[CheckResult]:
    settings = candidate.settings
    if settings.get("wal_log_hints") == "off" and settings.get("data_checksums") == "off":
        remedy = "Set wal_log_hints = on, or a later pg_rewind is impossible and a new clone is needed."
        yield _result("rewind_possible_later", candidate.name, "neither checksums nor wal_log_hints", "warn", remedy)
    else:
        yield _result("rewind_possible_later", candidate.name, "checksums or wal_log_hints are on")


def _logical_slots(scene: Scene, candidate: MemberFacts) -> Iterator[CheckResult]:
    primary = scene.primary
    if primary is None:
        return
    name = "logical_slots"
    slots = [slot for slot in primary.slots if slot.slot_type == "logical" and not slot.temporary]
    copies = {slot.name: slot for slot in candidate.slots}
    lost = []
    for slot in slots:
        copy = copies.get(slot.name)
        ready = copy is not None and copy.synced and not copy.temporary and copy.invalidation_reason is None
        if not ready:
            lost.append(slot.name)
    if not lost:
        found = f"{len(slots)} logical slot(s), all on the candidate" if slots else "no logical slots"
        yield _result(name, candidate.name, found)
    else:
        result = "warn" if scene.policy.accept_slot_loss else "refuse"
        remedy = (
            "Their subscribers have to be set up anew afterwards."
            if scene.policy.accept_slot_loss
            else "Synchronise them (PostgreSQL 17: failover slots, sync_replication_slots), or accept their loss."
        )
        yield _result(name, candidate.name, f"not on the candidate: {', '.join(lost)}", result, remedy)


def _synchronous(scene: Scene, candidate: MemberFacts) -> Iterator[CheckResult]:
    primary = scene.primary
    if primary is None:
        return
    try:
        new = synchronous_after(scene, candidate.name)
    except ValueError as error:
        remedy = "Correct synchronous_standby_names."
        yield _result("synchronous", primary.name, str(error), "refuse", remedy)
        return
    now = SyncRule.parse(primary.settings.get("synchronous_standby_names", ""))
    if not now.is_synchronous:
        yield _result("synchronous", primary.name, "commits wait for no standby")
        return
    found = f"{now} becomes {new or 'nothing'}"
    others = [member.name for member in scene.members if member.name != candidate.name]
    siblings = [name for name in others if name != primary.name]
    if not SyncRule.parse(new).can_be_met(others):
        yield _result("synchronous", candidate.name, found, "refuse", "Commits would hang: name standbys that exist.")
    elif not SyncRule.parse(new).can_be_met(siblings):
        remedy = "Commits wait until the old primary is back as a standby; that takes about a second more."
        yield _result("synchronous", candidate.name, found, "warn", remedy)
    else:
        yield _result("synchronous", candidate.name, found)


def _slot_limit(scene: Scene, candidate: MemberFacts) -> Iterator[CheckResult]:
    if candidate.settings.get("max_slot_wal_keep_size") == "-1":
        remedy = "Set max_slot_wal_keep_size, or a replica that is away fills this disk."
        yield _result("slot_limit", candidate.name, "max_slot_wal_keep_size is unlimited", "warn", remedy)


def _clock(scene: Scene) -> Iterator[CheckResult]:
    for member in scene.members:
        offset = member.clock_offset_seconds
        if offset is not None and abs(offset) > 1.0:
            found = f"its clock differs by {offset:.1f} s"
            yield _result("clock", member.name, found, "warn", "Repair time synchronisation: logs will mislead.")


_CLUSTER: tuple[Check, ...] = (
    _reachable,
    _one_primary,
    _same("same_system", lambda m: m.system_identifier, "system identifier", "Take the stranger out of the inventory."),
    _same("same_version", lambda m: m.major_version, "PostgreSQL", "A switchover does not upgrade."),
    _same("same_timeline", lambda m: m.timeline, "timeline", "Bring the member back first: playbooks/rejoin.yml."),
    _not_managed,
    _no_backup,
    _transactions,
    _archive,
    _walsenders,
    _clock,
)
_CANDIDATE: tuple[CandidateCheck, ...] = (
    _candidate_streams,
    _candidate_replays,
    _candidate_lag,
    _candidate_settings,
    _candidate_disk,
    _logical_slots,
    _synchronous,
    _slot_limit,
    _rewindable,
)


def check_cluster(scene: Scene) -> tuple[CheckResult, ...]:
    """The checks that do not depend on the candidate."""
    return tuple(result for check in _CLUSTER for result in check(scene))


def check_candidate(scene: Scene, name: str) -> tuple[CheckResult, ...]:
    """The checks of one candidate."""
    member = scene.member(name)
    return tuple(result for check in _CANDIDATE for result in check(scene, member))


def synchronous_after(scene: Scene, candidate: str) -> str:
    """The candidate's synchronous_standby_names for the time when it is primary.

    The candidate's own name makes room for the old primary's: as many standbys as before have to confirm.

    Raises:
        ValueError: the setting cannot be read.
    """
    primary = scene.primary
    now = SyncRule.parse(primary.settings.get("synchronous_standby_names", "")) if primary else SyncRule()
    if primary is None or not now.is_synchronous or now.names_everyone:
        return str(now)
    lowered = [name.lower() for name in now.names]
    if candidate.lower() not in lowered:
        return str(now)
    if primary.name.lower() in lowered:
        names = tuple(name for name in now.names if name.lower() != candidate.lower())
    else:
        names = tuple(primary.name if name.lower() == candidate.lower() else name for name in now.names)
    if now.required <= len(names):
        return str(SyncRule(now.method, now.required, names if primary.name.lower() not in lowered else now.names))
    return str(SyncRule(now.method, len(names), names))


def refusals(results: Sequence[CheckResult]) -> tuple[CheckResult, ...]:
    """Those that stop the switchover."""
    return tuple(result for result in results if result.result == "refuse")


def _number(member: MemberFacts, setting: str) -> int | None:
    value = member.settings.get(setting)
    return int(value) if value is not None and value.isdigit() else None


def _size(count: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 10240:
            return f"{count} {unit}"
        count //= 1024
    return f"{count} GB"

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What proves that the old primary cannot take writes. Drivers act and read back; here their findings are judged."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.failover.synchronous import SyncRule
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record

CONFIRMED, UNCONFIRMED, NOT_APPLICABLE = "confirmed", "unconfirmed", "not_applicable"
STATUSES = (CONFIRMED, UNCONFIRMED, NOT_APPLICABLE)

# In the order in which they are tried; the first confirmed one ends the ladder.
DRIVERS = ("ssh", "command", "ec2", "operator", "pooler_cut", "quorum")


@dataclass(frozen=True)
class Rung(Record):
    """What one driver found.

    Attributes:
        driver: one of DRIVERS.
        status: "confirmed": a state that was read back says that the old primary cannot take writes (for "quorum":
            cannot acknowledge them); for "operator" a person says so. "unconfirmed": tried, and not proven.
            "not_applicable": not set up here.
        evidence: what was read back, as sentences.
        remains: what this kind of fence does not exclude.
    """

    driver: str
    status: str
    evidence: tuple[str, ...] = ()
    remains: tuple[str, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status {self.status!r} is not one of {', '.join(STATUSES)}")
        if self.driver not in DRIVERS:
            raise ValueError(f"driver {self.driver!r} is not one of {', '.join(DRIVERS)}")
        if self.status == CONFIRMED and not self.evidence:
            raise ValueError(f"{self.driver}: a confirmed fence needs the evidence that was read back")


@dataclass(frozen=True)
class Fence(Record):
    """The ladder as a whole.

    Attributes:
        status: "confirmed", "unconfirmed".
        driver: the rung that confirmed; None without one.
        level: "host": the old primary takes no writes. "clients": it may run, but no client reaches it. "quorum": it
            may run and take writes, but cannot acknowledge any. "none".
        rungs: all that were tried.
        manual: what an operator can do by hand; empty once confirmed.
    """

    status: str
    driver: str | None
    level: str
    rungs: tuple[Rung, ...]
    manual: tuple[str, ...] = ()

    @property
    def confirmed(self) -> bool:
        """Whether some rung proved that no write can be taken or acknowledged by the old primary."""
        return self.status == CONFIRMED


_LEVELS = {
    "ssh": "host",
    "command": "host",
    "ec2": "host",
    "operator": "host",
    "pooler_cut": "clients",
    "quorum": "quorum",
}


def judge_ladder(primary: str, address: str, rungs: Iterable[Rung], *, cluster: str) -> Fence:
    """Sum up the ladder: the strongest confirmed rung counts; none means that nothing may be promoted."""
    rungs = tuple(rungs)
    for driver in DRIVERS:
        for rung in rungs:
            if rung.driver == driver and rung.status == CONFIRMED:
                return Fence(CONFIRMED, driver, _LEVELS[driver], rungs)
    return Fence(UNCONFIRMED, None, "none", rungs, manual_actions(primary, address, cluster=cluster))


def manual_actions(primary: str, address: str, *, cluster: str) -> tuple[str, ...]:
    """What somebody with other means can do, in the order of preference, and the command that goes on afterwards."""
    again = f"ansible-playbook dbops.fleet.failover -e fleet_cluster={cluster}"
    return (
        f"Power {primary} ({address}) off at its console, its management board or its hypervisor, and see it off.",
        "Or log in there and run: systemctl mask --runtime --now 'postgresql@*.service'; "
        "then check that `ss -ltn 'sport = :5432'` prints no listener.",
        f"Then run again, naming the host that you saw off: {again} -e fleet_failover_operator_fenced={primary}",
        f"Only if lost and diverging writes are acceptable: {again} -e fleet_failover_without_fence={cluster}",
    )


def command_says_off(output: str, pattern: str) -> bool:
    """Whether the state command's output means "off".

    Args:
        output: what `fencing_power_state_command` printed.
        pattern: text that has to be in it, compared without case, such as "is off" or "shut off". It is plain text,
            not a regular expression: "off" alone would also be found in "offline maintenance: no".
    """
    return bool(pattern.strip()) and pattern.strip().lower() in output.lower()


@dataclass(frozen=True)
class PoolerCut(Record):
    """One pooler, looked at after it was told to let nobody through to the old primary.

    Attributes:
        paused: every database entry that points to the old primary is paused, at every process.
        servers: server connections of these that a client works on.
        error: why it could not be looked at.
    """

    pooler: str
    paused: bool = False
    servers: int | None = None
    error: str | None = None

    @property
    def cut(self) -> bool:
        """Whether nothing goes through this pooler to the old primary any more."""
        return self.error is None and self.paused and self.servers == 0


def cut_of(pooler: str, processes: Iterable[Mapping[str, Any]], addresses: Collection[str]) -> PoolerCut:
    """What the processes of a pooler say about the way to the old primary.

    Args:
        pooler: inventory name.
        processes: `endpoints` of `pgbouncer_pool_info`.
        addresses: of the old primary, in every form that an entry may have it. An entry without a host is PostgreSQL on
            the pooler's own host, which may be the same one.
    """
    paused, servers = True, 0
    for process in processes:
        if process["error"] is not None:
            return PoolerCut(pooler, error=process["error"])
        there = {
            name
            for name, entry in process["databases"].items()
            if name != "pgbouncer" and (entry["host"] is None or set(entry["host"].split(",")) & set(addresses))
        }
        paused &= process["globally_paused"] or all(process["databases"][name]["paused"] for name in there)
        servers += sum(pool["sv_active"] for pool in process["pools"] if pool["database"] in there)
    return PoolerCut(pooler, paused=paused, servers=servers)


def pooler_cut(declared_only_way_in: bool, poolers: Iterable[PoolerCut]) -> Rung:
    """Judge the cut at the poolers. It is a fence only where the firewall lets nobody else in.

    Args:
        declared_only_way_in: the operator's word (`fencing_poolers_are_the_only_way_in`); it cannot be read from here.
        poolers: all poolers of the cluster.
    """
    poolers = tuple(poolers)
    if not declared_only_way_in:
        return Rung("pooler_cut", NOT_APPLICABLE, ("the poolers are not declared to be the only way in",))
    if not poolers:
        return Rung("pooler_cut", NOT_APPLICABLE, ("the cluster has no poolers",))
    evidence = tuple(_cut_text(pooler) for pooler in poolers)
    status = CONFIRMED if all(pooler.cut for pooler in poolers) else UNCONFIRMED
    return Rung("pooler_cut", status, evidence, ("sessions on the old primary's host itself",))


def _cut_text(pooler: PoolerCut) -> str:
    if pooler.error:
        return f"{pooler.pooler}: could not be looked at: {pooler.error}"
    if not pooler.paused:
        return f"{pooler.pooler}: not paused"
    if pooler.servers is None:
        return f"{pooler.pooler}: paused, clients at work on the old primary unknown"
    return f"{pooler.pooler}: paused, {pooler.servers} clients at work on the old primary"


def quorum(
    rule: SyncRule | None,
    synchronous_commit: str | None,
    disconnected: Mapping[str, bool],
) -> Rung:
    """Judge the fence of a synchronous cluster: too few standbys are left to confirm a commit of the old primary.

    Args:
        rule: the old primary's last known synchronous_standby_names; None where it is not known.
        synchronous_commit: its last known default; None where it is not known.
        disconnected: per listed standby, whether its walreceiver was switched off and seen gone, with the setting
            that would restart it removed. A standby that is not in it may still confirm.
    """
    if rule is None:
        return Rung("quorum", NOT_APPLICABLE, ("the old primary's synchronous_standby_names are not known",))
    if not rule.is_synchronous:
        return Rung("quorum", NOT_APPLICABLE, ("the cluster is asynchronous",))
    if rule.names_everyone:
        return Rung("quorum", NOT_APPLICABLE, ("synchronous_standby_names has a *: anybody may confirm",))
    if synchronous_commit not in ("on", "remote_write", "remote_apply"):
        found = f"synchronous_commit is {synchronous_commit or 'not known'}"
        return Rung("quorum", NOT_APPLICABLE, (f"{found}: commits may be acknowledged without a standby",))
    off = {name.lower() for name, gone in disconnected.items() if gone}
    left = [name for name in rule.names if name.lower() not in off]
    evidence = (
        f"{rule.required} confirmations are needed ({rule})",
        f"seen disconnected: {', '.join(sorted(off)) or 'none'}",
        f"could still confirm: {', '.join(left) or 'none'}",
    )
    if len(left) >= rule.required:
        return Rung("quorum", UNCONFIRMED, evidence)
    return Rung("quorum", CONFIRMED, evidence, _QUORUM_REMAINS)


_QUORUM_REMAINS = (
    "reads of old rows on the old primary",
    "commits of sessions that set synchronous_commit to off or local themselves",
    "commits whose wait was cancelled by the client: they are warned, and the row is only on the old primary",
)

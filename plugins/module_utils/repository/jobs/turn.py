# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose turn a job is. The timer runs on every member; one of them does the work, whoever is primary by now.

Decides only: from what this server is, what the repository says was done already, and nothing else. So no member has to
know the others, and a switchover needs no change anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

PRIMARY = "primary"
REPLICA = "replica"
MEMBERS = (PRIMARY, REPLICA)
HOUR_SECONDS = 3600.0


@dataclass(frozen=True)
class Here:
    """What this server is.

    Attributes:
        in_recovery: it is a standby.
        connected: a standby: it receives WAL from somebody.
        standbys: a primary: standbys that stream from it, other than passing copies.
    """

    in_recovery: bool
    connected: bool = False
    standbys: int = 0


@dataclass(frozen=True)
class Done:
    """What the repository says.

    Attributes:
        newest: when the newest job of this kind began, or ended where only that is known; None when there was none.
        running: since when another one is running; None when none is.
    """

    newest: float | None = None
    running: float | None = None


@dataclass(frozen=True)
class Rule:
    """Who does it, and how often.

    Attributes:
        member: `primary`, or `replica`: a connected standby, and the primary where there is none.
        apart_seconds: nobody does it again so soon after the newest one.
        overdue_seconds: the primary does it although it has standbys when the newest one is older; None for never.
    """

    member: str = PRIMARY
    apart_seconds: float = 0
    overdue_seconds: float | None = None


@dataclass(frozen=True)
class Turn:
    """The answer, with its reason as a sentence without a full stop."""

    here: bool
    reason: str


def decide(rule: Rule, here: Here, done: Done, now: float) -> Turn:
    """Whether this server does the job now.

    Args:
        rule: of the job.
        here: this server.
        done: by anybody.
        now: seconds since the epoch.
    """
    if done.running is not None:
        return Turn(False, f"another one is running since {_ago(now - done.running)}")
    age = None if done.newest is None else now - done.newest
    if age is not None and age < rule.apart_seconds:
        return Turn(False, f"it was done {_ago(age)} ago, and not again within {_ago(rule.apart_seconds)}")
    if rule.member == PRIMARY:
        if here.in_recovery:
            return Turn(False, "this is a standby; the primary does it")
        return Turn(True, "this is the primary")
    if here.in_recovery:
        if not here.connected:
            return Turn(False, "this standby is connected to nobody, so its data may be old")
        return Turn(True, "this is a standby that is connected")
    if not here.standbys:
        return Turn(True, "this is the primary, and no standby is connected to it")
    if rule.overdue_seconds is not None and (age is None or age > rule.overdue_seconds):
        last = "was never done" if age is None else f"was last done {_ago(age)} ago"
        return Turn(True, f"this is the primary, and it {last} although there are standbys")
    return Turn(False, f"{here.standbys} standby(s) are connected; one of them does it")


def _ago(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * HOUR_SECONDS:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / HOUR_SECONDS:.0f} h"

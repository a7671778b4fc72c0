# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Not failing over in a loop: what brought one primary down may bring the next one down, until none is left."""

from __future__ import annotations

from collections.abc import Iterable

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused

DEFAULT_SECONDS = 3600


def refuse_within_cooldown(
    cluster: str,
    previous: Iterable[float],
    now: float,
    *,
    cooldown_seconds: float = DEFAULT_SECONDS,
    overridden_for: str | None = None,
) -> None:
    """Refuse when the cluster failed over a short while ago.

    Args:
        cluster: the cluster's name.
        previous: ends of earlier failovers that promoted somebody, as any member recorded them, in seconds since 1970.
        now: the same clock, from the controller: members' clocks may differ.
        cooldown_seconds: 0 switches the guard off.
        overridden_for: the cluster that the operator named in `fleet_failover_ignore_cooldown`.

    Raises:
        Refused: too early.
    """
    latest = max(previous, default=None)
    if latest is None or cooldown_seconds <= 0 or overridden_for == cluster:
        return
    # A record from the future (a clock that was set back) counts as just now.
    age = max(0.0, now - latest)
    if age < cooldown_seconds:
        raise Refused(
            f"cluster {cluster} failed over {age / 60:.0f} minutes ago, less than the cool-down of "
            f"{cooldown_seconds / 60:.0f} minutes",
            remedy="Find out first why the primary is gone again: the new one may go the same way. To go on at once, "
            f"add -e fleet_failover_ignore_cooldown={cluster}.",
            code="cooldown",
            seconds_left=round(cooldown_seconds - age),
        )

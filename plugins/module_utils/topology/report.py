# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports: a cluster and a plan as lines of text for people. Machines take the records' own `to_dict`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ansible_collections.dbops.fleet.plugins.module_utils.topology.judge import ClusterView, MemberView, byte_text
from ansible_collections.dbops.fleet.plugins.module_utils.topology.plan import Action

_HEADINGS = ("member", "role", "state", "timeline", "LSN", "lag", "lag s", "upstream", "sync", "slots")


def cluster_report(cluster: str, view: ClusterView) -> list[str]:
    """A table of the members and, below, what is wrong."""
    state = "healthy" if view.healthy else "NOT HEALTHY"
    title = f"{cluster}: {state}, primary {view.primary or 'none'}, timeline {view.timeline or '-'}"
    rows = [_row(member) for member in view.members]
    return [title, *table(_HEADINGS, rows), *(f"  {problem}" for problem in view.problems)]


def plan_report(cluster: str, plan: Mapping[str, Action]) -> list[str]:
    """A line per member: action and reason, and the remedy of a refusal."""
    rows = [(name, action.action, action.reason) for name, action in plan.items()]
    remedies = dict.fromkeys(action.remedy for action in plan.values() if action.remedy)
    return [f"{cluster}:", *table(("member", "action", "because"), rows), *(f"  {remedy}" for remedy in remedies)]


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns, indented by two spaces."""
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (headings, *rows)
    ]


def _row(member: MemberView) -> tuple[str, ...]:
    lsn = member.current_lsn if member.role == "primary" else member.replay_lsn
    upstream = member.upstream or ("-" if member.role != "replica" else "NOBODY")
    lag = "-" if member.lag_bytes is None else byte_text(member.lag_bytes)
    seconds = "-" if member.lag_seconds is None else f"{member.lag_seconds:.1f}"
    if member.apply_delay_seconds:
        seconds += f" (delay {member.apply_delay_seconds:.0f})"
    return (
        member.name,
        member.role or "-",
        member.state,
        str(member.timeline or "-"),
        str(lsn) if lsn is not None else "-",
        lag,
        seconds,
        upstream if member.streaming or upstream in ("-", "NOBODY") else f"{upstream} (not streaming)",
        member.sync_state or "-",
        ",".join(slot.name for slot in member.slots) or "-",
    )

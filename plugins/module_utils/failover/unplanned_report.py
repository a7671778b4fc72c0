# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of an unplanned failover as text: every check with its result, the candidate and why, what comes next."""

from __future__ import annotations

from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_plan import FailoverPlan


def report(cluster: str, plan: FailoverPlan) -> list[str]:
    """The lines to print."""
    lines = [f"Failover of cluster {cluster}: {_headline(plan)}"]
    if plan.confirmation:
        lines.append(f"Is {plan.primary} gone? {plan.confirmation.verdict}: {plan.confirmation.reason}")
        lines += [f"  [{'ok' if check.ok else 'NO'}] {check.name}: {check.found}" for check in plan.confirmation.checks]
    if plan.election:
        lines.append(f"Candidate: {plan.election.candidate}")
        lines += [f"  {name}: {why}" for name, why in plan.election.ranking]
        lines += [f"  quorum: {plan.election.quorum}", f"  loss: {plan.election.loss.text}"]
        lines += [f"  by your consent: {reason}" for reason in plan.election.consented]
    if plan.steps and plan.action != "refuse":
        lines.append("Steps:")
        lines += [f"  {number}. {step}" for number, step in enumerate(plan.steps, 1)]
    for refusal in plan.refusals:
        lines.append(f"REFUSED ({refusal.code}): {refusal.message}.")
        if refusal.remedy:
            lines.append(f"  What to do: {refusal.remedy}")
    return lines


def _headline(plan: FailoverPlan) -> str:
    return {
        "refuse": "refused, nothing was changed",
        "restart": f"PostgreSQL on {plan.primary} is started again instead ({plan.reason})",
        "put_back": f"{plan.reason}; that is put back",
        "finish": f"{plan.reason}; the rest is finished",
        "fail_over": f"from {plan.primary} to {plan.worker}",
    }[plan.action]

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether rules of pg_hba.conf let a session in: every kind of rule, and what cannot be told from outside."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.hba import Login, lets_in

APP = Login("orders", "orders_app", "10.0.0.7", ssl=True)


def rule(**changes: Any) -> dict[str, Any]:
    """A rule that lets everybody of the network in."""
    return {
        "type": "hostssl",
        "database": ["orders"],
        "user_name": ["all"],
        "address": "10.0.0.0",
        "netmask": "255.255.255.0",
        "auth_method": "scram-sha-256",
        **changes,
    }


def test_a_rule_that_fits_lets_in_and_no_rule_does_not() -> None:
    assert lets_in([rule()], APP) is True
    assert lets_in([], APP) is False


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "local"},
        {"type": "hostnossl"},
        {"type": "hostgssenc"},
        {"database": ["replication"]},
        {"database": ["sameuser"]},
        {"user_name": ["orders_read"]},
        {"address": "10.0.1.0"},
        {"address": "10.0.0.8", "netmask": "255.255.255.255"},
        {"address": "fd00::", "netmask": "ffff::"},
    ],
    ids=str,
)
def test_what_does_not_fit_is_passed_over(changes: dict[str, Any]) -> None:
    assert lets_in([rule(**changes)], APP) is False
    assert lets_in([rule(**changes, auth_method="reject"), rule()] if "auth_method" not in changes else [], APP) is True


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "host"},
        {"type": "hostnogssenc"},
        {"database": ["all"]},
        {"database": ["stock", "orders"]},
        {"user_name": ["orders_app"]},
        {"address": "all", "netmask": None},
        {"address": "10.0.0.7", "netmask": "255.255.255.255"},
        {"user_name": ["+clerks", "orders_app"]},
    ],
    ids=str,
)
def test_the_first_rule_that_fits_decides(changes: dict[str, Any]) -> None:
    assert lets_in([rule(**changes), rule(auth_method="reject")], APP) is True
    assert lets_in([rule(**changes, auth_method="reject"), rule()], APP) is False


@pytest.mark.parametrize(
    "changes",
    [
        {"user_name": ["+clerks"]},
        {"user_name": ["/^orders"]},
        {"database": ["samerole"]},
        {"address": "app1.example.org", "netmask": None},
        {"address": "samenet", "netmask": None},
    ],
    ids=str,
)
def test_what_cannot_be_told_is_not_guessed(changes: dict[str, Any]) -> None:
    assert lets_in([rule(**changes), rule()], APP) is None
    # Unless another part of the rule rules it out.
    assert lets_in([rule(**{**changes, "type": "local"}), rule()], APP) is True


def test_addresses_of_both_families_are_understood() -> None:
    v6 = Login("orders", "orders_app", "fd00::7", ssl=True)
    assert lets_in([rule(address="fd00::", netmask="ffff:ffff::")], v6) is True
    assert lets_in([rule()], v6) is False


def test_a_session_without_tls_needs_a_rule_for_it() -> None:
    plain = Login("orders", "orders_app", "10.0.0.7", ssl=False)
    assert lets_in([rule()], plain) is False
    assert lets_in([rule(type="hostnossl")], plain) is True
    assert "without TLS" in str(plain)

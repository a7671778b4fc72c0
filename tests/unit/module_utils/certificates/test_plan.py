# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which certificates are made, and for which names."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.certificates.plan import Found, alternative_names, why_due

NOW = datetime(2026, 3, 1, tzinfo=UTC)
NAMES = ("DNS:pg1", "IP:192.0.2.11")
RIGHT = Found(frozenset(NAMES), NOW + timedelta(days=400), of_the_ca=True, has_key=True)


@pytest.mark.parametrize(
    ("name", "address", "expected"),
    [
        ("pg1", "192.0.2.11", ("DNS:pg1", "IP:192.0.2.11")),
        ("pg1", "pg1.example.org", ("DNS:pg1", "DNS:pg1.example.org")),
        ("pg1", "pg1", ("DNS:pg1",)),
        # Hexadecimal digits alone are no address.
        ("db1", "cafe", ("DNS:db1", "DNS:cafe")),
        ("pg1", "FD00:0:0::11", ("DNS:pg1", "IP:fd00::11")),
        ("192.0.2.11", "192.0.2.11", ("IP:192.0.2.11",)),
    ],
)
def test_a_host_is_called_by_its_name_and_its_address(name: str, address: str, expected: tuple[str, ...]) -> None:
    assert alternative_names(name, address) == expected


def test_what_is_right_stays() -> None:
    assert why_due(RIGHT, NAMES, NOW, 30) is None


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (None, "it has none"),
        (replace(RIGHT, has_key=False), "its private key is missing"),
        (replace(RIGHT, of_the_ca=False), "it was signed by another CA"),
        (replace(RIGHT, names=frozenset(["DNS:pg1"])), "it is for DNS:pg1, the host is DNS:pg1, IP:192.0.2.11"),
        (replace(RIGHT, not_after=NOW + timedelta(days=29)), "it ends on 2026-03-30"),
        (replace(RIGHT, not_after=NOW - timedelta(days=1)), "it ends on 2026-02-28"),
    ],
)
def test_says_why_a_certificate_is_made(found: Found | None, reason: str) -> None:
    assert why_due(found, NAMES, NOW, 30) == reason

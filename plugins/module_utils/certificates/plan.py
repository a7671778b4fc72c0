# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decides which hosts need a certificate of the fleet's CA, and for which names."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Found:
    """A host's certificate as it is on the controller.

    Attributes:
        names: its alternative names, as `alternative_names` writes them.
        not_after: its end, with a time zone.
        of_the_ca: whether the CA that is there has signed it.
        has_key: whether its private key is beside it.
    """

    names: frozenset[str]
    not_after: datetime
    of_the_ca: bool
    has_key: bool


def alternative_names(name: str, address: str) -> tuple[str, ...]:
    """What a client may call a host: "DNS:NAME" or "IP:ADDRESS", addresses in their shortest form, each once.

    Args:
        name: the host's name in the inventory.
        address: where the others reach it: a name, or an IPv4 or IPv6 address.
    """
    return tuple(dict.fromkeys(_alternative_name(text) for text in (name, address)))


def _alternative_name(text: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(text)}"
    except ValueError:
        return f"DNS:{text}"


def why_due(found: Found | None, names: tuple[str, ...], now: datetime, renew_days: int) -> str | None:
    """Why a host's certificate has to be made; None where it is right."""
    if found is None:
        return "it has none"
    if not found.has_key:
        return "its private key is missing"
    if not found.of_the_ca:
        return "it was signed by another CA"
    if found.names != frozenset(names):
        return f"it is for {', '.join(sorted(found.names)) or 'no name'}, the host is {', '.join(names)}"
    if found.not_after - now < timedelta(days=renew_days):
        return f"it ends on {found.not_after:%Y-%m-%d}"
    return None

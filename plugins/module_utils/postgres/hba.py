# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server's pg_hba.conf says of a log-in: the first rule that matches decides (PostgreSQL documentation, section
"The pg_hba.conf File").
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Login:
    """A client's session over TCP.

    Attributes:
        database, user: names.
        address: the client's, as text.
        ssl: whether it is encrypted by TLS.
    """

    database: str
    user: str
    address: str
    ssl: bool

    def __str__(self) -> str:
        return f"{self.user} to {self.database} from {self.address}{'' if self.ssl else ' without TLS'}"


def lets_in(rules: Iterable[Mapping[str, Any]], login: Login) -> bool | None:
    """Whether a server with these rules takes the log-in, its password aside.

    Args:
        rules: rows of ``pg_hba_file_rules`` without errors, in the order of the file.
        login: who comes.

    Returns:
        None where that cannot be told from here: a rule before the first that certainly matches may match, as it names
        a group, a host name, the server's own networks, or a regular expression.
    """
    for rule in rules:
        matches = _matches(rule, login)
        if matches is None:
            return None
        if matches:
            return bool(rule["auth_method"] != "reject")
    return False


def _matches(rule: Mapping[str, Any], login: Login) -> bool | None:
    parts = (
        _connection(rule["type"], login),
        _name(rule["database"], login.database, special={"sameuser": login.database == login.user}),
        _name(rule["user_name"], login.user, special={}),
        _address(rule["address"], rule["netmask"], login),
    )
    if False in parts:
        return False
    return None if None in parts else True


def _connection(kind: str, login: Login) -> bool:
    wanted = {"host": True, "hostssl": login.ssl, "hostnossl": not login.ssl, "hostnogssenc": True}
    return wanted.get(kind, False)


def _name(names: Iterable[str], wanted: str, special: Mapping[str, bool]) -> bool | None:
    unknown = False
    for name in names:
        if name == "all" or name == wanted or special.get(name, False):
            return True
        unknown = unknown or name in ("samerole", "samegroup") or name.startswith(("+", "/"))
    return None if unknown else False


def _address(address: str | None, netmask: str | None, login: Login) -> bool | None:
    if address == "all":
        return True
    try:
        bits = int(ipaddress.ip_address(netmask or "")).bit_count()
        network = ipaddress.ip_network(f"{address}/{bits}", strict=False)
        return ipaddress.ip_address(login.address) in network
    except ValueError:
        # A host name, samehost or samenet.
        return None

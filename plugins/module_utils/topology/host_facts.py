# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Texts of a Linux host, read: memory, processors, release, packages, addresses. `host.py` opens the files."""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Iterable

# Debian release -> the PostgreSQL that it ships.
SHIPPED_POSTGRESQL = {"12": 15, "13": 17}


def memory_mb(meminfo: str, limits: Iterable[str] = ()) -> int:
    """MiB of memory: /proc/meminfo's, or less if a control group's limit (in bytes, or "max") says so."""
    match = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.MULTILINE)
    if match is None:
        raise ValueError("MemTotal is not in /proc/meminfo")
    found = [int(match[1]) * 1024, *(int(limit) for limit in limits if limit.strip().isdigit())]
    return min(found) // (1024 * 1024)


def os_release(text: str) -> dict[str, str]:
    """`distribution`, `distribution_version`, `distribution_major_version`, `codename` from /etc/os-release."""
    values = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            values[name.strip()] = " ".join(shlex.split(value))
    version = values.get("VERSION_ID", "")
    return {
        "distribution": values.get("ID", "unknown").capitalize(),
        "distribution_version": version,
        "distribution_major_version": version.split(".")[0],
        "codename": values.get("VERSION_CODENAME", ""),
    }


def installed_packages(status: str, wanted: Iterable[str]) -> dict[str, str]:
    """Package -> version for those of the wanted that are installed, from /var/lib/dpkg/status."""
    found = {}
    for name in wanted:
        # A stanza is "Package: x\nStatus: install ok installed\n...\nVersion: y". Searching beats reading all of them.
        for match in re.finditer(rf"^Package: {re.escape(name)}\n(.*?)(?:\n\n|\Z)", status, re.MULTILINE | re.DOTALL):
            stanza = match[1]
            version = re.search(r"^Version: (\S+)", stanza, re.MULTILINE)
            if re.search(r"^Status: \S+ \S+ installed$", stanza, re.MULTILINE) and version:
                found[name] = version[1]
    return found


def ipv4_addresses(fib_trie: str) -> list[str]:
    """The host's own addresses from /proc/net/fib_trie, without loopback."""
    found: dict[str, None] = {}
    last = ""
    for line in fib_trie.splitlines():
        match = re.search(r"\|-- (\S+)", line)
        if match:
            last = match[1]
        elif "/32 host LOCAL" in line and not last.startswith("127."):
            found[last] = None
    return list(found)


def ipv6_addresses(if_inet6: str) -> list[str]:
    """The host's own global addresses from /proc/net/if_inet6."""
    found = []
    for line in if_inet6.splitlines():
        words = line.split()
        # Address, interface number, prefix length, scope (00 is global), flags, interface.
        if len(words) == 6 and words[3] == "00":
            found.append(str(ipaddress.IPv6Address(int(words[0], 16))))
    return found

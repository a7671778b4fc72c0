# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The private network of a set: a bridge, one cable per host, a way out for apt, and cuts.

Plain `ip` and `nft`, no container network: nothing is leased or remembered, so nothing can be left over that matters.
Cuts are made on the bridge, outside of the hosts, by cable: a host cannot undo one, whatever runs in it.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from collections.abc import Iterable
from pathlib import Path

from fleet_hosts import machine
from fleet_hosts.catalogue import CONTROLLER, Addresses, HostsError, HostSpec
from fleet_hosts.shell import run

# The bridge drops a frame when its pair of cables is in `cut`, or one of them in `alone`; nobody gets a RST or an ICMP
# error. Frames to and from the machine itself pass the hooks input and output instead of forward.
_RULES = """
table bridge {table} {{
    set cut {{ type ifname . ifname; }}
    set no_controller {{ type ifname; }}
    set alone {{ type ifname; }}
    chain forward {{
        type filter hook forward priority 0; policy accept;
        iifname . oifname @cut drop
        iifname @alone drop
        oifname @alone drop
    }}
    chain input {{
        type filter hook input priority 0; policy accept;
        iifname @alone drop
        iifname @no_controller drop
    }}
    chain output {{
        type filter hook output priority 0; policy accept;
        oifname @alone drop
        oifname @no_controller drop
    }}
}}
table ip {table} {{
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {subnet} ip daddr != {subnet} masquerade
    }}
}}
"""


def ensure_network(addresses: Addresses) -> None:
    """The set's bridge with the machine's address on it, forwarding, and the tables. Quick when all is there."""
    bridge = addresses.bridge
    if bridge not in _links():
        _refuse_foreign_subnet(addresses)
        # A MAC address of its own: otherwise it would be that of a cable, and change under the hosts' caches.
        run(["ip", "link", "add", bridge, "address", addresses.bridge_mac, "type", "bridge"])
    run(["ip", "address", "replace", f"{addresses.gateway}/24", "dev", bridge])
    run(["ip", "link", "set", bridge, "up"])
    machine.switch_forwarding_on()
    machine.allow_many_hosts()
    if run(["nft", "list", "table", "bridge", addresses.table], check=False).returncode != 0:
        run(["nft", "delete", "table", "ip", addresses.table], check=False)
        run(["nft", "--file", "-"], text_in=_RULES.format(table=addresses.table, subnet=addresses.subnet))


def remove_network(addresses: Addresses) -> None:
    """Take the bridge and the tables away, as far as they are there."""
    run(["ip", "link", "delete", addresses.bridge], check=False)
    for family in ("bridge", "ip"):
        run(["nft", "delete", "table", family, addresses.table], check=False)


def plug_in(addresses: Addresses, spec: HostSpec) -> Path:
    """Make the host's network namespace with address and route, joined to the bridge. Returns the namespace's path."""
    link = addresses.link(spec)
    unplug(addresses, spec)
    run(["ip", "netns", "add", link])
    run(
        ["ip", "-batch", "-"],
        text_in=f"link add {link} type veth peer name eth0 address {addresses.mac(spec)} netns {link}\n"
        f"link set {link} master {addresses.bridge} up\n",
    )
    run(
        ["ip", "-netns", link, "-batch", "-"],
        text_in=f"address add {addresses.of(spec)}/24 dev eth0\nlink set lo up\nlink set eth0 up\n"
        f"route add default via {addresses.gateway}\n",
    )
    # Anybody may ping, as systemd's sysctl.d has it on every Debian host.
    run(["ip", "netns", "exec", link, "sh", "-c", "echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range"])
    return Path("/run/netns") / link


def silence(addresses: Addresses, spec: HostSpec) -> None:
    """Take the cable down at the machine's end: from this moment nobody hears anything of the host, not even a FIN."""
    run(["ip", "link", "set", addresses.link(spec), "down"], check=False)


def unplug(addresses: Addresses, spec: HostSpec) -> None:
    """Take namespace and cable away, as far as they are there. Cuts stay."""
    link = addresses.link(spec)
    run(["ip", "link", "delete", link], check=False)
    run(["ip", "netns", "delete", link], check=False)


def cut(addresses: Addresses, spec: HostSpec, peers: Iterable[HostSpec | str]) -> None:
    """Drop everything in both directions between the host and each peer: a host, "controller" or "all"."""
    link = addresses.link(spec)
    commands = []
    for peer in peers:
        if peer == "all":
            commands.append(_element("add", addresses, "alone", link))
        elif peer == CONTROLLER:
            commands.append(_element("add", addresses, "no_controller", link))
        elif isinstance(peer, HostSpec) and peer != spec:
            other = addresses.link(peer)
            commands.append(_element("add", addresses, "cut", f"{link} . {other}"))
            commands.append(_element("add", addresses, "cut", f"{other} . {link}"))
        else:
            raise HostsError(f"{spec.name} cannot be cut from {peer if isinstance(peer, str) else peer.name}")
    run(["nft", "--file", "-"], text_in="".join(commands))


def heal(addresses: Addresses, spec: HostSpec | None) -> None:
    """Undo every cut that involves the host, or every cut of the set (None)."""
    link = None if spec is None else addresses.link(spec)
    commands = []
    for name, elements in _cut_elements(addresses).items():
        for element in elements:
            if link is None or link in element:
                commands.append(_element("delete", addresses, name, " . ".join(element)))
    run(["nft", "--file", "-"], text_in="".join(commands))


def cuts(addresses: Addresses, specs: Iterable[HostSpec]) -> dict[str, list[str]]:
    """What each host is cut from, by name: peers, "controller", "all". Hosts without a cut do not appear."""
    name_of = {addresses.link(spec): spec.name for spec in specs}
    found: dict[str, list[str]] = {}
    for name, elements in _cut_elements(addresses).items():
        for first, *second in elements:
            if first in name_of:
                peer = {"alone": "all", "no_controller": CONTROLLER}.get(name) or name_of.get(second[0], second[0])
                found.setdefault(name_of[first], []).append(peer)
    return found


def _element(verb: str, addresses: Addresses, name: str, element: str) -> str:
    quoted = " . ".join(f'"{part}"' for part in element.split(" . "))
    return f"{verb} element bridge {addresses.table} {name} {{ {quoted} }}\n"


def _cut_elements(addresses: Addresses) -> dict[str, list[tuple[str, ...]]]:
    """Elements of the three sets as tuples of cable names; empty without a table."""
    listing = run(["nft", "--json", "list", "table", "bridge", addresses.table], check=False)
    if listing.returncode != 0:
        return {}
    elements: dict[str, list[tuple[str, ...]]] = {}
    for item in json.loads(listing.stdout)["nftables"]:
        if "set" in item:
            elements[item["set"]["name"]] = [
                (entry,) if isinstance(entry, str) else tuple(entry["concat"]) for entry in item["set"].get("elem", [])
            ]
    return elements


def numbers_in_use() -> set[int]:
    """Numbers of the bridges on the machine, whoever made them: a container in the same network keeps other records."""
    return {int(link.removeprefix("fleet")) for link in _links() if re.fullmatch("fleet[0-9]+", link)}


def _links() -> list[str]:
    return [link for _index, link in socket.if_nameindex()]


def _refuse_foreign_subnet(addresses: Addresses) -> None:
    ours = ipaddress.ip_network(addresses.subnet)
    for route in json.loads(run(["ip", "-json", "-4", "route"]).stdout):
        if route["dst"] != "default" and ours.overlaps(ipaddress.ip_network(route["dst"], strict=False)):
            raise HostsError(
                f"this machine already reaches {route['dst']} through {route.get('dev')}, and the test hosts' network "
                f"would be {addresses.subnet}. Take that route away or use another set (FLEET_HOSTS_SET=name)"
            )

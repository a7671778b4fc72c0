# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""hosts.toml and what follows from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet_hosts import fleet
from fleet_hosts.catalogue import Addresses, HostsError, etc_hosts, load_catalogue
from fleet_hosts.images import sources_from_indextargets
from fleet_hosts.inventory import inventory_yaml

_MINIMAL = """
default = ["a"]
[machine]
disk_gb = 1
memory_mb = 1
shm_mb = 1
[debian]
13 = "trixie"
[packages]
bare = ["systemd"]
baked = ["postgresql"]
[hosts]
"""


def test_the_shipped_catalogue_holds_together() -> None:
    catalogue = load_catalogue()
    assert [spec.name for spec in catalogue.select(catalogue.default)] == list(catalogue.default)
    assert {spec.kind for spec in catalogue.hosts.values()} <= set(catalogue.packages)


def test_baked_contains_bare() -> None:
    catalogue = load_catalogue()
    for number in catalogue.suites:
        assert set(catalogue.image(number, "bare").packages) < set(catalogue.image(number, "baked").packages)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("UPPER = { debian = 13, address = 2 }", "cannot be a host name"),
        ("all = { debian = 13, address = 2 }", "cannot be a host name"),
        ("a-name-far-too-long = { debian = 13, address = 2 }", "cannot be a host name"),
        ("a = { debian = 11, address = 2 }", "Debian 11"),
        ("a = { debian = 13, address = 1 }", "address from 2 to 254"),
        ("a = { debian = 13, address = 2 }\nb = { debian = 13, address = 2 }", "address from 2 to 254"),
        ("a = { debian = 13, address = 2, image = 'raw' }", "image 'raw'"),
    ],
)
def test_refuses_a_catalogue_that_contradicts_itself(line: str, complaint: str) -> None:
    with pytest.raises(HostsError, match=complaint):
        load_catalogue(_MINIMAL + line)


def test_an_unknown_host_is_refused_by_name() -> None:
    with pytest.raises(HostsError, match="unknown host pg99"):
        load_catalogue().select(["pg1", "pg99"])


def test_sets_share_no_address_and_no_name() -> None:
    catalogue = load_catalogue()
    seen: set[str] = set()
    for number in (0, 1, 99):
        addresses = Addresses(number)
        of_set = {addresses.bridge, addresses.bridge_mac, addresses.gateway, addresses.table, addresses.subnet}
        for spec in catalogue.hosts.values():
            of_set |= {addresses.of(spec), addresses.mac(spec), addresses.link(spec)}
            assert len(addresses.link(spec)) <= 15
        assert not seen & of_set
        seen |= of_set


def test_every_host_knows_every_other_by_name() -> None:
    catalogue = load_catalogue()
    text = etc_hosts(catalogue, Addresses(3), "pg1")
    for name, spec in catalogue.hosts.items():
        assert f"10.87.3.{spec.octet} {name}\n" in text


def test_an_image_is_named_after_its_packages_and_recipe() -> None:
    image = load_catalogue().image(13, "bare")
    assert image.directory_name("one recipe") != image.directory_name("another recipe")
    assert image.directory_name("one recipe") != load_catalogue().image(13, "baked").directory_name("one recipe")


_MIRRORS = """Debian|Debian|http://mirror.example/debian/|bookworm-updates
Debian|Debian|http://mirror.example/debian/|bookworm
Debian|Debian-Security|http://mirror.example/security/|bookworm-security
Node|Node|https://node.example/|nodistro"""


def test_apt_sources_come_from_the_machine() -> None:
    assert sources_from_indextargets(_MIRRORS, "trixie") == [
        "deb http://mirror.example/debian/ trixie main",
        "deb http://mirror.example/debian/ trixie-updates main",
        "deb http://mirror.example/security/ trixie-security main",
    ]


def test_a_machine_without_security_mirror_still_makes_hosts() -> None:
    assert len(sources_from_indextargets("Debian|Debian|http://mirror.example/debian/|trixie", "bookworm")) == 2


def test_a_machine_without_debian_mirror_is_refused() -> None:
    with pytest.raises(HostsError, match="no Debian mirror"):
        sources_from_indextargets("Node|Node|https://node.example/|nodistro", "trixie")


def test_the_written_inventory_can_be_read() -> None:
    yaml = pytest.importorskip("yaml")
    catalogue = load_catalogue()
    text = inventory_yaml(catalogue.select(["pg1", "old1"]), Addresses(2), Path("/keys/id"), Path("/keys/known_hosts"))
    inventory = yaml.safe_load(text)["all"]
    addresses = {name: host["ansible_host"] for name, host in inventory["hosts"].items()}
    assert addresses == {"pg1": "10.87.2.11", "old1": "10.87.2.51"}
    assert inventory["hosts"]["pg1"]["ansible_user"] == "fleet"


def test_the_written_inventory_leaves_the_controller_alone() -> None:
    yaml = pytest.importorskip("yaml")
    text = inventory_yaml(load_catalogue().select(["pg1"]), Addresses(2), Path("/key"), Path("/known_hosts"))
    assert list(yaml.safe_load(text)["all"]) == ["hosts"]


def test_the_demo_inventory_names_the_addresses_of_the_default_set() -> None:
    yaml = pytest.importorskip("yaml")
    text = (Path(__file__).parents[2] / "inventories/demo/hosts.yml").read_text()
    addresses: dict[str, str] = {}
    for group in yaml.safe_load(text)["all"]["children"]["fleet"]["children"].values():
        for part in (group, *group.get("children", {}).values()):
            addresses.update({name: variables["ansible_host"] for name, variables in part.get("hosts", {}).items()})
    catalogue = load_catalogue()
    assert addresses == {name: Addresses(0).of(catalogue.hosts[name]) for name in addresses}


def test_a_bridge_that_is_there_keeps_its_number_from_other_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "SETS", tmp_path)
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "set.json").write_text('{"number": 2}')
    monkeypatch.setattr("socket.if_nameindex", lambda: [(1, "lo"), (2, "fleet1"), (3, "fleet-lan"), (4, "f3-pg1")])
    assert fleet._free_number("second") == 3
    assert fleet._free_number("main") == 0

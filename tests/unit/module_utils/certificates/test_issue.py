# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The CA and certificates on disk: used by a TLS library, made once, never thrown away."""

from __future__ import annotations

import shutil
import socket
import ssl
import stat
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.certificates.issue import fleet_certificates
from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome

HOSTS = {"pg1": "192.0.2.11", "db1": "fd00::11"}


def make(directory: Path, check_mode: bool = False, hosts: dict[str, str] = HOSTS, **options: Any) -> Outcome:
    wanted = [{"name": name, "address": address} for name, address in hosts.items()]
    params = {"directory": str(directory), "hosts": wanted, "ca_kept": False, "days": 825, "renew_days": 30}
    return fleet_certificates({**params, **options}, check_mode)


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def handshake(directory: Path, host: str, called: str) -> str:
    """What a client with the fleet's CA says of a host that it calls by a name or address."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(directory / "hosts" / host / "host.crt", directory / "hosts" / host / "host.key")
    client = ssl.create_default_context(cafile=str(directory / "ca" / "ca.crt"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client.wrap_socket(ours, server_hostname=called).close()
        return "verified"
    except ssl.SSLCertVerificationError as refusal:
        return refusal.verify_message
    finally:
        ours.close()
        thread.join()


def test_a_client_verifies_each_host_by_name_and_address_and_no_other(tmp_path: Path) -> None:
    assert make(tmp_path).result == {"ca_made": True, "made": dict.fromkeys(HOSTS, "it has none")}
    for host, address in HOSTS.items():
        assert handshake(tmp_path, host, host) == "verified"
        assert handshake(tmp_path, host, address) == "verified"
    assert "mismatch" in handshake(tmp_path, "pg1", "db1").lower()


def test_openssl_takes_the_chain_for_servers_and_for_clients(tmp_path: Path) -> None:
    make(tmp_path)
    for purpose in ("sslserver", "sslclient"):
        command = ["openssl", "verify", "-x509_strict", "-purpose", purpose]
        files = ["-CAfile", str(tmp_path / "ca/ca.crt"), str(tmp_path / "hosts/pg1/host.crt")]
        assert subprocess.run([*command, *files], check=False, capture_output=True).returncode == 0


def test_a_second_run_changes_nothing_and_a_new_host_touches_no_other(tmp_path: Path) -> None:
    make(tmp_path)
    before = contents(tmp_path)
    assert not make(tmp_path).changed
    assert contents(tmp_path) == before
    assert make(tmp_path, hosts={**HOSTS, "pg3": "192.0.2.13"}).result["made"] == {"pg3": "it has none"}
    assert {path: text for path, text in contents(tmp_path).items() if path in before} == before


def test_a_new_address_gets_a_new_certificate_for_the_same_key(tmp_path: Path) -> None:
    make(tmp_path)
    before = contents(tmp_path)
    assert list(make(tmp_path, hosts={"pg1": "192.0.2.99"}).result["made"]) == ["pg1"]
    changed = {path.name for path, text in contents(tmp_path).items() if before[path] != text}
    assert changed == {"host.crt"}
    assert handshake(tmp_path, "pg1", "192.0.2.99") == "verified"


def test_check_mode_tells_and_writes_nothing(tmp_path: Path) -> None:
    told = make(tmp_path, check_mode=True)
    assert told.changed
    assert told.result["ca_made"]
    assert "certificate of pg1, because it has none" in told.after
    assert not contents(tmp_path)
    assert make(tmp_path / "not" / "there", check_mode=True).changed


def test_private_keys_are_their_owners_alone(tmp_path: Path) -> None:
    make(tmp_path / "new")
    for key in tmp_path.rglob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    for directory in (tmp_path / "new", tmp_path / "new/ca", tmp_path / "new/hosts", tmp_path / "new/hosts/pg1"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_refuses_a_new_ca_for_hosts_that_trust_another(tmp_path: Path) -> None:
    make(tmp_path)
    shutil.rmtree(tmp_path / "ca")
    before = contents(tmp_path)
    with pytest.raises(Refused, match=r"There is no CA in .*fleet_secrets_directory"):
        make(tmp_path, ca_kept=True)
    assert contents(tmp_path) == before


def test_certificates_of_another_ca_are_made_anew(tmp_path: Path) -> None:
    make(tmp_path)
    shutil.rmtree(tmp_path / "ca")
    assert make(tmp_path).result["made"] == dict.fromkeys(HOSTS, "it was signed by another CA")
    assert handshake(tmp_path, "pg1", "pg1") == "verified"


def test_a_key_without_its_certificate_is_no_reason_for_a_new_ca(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "ca" / "ca.crt").unlink()
    with pytest.raises(FleetError, match=r"ca\.crt cannot be read"):
        make(tmp_path)


def test_the_key_of_the_ca_is_needed_only_when_something_is_signed(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "ca" / "ca.key").unlink()
    assert not make(tmp_path).changed
    with pytest.raises(FleetError, match=r"ca\.key cannot be read as a private key"):
        make(tmp_path, hosts={"pg3": "192.0.2.13"})


def test_a_name_that_no_certificate_can_have_is_told(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="dä1 cannot have a certificate"):
        make(tmp_path, hosts={"dä1": "192.0.2.13"})
    assert not contents(tmp_path)


def test_warns_of_a_ca_that_ends_before_what_it_signs(tmp_path: Path) -> None:
    (warning,) = make(tmp_path, days=8000).warnings
    assert "The fleet's CA ends on" in warning
    assert not make(tmp_path).warnings

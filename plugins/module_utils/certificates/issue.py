# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the fleet's CA and its hosts' certificates on the controller: the work of `fleet_certificates`."""

from __future__ import annotations

import grp
import ipaddress
import os
import pwd
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.certificates.plan import Found, alternative_names, why_due
from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.files.apply import manage
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError as error:
    _MISSING: ImportError | None = error
else:
    _MISSING = None

_CA_DAYS = 7300
# Clocks of hosts may be behind the controller's.
_BEFORE = timedelta(hours=1)


def fleet_certificates(params: Mapping[str, Any], check_mode: bool) -> Outcome:
    """Parameters and results as documented in the module.

    Raises:
        Refused: the CA is missing, and hosts have certificates of it.
        FleetError: a file cannot be read as what it should be, or the library is missing.
    """
    if _MISSING is not None:
        raise FleetError(
            f"Python cannot import cryptography: {_MISSING}", remedy="Install cryptography 42 or newer for this Python."
        )
    now = datetime.now(UTC)
    directory = Path(params["directory"])
    authority = _read_authority(directory / "ca")
    made_authority = authority is None
    if authority is None:
        if params["ca_kept"]:
            raise Refused(
                f"There is no CA in {directory}/ca, and the fleet has hosts with certificates. With a new CA nobody"
                " would trust these any more",
                remedy="Set fleet_secrets_directory to the directory that was used when they were set up, or bring it"
                " back from its backup. Hosts that had own certificates until now: -e fleet_secrets_ca_kept=false.",
            )
        authority = _make_authority(now)
    due: dict[str, str] = {}
    files = authority.files(directory / "ca") if made_authority else []
    for host in params["hosts"]:
        names = alternative_names(host["name"], host["address"])
        place = directory / "hosts" / host["name"]
        reason = why_due(_read_certificate(place, authority), names, now, params["renew_days"])
        if reason is not None:
            due[host["name"]] = reason
            files += _host_files(place, host["name"], names, authority, now, params["days"])
    if not check_mode:
        _write(directory, due, files)
    return Outcome(
        changed=bool(files),
        result={"ca_made": made_authority, "made": due},
        before="",
        after="".join(f"certificate of {name}, because {reason}\n" for name, reason in due.items()),
        warnings=_warnings(authority, now, params["days"]),
    )


@dataclass(frozen=True)
class _Authority:
    """The CA. Its key is looked at only when something is signed: it may be kept elsewhere until then."""

    certificate: x509.Certificate
    key: Callable[[], ec.EllipticCurvePrivateKey]

    def files(self, place: Path) -> list[dict[str, str]]:
        return [_secret(place / "ca.key", _key_text(self.key())), _public(place / "ca.crt", self.certificate)]


def _read_authority(place: Path) -> _Authority | None:
    """The CA, or None where there is none.

    Raises:
        FleetError: its certificate is missing beside its key, or is none.
    """
    key, certificate = place / "ca.key", place / "ca.crt"
    if not key.exists() and not certificate.exists():
        return None
    return _Authority(_read_x509(certificate), lambda: _read_key(key))


def _make_authority(now: datetime) -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("dbops.fleet CA")
    usage = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
    )
    certificate = (
        _builder(name, name, key, now, _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False, **usage),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _Authority(certificate, lambda: key)


def _read_certificate(place: Path, authority: _Authority) -> Found | None:
    path = place / "host.crt"
    if not path.exists():
        return None
    certificate = _read_x509(path)
    try:
        certificate.verify_directly_issued_by(authority.certificate)
        of_the_ca = True
    except (ValueError, TypeError, InvalidSignature):
        of_the_ca = False
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names: frozenset[str] = frozenset()
    else:
        names = frozenset(f"DNS:{name}" for name in extension.get_values_for_type(x509.DNSName)) | frozenset(
            f"IP:{address}" for address in extension.get_values_for_type(x509.IPAddress)
        )
    return Found(names, certificate.not_valid_after_utc, of_the_ca, (place / "host.key").exists())


def _host_files(
    place: Path, name: str, names: Sequence[str], authority: _Authority, now: datetime, days: int
) -> list[dict[str, str]]:
    """A certificate, and a private key where there is none yet."""
    path = place / "host.key"
    key = _read_key(path) if path.exists() else ec.generate_private_key(ec.SECP256R1())
    try:
        general = [
            x509.IPAddress(ipaddress.ip_address(text)) if kind == "IP" else x509.DNSName(text)
            for kind, _colon, text in (entry.partition(":") for entry in names)
        ]
    except ValueError as error:
        raise FleetError(
            f"{name} cannot have a certificate: {error}", remedy="Use ASCII in its name and address in the inventory."
        ) from error
    certificate = (
        # RFC 5280, A.1: a common name has at most 64 characters. Who verifies looks at the alternative names.
        _builder(_name(name[:64]), authority.certificate.subject, key, now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(general), critical=False)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key().public_key()), critical=False)
        .sign(authority.key(), hashes.SHA256())
    )
    made = [] if path.exists() else [_secret(path, _key_text(key))]
    return [*made, _public(place / "host.crt", certificate)]


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + timedelta(days=days))
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _read_key(path: Path) -> Any:
    try:
        return serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(path, "private key without a passphrase", error) from error


def _read_x509(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _unreadable(path, "certificate", error) from error


def _unreadable(path: Path, what: str, error: Exception) -> FleetError:
    return FleetError(
        f"{path} cannot be read as a {what}: {error}", remedy="Bring it back from the backup of its directory."
    )


def _key_text(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _secret(path: Path, text: str) -> dict[str, str]:
    return {"path": str(path), "secret_content": text, "mode": "0600"}


def _public(path: Path, certificate: x509.Certificate) -> dict[str, str]:
    return {
        "path": str(path),
        "content": certificate.public_bytes(serialization.Encoding.PEM).decode(),
        "mode": "0644",
    }


def _write(directory: Path, due: Mapping[str, str], files: Sequence[Mapping[str, str]]) -> None:
    """All or none."""
    # Its parents too are their owner's alone, whatever the umask.
    for place in reversed([directory, *directory.parents]):
        if not place.is_dir():
            place.mkdir(mode=0o700)
    own = {"owner": pwd.getpwuid(os.geteuid()).pw_name, "group": grp.getgrgid(os.getegid()).gr_name}
    places = [directory / "ca", directory / "hosts", *(directory / "hosts" / name for name in due)]
    directories = [{"path": str(place), "mode": "0700", **own} for place in places]
    manage({"directories": directories, "files": [{**file, **own} for file in files]}, check_mode=False)


def _warnings(authority: _Authority, now: datetime, days: int) -> tuple[str, ...]:
    """What a host's certificate outlives its CA for is nothing: said while there is time to plan."""
    end = authority.certificate.not_valid_after_utc
    if end - now > timedelta(days=days):
        return ()
    return (f"The fleet's CA ends on {end:%Y-%m-%d}, before certificates that are made now.",)

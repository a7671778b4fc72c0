# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Encryption at rest: AES-256-CTR, then HMAC-SHA256. Chosen so that `openssl enc` can undo it by hand.

A sealed object is: 8 bytes MAGIC, 16 bytes key id (hexadecimal text), 16 bytes counter start, the ciphertext, and
32 bytes
HMAC over everything before. The data key is what is encrypted with OpenPGP (keys.py), once, not each object.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass

from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import ObjectCorrupt, StoreUnavailable

MAGIC = b"DBOPSS1\n"
_ID_BYTES, _IV_BYTES, _MAC_BYTES = 16, 16, 32
_HEAD_BYTES = len(MAGIC) + _ID_BYTES + _IV_BYTES


@dataclass(frozen=True)
class DataKey:
    """One symmetric key.

    Attributes:
        id: 16 hexadecimal digits.
        encryption: 32 bytes for AES-256.
        authentication: 32 bytes for HMAC-SHA256.
    """

    id: str
    encryption: bytes
    authentication: bytes

    def __repr__(self) -> str:
        return f"DataKey({self.id!r})"

    @classmethod
    def generate(cls) -> DataKey:
        return cls(os.urandom(8).hex(), os.urandom(32), os.urandom(32))

    @classmethod
    def parse(cls, text: str) -> DataKey:
        """Raises ValueError when this is not what `text()` gave."""
        values = dict(line.split("=", 1) for line in text.split())
        try:
            key = cls(values["id"], bytes.fromhex(values["encryption"]), bytes.fromhex(values["authentication"]))
        except KeyError as error:
            raise ValueError(f"a data key without {error}") from None
        if (len(key.id), len(key.encryption), len(key.authentication)) != (_ID_BYTES, 32, 32):
            raise ValueError("a data key of the wrong length")
        return key

    def text(self) -> str:
        """The form in which it is wrapped: three lines that a person can copy into openssl's arguments."""
        return f"id={self.id}\nencryption={self.encryption.hex()}\nauthentication={self.authentication.hex()}\n"


def seal(data: bytes, key: DataKey) -> bytes:
    """Encrypt and authenticate."""
    start = os.urandom(_IV_BYTES)
    sealed = MAGIC + key.id.encode("ascii") + start + _aes_ctr(data, key, start)
    return sealed + hmac.digest(key.authentication, sealed, hashlib.sha256)


def key_id(sealed: bytes) -> str:
    """The id of the key that opens this. Raises ObjectCorrupt when it is not sealed."""
    if len(sealed) < _HEAD_BYTES + _MAC_BYTES or not sealed.startswith(MAGIC):
        raise ObjectCorrupt("not a sealed object")
    return sealed[len(MAGIC) : len(MAGIC) + _ID_BYTES].decode("ascii", "replace")


def unseal(sealed: bytes, key: DataKey) -> bytes:
    """Check and decrypt. Raises ObjectCorrupt when a single bit differs or the key is another one."""
    body, mac = sealed[:-_MAC_BYTES], sealed[-_MAC_BYTES:]
    if key_id(sealed) != key.id or not hmac.compare_digest(mac, hmac.digest(key.authentication, body, hashlib.sha256)):
        raise ObjectCorrupt("the seal is broken: the content was changed, or the key is another one")
    return _aes_ctr(body[_HEAD_BYTES:], key, body[_HEAD_BYTES - _IV_BYTES : _HEAD_BYTES])


def _aes_ctr(data: bytes, key: DataKey, start: bytes) -> bytes:
    try:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    except ImportError as error:
        raise StoreUnavailable(f"Encryption needs {error.name}", remedy="Install python3-cryptography.") from error
    worker = Cipher(algorithms.AES(key.encryption), modes.CTR(start)).encryptor()
    return worker.update(data) + worker.finalize()

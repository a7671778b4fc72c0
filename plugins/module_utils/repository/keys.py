# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Data keys: wrapped with OpenPGP in the repository, in the clear only in memory and in a private file of the host."""

from __future__ import annotations

# Runs programs where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import contextlib
import os
import subprocess
import threading
from pathlib import Path

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.repository import layout
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import (
    KeyMissing,
    ObjectCorrupt,
    ObjectMissing,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.seal import DataKey
from ansible_collections.dbops.fleet.plugins.module_utils.repository.store.interface import Store

GPG_TIMEOUT_SECONDS = 60


class Keyring:
    """The data keys of one repository.

    A host that only writes needs the recipients' public keys: it makes a data key of its own, wraps it for them and
    keeps it.
    A host that reads what others wrote needs a secret key.
    """

    def __init__(
        self,
        store: Store,
        directory: Path,
        *,
        recipients: tuple[str, ...],
        gnupg_home: str,
        passphrase_file: str | None,
    ) -> None:
        """Args: directory: where this host keeps data keys; made with mode 0700."""
        self._store = store
        self._directory = directory
        self._recipients = recipients
        self._gnupg_home = gnupg_home
        self._passphrase_file = passphrase_file
        self._known: dict[str, DataKey] = {}
        self._writing: DataKey | None = None
        self._lock = threading.Lock()

    def writing_key(self) -> DataKey:
        """The key that new objects are sealed with; made at the first call on a host."""
        with self._lock:
            if self._writing is None:
                self._writing = self._kept() or self._make()
                self._known[self._writing.id] = self._writing
            return self._writing

    def key(self, key_id: str) -> DataKey:
        """The key of that id.

        Raises:
            OperationFailed: no secret key here opens it.
        """
        with self._lock:
            if key_id not in self._known:
                self._known[key_id] = self._read_kept(key_id) or self._unwrap(key_id)
            return self._known[key_id]

    def _marker(self) -> str:
        """Keys made for other recipients are not written with any more."""
        return ",".join(sorted(self._recipients))

    def _kept(self) -> DataKey | None:
        """The key this host wrote with before, if the recipients are still the same and the repository still has it."""
        with contextlib.suppress(OSError):
            key_id, _space, recipients = (
                (self._directory / "writing").read_text(encoding="ascii").strip().partition(" ")
            )
            key = self._read_kept(key_id) if recipients == self._marker() else None
            if key is not None and any(True for _object in self._store.list(layout.key_object(key_id))):
                return key
        return None

    def _read_kept(self, key_id: str) -> DataKey | None:
        try:
            return DataKey.parse((self._directory / f"{key_id}.key").read_text(encoding="ascii"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise OperationFailed(f"Cannot use the data key in {self._directory}/{key_id}.key: {error}") from None

    def _make(self) -> DataKey:
        key = DataKey.generate()
        wrapped = self._gpg(
            [
                "--trust-model",
                "always",
                "--encrypt",
                *(word for name in self._recipients for word in ("--recipient", name)),
            ],
            key.text().encode("ascii"),
            remedy=f"Import the recipients' public keys into {self._gnupg_home}.",
        )
        self._store.create(layout.key_object(key.id), wrapped)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_private(self._directory / f"{key.id}.key", key.text())
        _write_private(self._directory / "writing", f"{key.id} {self._marker()}\n")
        return key

    def _unwrap(self, key_id: str) -> DataKey:
        try:
            wrapped = self._store.read(layout.key_object(key_id))
        except ObjectMissing:
            raise OperationFailed(
                f"The data key {key_id} is not in {self._store.address}",
                remedy="Restore keys/ from a copy of the repository.",
            ) from None
        secret = (
            ["--pinentry-mode", "loopback", "--passphrase-file", self._passphrase_file] if self._passphrase_file else []
        )
        try:
            text = self._gpg(
                [*secret, "--decrypt"],
                wrapped,
                remedy=f"Import a secret key of the recipients {', '.join(self._recipients)} into {self._gnupg_home}.",
            )
        except OperationFailed as error:
            raise KeyMissing(error.message, remedy=error.remedy) from None
        try:
            return DataKey.parse(text.decode("ascii"))
        except ValueError as error:
            raise ObjectCorrupt(f"{self._store.address}: {layout.key_object(key_id)}: {error}") from None

    def _gpg(self, arguments: list[str], data: bytes, *, remedy: str) -> bytes:
        command = ["gpg", "--homedir", self._gnupg_home, "--batch", "--no-tty", "--quiet", *arguments]
        environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C"}
        try:
            done = subprocess.run(
                command, input=data, capture_output=True, timeout=GPG_TIMEOUT_SECONDS, check=False, env=environment
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise OperationFailed(f"Cannot run gpg: {error}", remedy="Install gnupg.") from None
        if done.returncode:
            said = " ".join(done.stderr.decode("utf-8", "replace").split())
            raise OperationFailed(f"gpg failed: {said}", remedy=remedy)
        return done.stdout


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the engine asks of a place that keeps objects. Directory and S3 answer it; tests wrap it to inject faults.

Objects are written once and never changed. That is why five verbs are enough, and why a repository can be copied with
any tool and lie under an object lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class StoredObject:
    """One line of a listing.

    Attributes:
        key: the name, relative to the repository's root, with `/` between its parts.
        size: bytes stored.
        modified: seconds since the epoch, by the store's clock.
    """

    key: str
    size: int
    modified: float


class Store(Protocol):
    """A place that keeps objects by key.

    Every method raises StoreUnavailable when the store does not answer as it must.
    """

    @property
    def address(self) -> str:
        """Where this is, for messages: a path or a URL, never with credentials."""

    @property
    def refuses_overwriting(self) -> bool:
        """Whether `create` is atomic against other writers: exactly one of many wins."""

    def create(self, key: str, data: bytes) -> None:
        """Write a new object. On return it is durable and complete.

        Raises:
            ObjectExists: there is one already (certain only where `refuses_overwriting`).
        """

    def read(self, key: str) -> bytes:
        """The whole object. Raises ObjectMissing."""

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`. Raises ObjectMissing, and ObjectCorrupt when the object ends before."""

    def list(self, prefix: str, after: str = "") -> Iterator[StoredObject]:
        """All objects whose key starts with `prefix` and sorts behind `after`, sorted, complete however many there
        are.
        """

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    def sweep(self, before: float) -> int:
        """Remove what writers that were killed before this time have left; seconds since the epoch.

        Returns:
            How many there were.
        """

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding out whether a store really refuses to overwrite.

Some stores ignore the condition and overwrite silently, some answer 501. So the question is not asked, it is tried.
"""

from __future__ import annotations

import contextlib
import uuid

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import (
    ObjectCorrupt,
    ObjectExists,
    StoreUnavailable,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.store.s3 import S3Store


def refuses_overwriting(store: S3Store) -> bool:
    """Write one key twice with the condition set; only a refusal of the second and the first content in place count.

    Leaves `store.refuses_overwriting` as it was found. Removes what it wrote.

    Raises:
        StoreUnavailable: the store does not accept a plain write either.
        ObjectCorrupt: the store does not give back what it was given.
    """
    before = store.refuses_overwriting
    key = f"probe/{uuid.uuid4().hex}"
    try:
        store.refuses_overwriting = True
        try:
            store.create(key, b"first")
        except StoreUnavailable as error:
            if error.details.get("status") not in (400, 501):
                raise
            # The condition itself is not understood: such a store must at least take a plain write.
            store.refuses_overwriting = False
            store.create(key, b"first")
            _expect_first(store, key)
            return False
        try:
            store.create(key, b"second")
        except ObjectExists:
            _expect_first(store, key)
            return True
        return False
    finally:
        store.refuses_overwriting = before
        with contextlib.suppress(FleetError):
            store.delete(key)


def _expect_first(store: S3Store, key: str) -> None:
    if store.read(key) != b"first":
        raise ObjectCorrupt(f"{store.address} does not give back what was written to it")

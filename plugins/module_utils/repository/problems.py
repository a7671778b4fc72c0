# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong between the engine and a repository, as errors that callers tell apart.

The difference decides what ``restore_command`` answers: only a proven absence ends recovery, everything else must not.
"""

from __future__ import annotations

from collections.abc import Sequence

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, OperationFailed, Refused


class StoreUnavailable(OperationFailed):
    """The store did not answer, answered with an error of its own, or refused the credentials."""


class NoRepository(StoreUnavailable):
    """The store answered, and has no repository there. A disk that is not mounted looks the same."""


class ObjectMissing(FleetError):
    """The store answered, and said that there is no such object."""


class ObjectExists(FleetError):
    """An object of that name is there already; it was not touched."""


class ObjectCorrupt(OperationFailed):
    """An object's content is not what was written: its hash, size, seal or format does not fit."""


class NoSystem(Refused):
    """The repository has nothing of this system, or of any."""


class WrongIdentity(Refused):
    """A repository, a WAL file or a data directory belongs to another cluster than expected."""


class ContentConflict(Refused):
    """Two different contents claim the same name: the mark of a split brain. Nothing was overwritten."""


class KeyMissing(OperationFailed):
    """No secret key on this host opens a data key."""


class AnotherBegan(Refused):
    """Another member began the same backup at the same moment, and goes on with it."""


def together(errors: Sequence[FleetError]) -> FleetError:
    """What went wrong in several repositories as one error: the only one as it is.

    Args:
        errors: at least one.
    """
    if len(errors) == 1:
        return errors[0]
    message = "; ".join(error.message for error in errors)
    return OperationFailed(message, remedy=next((error.remedy for error in errors if error.remedy), None))

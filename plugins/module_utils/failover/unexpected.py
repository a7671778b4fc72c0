# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be told of an error that nobody expected. Its message may hold a connection string with a password."""

from __future__ import annotations

import traceback
from pathlib import PurePath


def told(error: BaseException) -> str:
    """Its class and where it was raised; of the operating system's errors also what that says."""
    said = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {PurePath(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"unexpected {type(error).__name__}{said}{place}"


def trace(error: BaseException) -> list[str]:
    """The lines of its traceback, without any message."""
    return [*"".join(traceback.format_tb(error.__traceback__)).splitlines(), told(error)]

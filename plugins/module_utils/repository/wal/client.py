# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fallback of `archive_command` when look-ahead has not archived the segment yet: ask the archiver and wait.

Run as a script with `python3 -I -S` because every import costs milliseconds for each segment. Exit 0 only when the
archiver says of this very file that every repository keeps it; exit 1 otherwise, never more (above 125 PostgreSQL
would not
count the failure).
"""

from __future__ import annotations

# Prints and exits where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import os
import socket
import struct
import sys

SOCKET = "archiver.socket"
TIMEOUT_SECONDS = 60.0


def ask(spool_directory: str, path: str) -> str:
    """The archiver's answer about one file: `archived NAME`, or a sentence that says what is wrong."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(os.path.join(spool_directory, SOCKET))
        _pid, owner, _group = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if owner not in (0, os.geteuid()):
            return f"the socket in {spool_directory} belongs to user id {owner}, not to PostgreSQL's"
        connection.sendall(f"{os.path.abspath(path)}\n".encode())
        answer = b""
        while not answer.endswith(b"\n"):
            received = connection.recv(4096)
            if not received:
                return "the archiver ended in the middle of its answer"
            answer += received
    return answer.decode("utf-8", "replace").strip()


def main(arguments: list[str]) -> int:
    spool_directory, path = arguments
    try:
        answer = ask(spool_directory, path)
    except (OSError, ValueError) as error:
        answer = f"no answer from the archiver: {error}"
    if answer == f"archived {os.path.basename(path)}":
        return 0
    sys.stderr.write(f"dbops: {answer}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

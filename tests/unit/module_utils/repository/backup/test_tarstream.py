# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tar reader agrees with Python's own, however the archive is cut into pieces."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.dbops.fleet.plugins.module_utils.repository.backup.tarstream import Header, TarStream

NAMES = st.text("abcdef0123456789_", min_size=1, max_size=20)


def packed(files: dict[str, bytes]) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        directory = tarfile.TarInfo("base/")
        directory.type = tarfile.DIRTYPE
        tar.addfile(directory)
        link = tarfile.TarInfo("pg_tblspc/16385")
        link.type, link.linkname = tarfile.SYMTYPE, "/srv/space one"
        tar.addfile(link)
        for name, content in files.items():
            info = tarfile.TarInfo(f"base/{name}")
            info.size, info.mode, info.mtime = len(content), 0o600, 1772325000
            tar.addfile(info, io.BytesIO(content))
    return output.getvalue()


@settings(derandomize=True, max_examples=150)
@given(
    files=st.dictionaries(NAMES, st.binary(max_size=3000), max_size=5),
    pieces=st.lists(st.integers(1, 1500), min_size=1, max_size=50),
)
def test_every_cut_gives_the_same_files(files: dict[str, bytes], pieces: list[int]) -> None:
    archive = packed(files)
    stream = TarStream()
    found: dict[str, bytes] = {}
    headers: list[Header] = []
    position, turn = 0, 0
    while position < len(archive):
        size = pieces[turn % len(pieces)]
        for part in stream.feed(archive[position : position + size]):
            if isinstance(part, Header):
                headers.append(part)
                if part.type == "file":
                    found[part.path] = b""
            else:
                found[headers[-1].path] += bytes(part)
        position, turn = position + size, turn + 1
    assert found == {f"base/{name}": content for name, content in files.items()}
    assert [(one.path, one.type, one.target) for one in headers[:2]] == [
        ("base", "directory", ""),
        ("pg_tblspc/16385", "link", "/srv/space one"),
    ]
    assert stream.complete


def test_sizes_of_eight_gigabytes_and_more_are_read() -> None:
    info = tarfile.TarInfo("large")
    info.size = 20 * 1024**3
    block = info.tobuf(format=tarfile.GNU_FORMAT)
    # PostgreSQL writes ustar's magic also with such a size.
    block = block[:257] + b"ustar\x0000" + block[265:]
    checksum = sum(block[:148]) + 8 * 32 + sum(block[156:512])
    block = block[:148] + f"{checksum:06o}\0 ".encode() + block[156:]
    (header,) = TarStream().feed(block)
    assert isinstance(header, Header)
    assert header.size == 20 * 1024**3


def test_what_is_no_archive_is_refused() -> None:
    with pytest.raises(ValueError):
        list(TarStream().feed(b"x" * 512))
    archive = bytearray(packed({}))
    archive[0] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        list(TarStream().feed(bytes(archive)))

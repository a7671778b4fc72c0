# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines of an index: what is written reads back, and what would do harm is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.dbops.fleet.plugins.module_utils.repository.backup.index import Frame, Member

SHA = "ab" * 32


@settings(derandomize=True)
@given(
    path=st.text(min_size=1, max_size=40).filter(lambda text: ".." not in text.split("/")),
    sizes=st.lists(st.integers(1, 1 << 20), max_size=5),
    mode=st.integers(0, 0o7777),
)
def test_every_member_reads_back(path: str, sizes: list[int], mode: int) -> None:
    frames = tuple(Frame("20260301-020000F", 1, number, 10, size, SHA) for number, size in enumerate(sizes))
    member = Member(f"data/{path}", "file", mode, sum(sizes), 1772325000, "", frames)
    line = member.line()
    assert line.count("\n") == 1
    assert Member.parse(line) == member


@pytest.mark.parametrize("path", ["/etc/passwd", "data/../../etc/passwd", "elsewhere/x", ""])
def test_a_path_that_leads_out_is_refused(path: str) -> None:
    line = json.dumps({"path": path, "type": "file", "mode": "0600", "size": 0, "mtime": 0, "frames": []})
    with pytest.raises(ValueError):
        Member.parse(line)


def test_frames_that_do_not_add_up_are_refused() -> None:
    line = Member("data/x", "file", 0o600, 5, 0, "", (Frame("a", 1, 0, 9, 4, SHA),)).line()
    with pytest.raises(ValueError, match="add up"):
        Member.parse(line)


@pytest.mark.parametrize("line", ["", "{}", "[]", '{"path": "data/x"}'])
def test_other_text_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        Member.parse(line)

# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Timelines: which write-ahead log continues which, as told by PostgreSQL's `.history` files."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record


@dataclass(frozen=True)
class TimelineHistory(Record):
    """One timeline and the ones it grew from.

    Attributes:
        timeline: the timeline that this is the history of.
        switches: its ancestors, oldest first, each with the position at which it was left for the next one.
    """

    timeline: int
    switches: tuple[tuple[int, Lsn], ...] = ()

    @classmethod
    def first(cls) -> TimelineHistory:
        """Timeline 1, which every cluster starts on and which has no history file."""
        return cls(1)

    @classmethod
    def parse(cls, timeline: int, text: str) -> TimelineHistory:
        """Read the contents of `<timeline>.history`: per line an ancestor, the switch point and a reason.

        Raises:
            ValueError: the text is not a history, or not one of this timeline (ancestors must grow and be older).
        """
        switches: list[tuple[int, Lsn]] = []
        for line in text.splitlines():
            words = line.split("#", 1)[0].split(None, 2)
            if not words:
                continue
            if len(words) < 2 or not words[0].isdigit():
                raise ValueError(f"history of timeline {timeline}: cannot read line {line!r}")
            ancestor, switch = int(words[0]), Lsn.parse(words[1])
            if switches and (ancestor <= switches[-1][0] or switch < switches[-1][1]):
                raise ValueError(f"history of timeline {timeline}: line {line!r} is out of order")
            switches.append((ancestor, switch))
        if switches and switches[-1][0] >= timeline:
            raise ValueError(f"history of timeline {timeline} names timeline {switches[-1][0]} as its ancestor")
        return cls(timeline, tuple(switches))

    @property
    def timelines(self) -> tuple[int, ...]:
        """All timelines of this line, oldest first, its own last."""
        return (*(ancestor for ancestor, _end in self.switches), self.timeline)

    @property
    def switchpoint(self) -> Lsn | None:
        """Where this timeline began; None on timeline 1."""
        return self.switches[-1][1] if self.switches else None

    def end_of(self, timeline: int) -> Lsn | None:
        """Where this line left an ancestor; None for its own timeline, which is still open.

        Raises:
            ValueError: the timeline is not on this line.
        """
        if timeline == self.timeline:
            return None
        for ancestor, switch in self.switches:
            if ancestor == timeline:
                return switch
        raise ValueError(f"timeline {timeline} is not an ancestor of timeline {self.timeline}")

    def contains(self, timeline: int, lsn: Lsn) -> bool:
        """Whether a server at this position of that timeline has only write-ahead log that this line has too."""
        if timeline not in self.timelines:
            return False
        end = self.end_of(timeline)
        return end is None or lsn <= end

    def is_ancestor_of(self, other: TimelineHistory) -> bool:
        """Whether the other line grew from this timeline (or is the same one)."""
        if self == other:
            return True
        count = len(self.switches)
        return (
            len(other.switches) > count
            and other.switches[:count] == self.switches
            and other.switches[count][0] == self.timeline
        )

    def fork_from(self, other: TimelineHistory) -> tuple[int, Lsn | None] | None:
        """The last timeline both lines share and the position up to which they are the same.

        Returns:
            (timeline, position); the position is None where both are on one and the same timeline. None where they
            share nothing, which servers of one cluster never do.
        """
        shared: tuple[int, Lsn | None] | None = None
        for timeline in self.timelines:
            if timeline not in other.timelines:
                break
            ends = [end for end in (self.end_of(timeline), other.end_of(timeline)) if end is not None]
            shared = (timeline, min(ends) if ends else None)
            if len(ends) == 2 and ends[0] == ends[1]:
                continue
            break
        return shared


def history_file_name(timeline: int) -> str:
    """`00000002.history` for timeline 2; timeline 1 has no such file."""
    return f"{timeline:08X}.history"

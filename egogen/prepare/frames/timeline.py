"""When each frame of a video is on screen, read from its packets without decoding: which frame is meant."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import av
from av.container import InputContainer
from av.video.stream import VideoStream

# Time stamps of a constant rate may be off by this many ticks of rounding ...
ROUNDING_TICKS = 2
# ... but never by this part of a frame.
ROUNDING_PART = Fraction(1, 4)


@dataclass(frozen=True)
class Timeline:
    """The presented frames of a video in their order on screen.

    Args:
        base: seconds in a tick.
        pts: time stamp of each frame in ticks, ascending.
        keys: time stamps of the frames that decoding can begin at, ascending.
        end: the tick at which the last frame leaves the screen.
        cut_off: whether the file ends before its header says, or is damaged on the way.
    """

    base: Fraction
    pts: Sequence[int]
    keys: Sequence[int]
    end: int
    cut_off: bool

    @classmethod
    def read(cls, container: InputContainer, stream: VideoStream) -> Timeline:
        """Reads all packets of a stream; raises `ValueError` if none of them has a time stamp."""
        ends: dict[int, int] = {}
        keys: set[int] = set()
        count, last, whole = 0, None, True
        try:
            for packet in container.demux(stream):
                if packet.pts is None:  # the empty packet at the end
                    continue
                count, last = count + 1, packet.dts
                whole = whole and not packet.is_corrupt
                # Packets before the start of an edit list are decoded, but not shown.
                if not packet.is_discard:
                    ends[packet.pts] = packet.pts + (packet.duration or 1)
                    if packet.is_keyframe:
                        keys.add(packet.pts)
        except av.error.FFmpegError:
            whole = False
        if not ends:
            raise ValueError("no frames with time stamps")
        base = Fraction(stream.time_base or Fraction(1, 1))
        pts = sorted(ends)
        length = (ends[pts[-1]] - pts[0]) * base
        cut_off = not whole or count < stream.frames or ends_early(container, stream, length)
        if cut_off and last is not None:
            # Frames are stored in the order of decoding: before later ones, some may be lost.
            pts = [stamp for stamp in pts if stamp <= last] or pts[:1]
        return cls(base, pts, [stamp for stamp in pts if stamp in keys], ends[pts[-1]], cut_off)

    def at(self, seconds: Fraction) -> int | None:
        """Position of the frame on screen at a time; time 0 is when the first frame appears.

        It is the last frame whose time stamp is not later; half a tick allows for the rounding of stamps.
        After the last frame it is None.
        """
        tick = self.pts[0] + math.floor(seconds / self.base + Fraction(1, 2))
        return None if tick >= self.end else max(0, bisect_right(self.pts, tick) - 1)

    def numbered(self, number: int, fps: Fraction) -> int | None:
        """Position of frame `number`, counted from 0, of a video annotated at `fps`.

        It is the number-th presented frame; where the rate is not constant, and counting therefore means
        nothing, the frame on screen at number / fps (F-DA-07). After the last frame it is None.
        """
        if self.steady:
            return number if number < len(self.pts) else None
        return self.at(number / fps)

    @cached_property
    def steady(self) -> bool:
        """Whether all frames are equally long, but for the rounding of time stamps."""
        if len(self.pts) < 2:
            return True
        first, ticks = self.pts[0], Fraction(self.pts[-1] - self.pts[0], len(self.pts) - 1)
        most = min(Fraction(ROUNDING_TICKS), ticks * ROUNDING_PART)
        # In whole numbers: abs(stamp - first - index * ticks) <= most.
        scale = math.lcm(ticks.denominator, most.denominator)
        step, allowed = int(ticks * scale), int(most * scale)
        return all(
            abs((stamp - first) * scale - index * step) <= allowed for index, stamp in enumerate(self.pts)
        )

    def seconds(self, position: int) -> Fraction:
        """When a frame appears, from the appearance of the first."""
        return (self.pts[position] - self.pts[0]) * self.base

    def keys_before(self, pts: int) -> Sequence[int]:
        """The key frames at or before a time stamp, the last one last; the first frame if there is none."""
        return self.keys[: bisect_right(self.keys, pts)] or self.pts[:1]


def ends_early(container: InputContainer, stream: VideoStream, length: Fraction) -> bool:
    """Whether a file whose header counts no frames (WebM, Matroska) is shorter than its header says."""
    if stream.frames or container.duration is None:
        return False
    # Sound may go on a little longer than pictures do.
    return length + 1 < Fraction(container.duration, av.time_base)

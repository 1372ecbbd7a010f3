"""When each frame of a video is on screen, read from its packets without decoding: which frame is meant."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from egogen.prepare.frames.avi_chunks import chunks_in_a_row

# Time stamps of a constant rate may be off by this many ticks of rounding ...
ROUNDING_TICKS = 2
# ... but never by this part of a frame.
ROUNDING_PART = Fraction(1, 4)
# Seconds that a time may be short of a frame's: what a float's last digits are worth.
ROUNDING_SECONDS = Fraction(1, 1_000_000)
# Of frames as many ticks apart, time stamps are rounded to a tick; closer ones are counted in frames (AVI).
FINE_TICKS = 4
# Frames that an H.264 decoder may hold back to put them in order (ITU-T H.264, A.3.1: 16 reference frames).
MOST_HELD = 16
# Of two rates this near, as a part of them, the rounder one is meant.
NEAR_RATE = Fraction(1, 10_000)


@dataclass(frozen=True)
class Timeline:
    """The presented frames of a video in their order on screen.

    Args:
        base: seconds in a tick.
        pts: time stamp of each frame in ticks, ascending.
        keys: time stamps of the frames that decoding can begin at, ascending.
        end: the tick at which the last frame leaves the screen.
        cut_off: whether the file ends before its header says, or is damaged on the way.
        named_rate: frames in a second by the header, where it says.
        is_counted: the time stamps are those of decoding: whose they are, the order of the frames tells.
    """

    base: Fraction
    pts: Sequence[int]
    keys: Sequence[int]
    end: int
    cut_off: bool
    named_rate: Fraction | None = None
    is_counted: bool = False

    @classmethod
    def read(cls, container: InputContainer, stream: VideoStream) -> Timeline:
        """Reads all packets of a stream; raises `ValueError` if they do not say which frame is when."""
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
        cut_off = not whole or count < promised(container, stream) or ends_early(container, stream, length)
        if cut_off and last is not None:
            # Frames are stored in the order of decoding: before later ones, some may be lost.
            pts = [stamp for stamp in pts if stamp <= last] or pts[:1]
        is_counted = has_no_order(container, stream)
        if is_counted and cut_off:
            check_row(container, stream, count)
            pts = sure(stream, pts)
        # Of MPEG-PS many time stamps are guessed, and after seeking otherwise: it is read from its start.
        from_start = is_counted or container.format.name == "mpeg"
        key_stamps = [] if from_start else [stamp for stamp in pts if stamp in keys]
        return cls(base, pts, key_stamps, ends[pts[-1]], cut_off, stream.average_rate, is_counted)

    def at(self, seconds: Fraction) -> int | None:
        """Position of the frame on screen at a time; time 0 is when the first frame appears.

        It is the last frame that appears no later. Frame n of a constant rate appears at n / rate, however
        its container rounds that; of a variable rate, by its time stamp, whose rounding by half a tick is
        allowed for. After the last frame it is None.
        """
        moment, length = max(seconds, Fraction(0)) + ROUNDING_SECONDS, (self.end - self.pts[0]) * self.base
        if self.rate is not None:
            nominal = len(self.pts) / self.rate
            held = length - nominal > rounding(1 / (self.rate * self.base)) * self.base
            position = min(math.floor(moment * self.rate), len(self.pts) - 1)
            return position if moment < (length if held else nominal) else None
        tick = self.pts[0] + math.floor(moment / self.base + self.slack)
        return None if tick >= self.end else bisect_right(self.pts, tick) - 1

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
        return self.fits(Fraction(self.pts[-1] - self.pts[0], len(self.pts) - 1))

    def fits(self, ticks: Fraction) -> bool:
        """Whether all frames are so many ticks apart, but for the rounding of time stamps."""
        first, most = self.pts[0], rounding(ticks)
        # In whole numbers: abs(stamp - first - index * ticks) <= most.
        scale = math.lcm(ticks.denominator, most.denominator)
        step, allowed = int(ticks * scale), int(most * scale)
        return all(
            abs((stamp - first) * scale - index * step) <= allowed for index, stamp in enumerate(self.pts)
        )

    @cached_property
    def slack(self) -> Fraction:
        """Ticks that a time may be short of a time stamp: half of one, where frames are many apart."""
        gaps = (later - stamp for stamp, later in pairwise(self.pts))
        return Fraction(min(gaps, default=FINE_TICKS) >= FINE_TICKS, 2)

    @cached_property
    def rate(self) -> Fraction | None:
        """The exact rate of a steady video in Hz, None of another.

        Stamps are rounded and headers are short: of the usual rates (n and n / 1.001) and the header's, it is
        one that all time stamps fit.
        """
        if len(self.pts) < 2 or not self.steady:
            return None
        measured = (len(self.pts) - 1) / ((self.pts[-1] - self.pts[0]) * self.base)
        usual = [Fraction(round(measured)), Fraction(round(measured * 1001 / 1000) * 1000, 1001)]
        named = self.named_rate or measured
        near = [rate for rate in usual if abs(rate - named) <= NEAR_RATE * named]
        fitting = (rate for rate in (*near, named, *usual) if rate and self.fits(1 / (rate * self.base)))
        return next(fitting, measured)

    def seconds(self, position: int) -> Fraction:
        """When a frame appears, from the appearance of the first."""
        return (self.pts[position] - self.pts[0]) * self.base

    def keys_before(self, pts: int) -> Sequence[int]:
        """The key frames at or before a time stamp, the last one last; the first frame if there is none."""
        return self.keys[: bisect_right(self.keys, pts)] or self.pts[:1]


def rounding(ticks: Fraction) -> Fraction:
    """How many ticks the stamps of a constant rate may be off, where frames are so many apart."""
    return min(Fraction(ROUNDING_TICKS), ticks * ROUNDING_PART)


def has_no_order(container: InputContainer, stream: VideoStream) -> bool:
    """Whether time stamps are those of decoding, and frames are shown in another order.

    AVI has no times of presentation; of MPEG-4 they are worked out, of H.264 not.
    """
    context = stream.codec_context
    return container.format.name == "avi" and context.name == "h264" and bool(context.has_b_frames)


def check_row(container: InputContainer, stream: VideoStream, count: int) -> None:
    """Raises `ValueError` if a cut-off AVI file, of which `count` packets were read, lacks some before."""
    if chunks_in_a_row(Path(container.name), stream.index) != count:
        raise ValueError(
            "H.264 in AVI whose frames are reordered, and some are missing: none can be told from another; "
            "make it anew, such as by ffmpeg -i IN OUT.mp4"
        )


def sure(stream: VideoStream, pts: list[int]) -> list[int]:
    """Of a cut-off file whose frames are counted, the time stamps whose frames are sure.

    Of the last ones the decoder holds some back until later frames put them in order, which are lost; the
    last packet may be a part of one.
    """
    held = getattr(stream.codec_context, "reorder_depth", MOST_HELD)  # from PyAV 18 on
    return pts[: -1 - held] or pts[:1]


def promised(container: InputContainer, stream: VideoStream) -> int:
    """How many packets a whole file has by its header, where that counts them.

    An edit list may leave out what is in the file: MP4's index then has the packets that are left.
    """
    count: int = stream.frames
    index = getattr(stream, "index_entries", None)  # from PyAV 17 on
    return min(count, len(index)) if index is not None and "mp4" in container.format.name else count


def ends_early(container: InputContainer, stream: VideoStream, length: Fraction) -> bool:
    """Whether a file whose header counts no frames (WebM, Matroska) is shorter than its header says."""
    if stream.frames or container.duration is None:
        return False
    # Sound may go on a little longer than pictures do.
    return length + 1 < Fraction(container.duration, av.time_base)

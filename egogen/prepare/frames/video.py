"""Frames of a video, exactly: one pass over sorted positions, skipping ahead by key frames (PyAV)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from egogen.errors import UserError, reason
from egogen.files import regular
from egogen.prepare.frames.display import check_look, picture
from egogen.prepare.frames.timeline import Timeline
from egogen.prepare.frames.track_facts import track_facts
from egogen.prepare.pair_plan import AFTER_END, CUT_OFF, UNREADABLE, AtFrame, AtTime, Lost, Place, Stamp
from egogen.unfetched import HEAD, unfetched

# Containers that hold what they show; others are lists (HLS, DASH, concat), which name files to read.
CONTAINERS = "asf,avi,dv,flv,gif,h264,hevc,ivf,m4v,matroska,webm,mov,mp4,mpeg,mpegts,mpegvideo,mxf,nut,ogg"
MOST_PIXELS = 1 << 27  # of a frame, four times those of 8K


@dataclass(frozen=True)
class VideoFile:
    """A video on disk."""

    path: Path

    @property
    def name(self) -> str:
        """Names the source among others of its kind."""
        return self.path.stem

    @contextmanager
    def open(self) -> Iterator[Video]:
        """Opens the video; raises `Lost` if it is none, nothing of it can be read, or its range is high."""
        with ExitStack() as stack:
            try:
                opened = av.open(str(regular(self.path)), options={"format_whitelist": CONTAINERS})
                video = Video(stack.enter_context(opened))
            except UserError as error:
                raise Lost(UNREADABLE, f"{error}") from None
            except (av.error.FFmpegError, ValueError) as error:
                raise Lost(UNREADABLE, f"{self.path}: {why(self.path, error)}") from None
            check_look(video.stream, self.path, video.facts.dolby)
            yield video


def why(path: Path, error: Exception) -> str:
    """Why a file cannot be read as a video; not in a library's words where it was not fetched at all."""
    with suppress(OSError), path.open("rb") as file:
        head = file.read(HEAD)
        return unfetched(head) or (reason(error) if head else "empty; copy it again")
    return reason(error)


class ShownFrame(NamedTuple):
    """A decoded frame with its time stamp; no frame stands for what is before the first."""

    pts: int
    frame: VideoFrame | None


class Video:
    """An open video; a container without pictures raises `ValueError`."""

    def __init__(self, container: InputContainer) -> None:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream):
            raise ValueError("no video stream")
        if stream.codec_context is None:
            raise ValueError("no decoder here for its pictures")
        if stream.width * stream.height > MOST_PIXELS:
            raise ValueError(f"frames of {stream.width} x {stream.height}; allowed are {MOST_PIXELS} pixels")
        self.container, self.stream = container, stream
        # Videos are read side by side, each by one thread.
        self.stream.codec_context.thread_count = 1
        self.stream.codec_context.options = {"max_pixels": f"{MOST_PIXELS}"}  # whatever the header says
        self.facts = track_facts(Path(container.name), container.format.name, stream.index)
        self.timeline = Timeline.read(container, self.stream)
        rate = self.stream.average_rate
        self.fps = float(rate) if rate else None

    def find(self, place: Place) -> int:
        """Position of the frame at a place; raises `Lost` if the video ends before."""
        if isinstance(place, AtFrame):
            position = self.timeline.numbered(place.number, place.fps)
        else:
            assert isinstance(place, AtTime)
            position = self.timeline.at(place.seconds)
        if position is None:
            raise Lost(CUT_OFF if self.timeline.cut_off else AFTER_END)
        return position

    def around(self, position: int, distance: int) -> list[int]:
        """Positions of the frames at most so many frames away."""
        last = len(self.timeline.pts) - 1
        return list(range(max(0, position - distance), min(last, position + distance) + 1))

    def stamp(self, position: int) -> Stamp:
        """When a frame is shown."""
        return Stamp(self.timeline.pts[position], float(self.timeline.seconds(position)))

    def images(self, positions: Sequence[int]) -> Iterator[tuple[int, Image.Image | None]]:
        """Decodes the frames at ascending positions; None stands for one that is damaged.

        Nothing is decoded twice. Where the next frame lies behind a later key frame, what is between is
        skipped; on the way to a frame, frames that no other refers to are left out.
        """
        stamps = [self.timeline.pts[position] for position in positions]
        wanted = set(stamps)
        frames: Iterator[ShownFrame] = iter(())
        shown: ShownFrame | None = ShownFrame(self.timeline.pts[0] - 1, None)
        for position, stamp in zip(positions, stamps, strict=True):
            if shown is not None and shown.pts < self.timeline.keys_before(stamp)[-1]:
                frames, shown = self.start(stamp, wanted)
            while shown is not None and shown.pts < stamp:
                shown = next(frames, None)
            found = shown.frame if shown is not None and shown.pts == stamp else None
            yield position, None if found is None else self.shown(found)

    def shown(self, frame: VideoFrame) -> Image.Image:
        """A frame as a player shows it."""
        return picture(frame, self.stream, self.container.name, self.facts)

    def start(self, stamp: int, wanted: set[int]) -> tuple[Iterator[ShownFrame], ShownFrame | None]:
        """Decodes from the last key frame that reaches a time stamp: the frames behind the first, and it."""
        frames: Iterator[ShownFrame] = iter(())
        first = None
        # Containers seek by decoding time: where frames are reordered they may come out one key too late, and
        # without an index (MPEG-TS) behind the first: then the file's own start is left.
        for key in (*reversed(self.timeline.keys_before(stamp)), None):
            frames = self.decode(key, wanted)
            first = next(frames, None)
            if first is not None and first.pts <= stamp:
                break
        return frames, first

    def decode(self, key: int | None, wanted: set[int]) -> Iterator[ShownFrame]:
        """Decodes from a key frame on; of what is not wanted, frames that no other refers to may be missing.

        After an error everything is in doubt until the next key frame, so it is left out.
        """
        if self.timeline.is_counted:
            yield from self.count_through()
            return
        damaged = False
        for packet in self.packets(key):
            skip = packet.pts is not None and packet.pts not in wanted
            self.stream.codec_context.skip_frame = "NONREF" if skip else "DEFAULT"
            try:
                decoded = [] if packet.is_corrupt else packet.decode()
            except av.error.FFmpegError:
                decoded, damaged = [], True
            damaged = damaged or packet.is_corrupt
            for frame in decoded:
                damaged = damaged and not frame.key_frame
                if not damaged and not frame.is_corrupt and frame.pts is not None:
                    yield ShownFrame(frame.pts, frame)

    def count_through(self) -> Iterator[ShownFrame]:
        """Decodes from the start, and gives each frame the time stamp of its place; none behind an error."""
        self.stream.codec_context.skip_frame = "DEFAULT"
        stamps = iter(self.timeline.pts)
        for packet in self.packets(None):
            try:
                decoded = packet.decode()
            except av.error.FFmpegError:
                return
            for frame, stamp in zip(decoded, stamps, strict=False):
                if packet.is_corrupt or frame.is_corrupt:
                    return
                yield ShownFrame(stamp, frame)

    def packets(self, key: int | None) -> Iterator[Packet[VideoStream]]:
        """The stream's packets from a key frame on, or from the file's start, as far as it can be read."""
        try:
            if key is None:
                self.container.seek(min(0, self.container.start_time or 0))
            else:
                self.container.seek(key, stream=self.stream)
            yield from self.container.demux(self.stream)
        except av.error.FFmpegError:
            return

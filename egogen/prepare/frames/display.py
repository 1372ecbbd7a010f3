"""From a decoded frame to the picture that a player shows: colours, pixel aspect, display matrix."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from egogen.prepare.frames.track_facts import NO_FACTS, Margins, TrackFacts
from egogen.prepare.pair_plan import DAMAGED, HIGH_RANGE, Lost
from egogen.rgb import on_white, say

# Numbers of ITU-T H.273, table 3 (transfer characteristics) and table 2 (colour primaries).
HIGH_RANGES = {16: "PQ", 18: "HLG"}
BT_2020 = 9
UNNAMED = 2  # in both
# Kinds of pictures, as MP4 names them, that Dolby Vision alone shows rightly: others see green and purple.
# A profile that the container names (`track_facts`) says the same, whatever the pictures are called.
DOLBY = ("dvh1", "dvhe", "dav1")
RPU_PREFIX = 25  # of the data that Dolby Vision has beside each picture
Axes = tuple[int, int, int, int]
SOFTEN = "zscale=t=linear:npl=100,tonemap=hable,zscale=p=bt709:t=bt709:m=bt709,format=yuv420p"
MOST_STRETCH = 10  # of pixels that are not square
# Where x and y go, the signs of a display matrix's a, b, c and d, and what does it to a picture.
UPRIGHT = (1, 0, 0, 1)
TURNS = {
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,  # Pillow turns to the left
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
# The same by FFmpeg's degrees, to the left.
QUARTERS = {0: UPRIGHT, 90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), 270: (0, 1, -1, 0)}
SKEW = 0.02  # of a matrix's entries: below a degree of turning
log = logging.getLogger(__name__)


def check_look(stream: VideoStream, path: Path, dolby: int | None = None) -> None:
    """Refuses colours that would come out washed out, and says what else a picture will not show rightly.

    Args:
        stream: of its pictures.
        path: for messages.
        dolby: the profile of Dolby Vision, where its container says that no other picture is in it.

    Raises:
        Lost: the video has high dynamic range.
    """
    context = stream.codec_context
    if name := HIGH_RANGES.get(context.color_trc):
        raise Lost(
            HIGH_RANGE,
            f"{path}: high dynamic range ({name}), which would come out washed out; tone-map it first, such "
            f"as by ffmpeg -i IN -vf {SOFTEN} OUT",
        )
    if dolby is not None:
        raise dolby_alone(f"{path}", f"profile {dolby}")
    if (tag := tag_of(stream)) in DOLBY and context.color_trc == UNNAMED:
        raise dolby_alone(f"{path}", tag)
    if context.color_primaries == BT_2020:
        log.warning("%s: its colours are BT.2020's and are taken for BT.709's: a little pale", path)
    if stream.metadata.get("alpha_mode") == "1":  # of WebM, beside the pictures
        log.warning("%s: has transparent parts, which are not read; their colours show", path)


def dolby_alone(name: str, by: str) -> Lost:
    """Why a video is left out whose pictures only Dolby Vision shows rightly."""
    return Lost(
        HIGH_RANGE,
        f"{name}: Dolby Vision alone ({by}), which would come out green and purple; "
        "tone-map it first, such as by ffmpeg -i IN -vf libplacebo=tonemapping=auto:format=yuv420p OUT",
    )


def tag_of(stream: VideoStream) -> str:
    """Four letters by which the file names the kind of its pictures; MPEG-TS has numbers there."""
    with suppress(UnicodeDecodeError):
        tag: str = stream.codec_context.codec_tag
        return tag
    return ""


def picture(frame: VideoFrame, stream: VideoStream, name: str, facts: TrackFacts = NO_FACTS) -> Image.Image:
    """A frame in RGB as it is shown; transparent parts on white, as those of photos.

    Args:
        frame: as decoded; where it does not say its matrix and range, BT.601 and limited as in ffmpeg.
        stream: whose it is; says how wide a pixel is, where anybody does.
        name: for messages.
        facts: what its container says. Pixels are left out before anything else is done, of pictures of the
            size that it speaks of; the stream itself may have cropped them already.

    Raises:
        Lost: pixel aspect or display matrix are none that a picture can have, or it is Dolby Vision's alone,
            as the data beside its pixels say in any container.
    """
    data = data_beside(frame)
    if data is not None and is_profile_5(data):
        raise dolby_alone(name, "profile 5")
    if frame.interlaced_frame:  # which the header may not say
        say(f"{name}: interlaced, what moves looks combed; deinterlace it first, such as by ffmpeg -vf bwdif")
    image, aspect = in_rgb(frame, name), stream.sample_aspect_ratio
    if facts.size in (None, image.size):
        image = cropped(image, facts.crop)
        aspect = facts.aspect or aspect
    if aspect and aspect != 1:
        if not 1 / MOST_STRETCH <= aspect <= MOST_STRETCH:
            raise Lost(DAMAGED, f"pixels of an aspect of {aspect}; expected up to {MOST_STRETCH} either way")
        width = max(1, round(image.width * aspect))
        image = image.resize((width, image.height), Image.Resampling.LANCZOS)
    axes = turned(frame) if data is None else axes_of(data)
    return image if axes == UPRIGHT else image.transpose(TURNS[axes])


def in_rgb(frame: VideoFrame, name: str) -> Image.Image:
    """A frame's pixels; of one that would be invisible its colours: AVI has a fourth byte without a use."""
    if any(part.is_alpha for part in frame.format.components):
        pixels = frame.to_ndarray(format="rgba")
        if pixels[..., 3].any():
            return on_white(Image.fromarray(pixels), name).convert("RGB")
    image: Image.Image = frame.to_image()
    return image


def cropped(image: Image.Image, crop: Margins) -> Image.Image:
    """A picture without its margins; one that would have nothing left is as it was."""
    left, top, right, bottom = crop
    if not any(crop) or left + right >= image.width or top + bottom >= image.height:
        return image
    return image.crop((left, top, image.width - right, image.height - bottom))


def data_beside(frame: VideoFrame) -> SideDataContainer | None:
    """What FFmpeg tells of a frame beside its pixels; None where PyAV has no name for some of it (EXIF)."""
    try:
        return frame.side_data  # type: ignore[return-value]  # a mapping of them, in truth
    except ValueError:
        return None


def is_profile_5(data: SideDataContainer) -> bool:
    """Whether Dolby Vision's data (RPU) are those of profile 5: behind 25 bits, four that are 0."""
    found = data.get(Type.DOVI_RPU_BUFFER)  # type: ignore[call-overload]  # a name, says its stub
    head = b"" if found is None else bytes(found)[:4]
    return len(head) == 4 and head[0] == RPU_PREFIX and not head[3] >> 3 & 15


def turned(frame: VideoFrame) -> Axes:
    """Where a frame's display matrix takes the axes by its angle alone; raises `Lost` if by no quarter."""
    axes = QUARTERS.get(frame.rotation % 360)
    if axes is None:
        raise Lost(
            DAMAGED, f"its display matrix turns by {frame.rotation} degrees, no quarter; turn it first"
        )
    return axes


def axes_of(data: SideDataContainer) -> Axes:
    """Where a frame's display matrix takes the axes: x to (a, b), y to (c, d), each of 1, 0 or -1.

    Raises:
        Lost: it does more than turn by quarters and mirror.
    """
    matrix = data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]  # a name, says its stub
    return UPRIGHT if matrix is None else axes_in(bytes(matrix))


def axes_in(matrix: bytes) -> Axes:
    """The same of the matrix.

    Raises:
        Lost: it does more than turn by quarters and mirror.
    """
    a, b, _, c, d, *_ = np.frombuffer(matrix, "=i4").astype(float)
    largest = max(map(abs, (a, b, c, d))) or 1.0
    whole = [round(value / largest) if abs(value / largest) > SKEW else 0 for value in (a, b, c, d)]
    axes = whole[0], whole[1], whole[2], whole[3]
    if axes != UPRIGHT and axes not in TURNS:
        raise Lost(
            DAMAGED, f"its display matrix ({a:g}, {b:g}, {c:g}, {d:g}) turns by no quarter; turn it first"
        )
    return axes

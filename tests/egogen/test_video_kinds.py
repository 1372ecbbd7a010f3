"""Videos that somebody has trimmed, or that are of rare kinds: transparent, interlaced, without times."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from egogen.prepare.frames.video import VideoFile
from egogen.prepare.pair_plan import AFTER_END, BROKEN, UNREADABLE, AtFrame, Lost
from tests.egogen.raw_data import HEIGHT, WIDTH, drawn, grainy, make_video, number_in

COUNT = 90
RATE = Fraction(30)
FRAME = 512  # ticks, of the MP4 files that are written here


def found(path: Path, places: Sequence[int]) -> list[int | None]:
    with VideoFile(path).open() as video:
        return [None if image is None else number_in(image) for _, image in video.images(places)]


@pytest.mark.parametrize(("begin", "length"), [(1, 0), (31, 0), (62, 0), (0, 30), (31, 20)])
def test_a_trimmed_video_is_whole(tmp_path: Path, begin: int, length: int) -> None:
    """Phones trim by an edit list: what they leave out stays in the file."""
    path = make_video(tmp_path / "v.mp4", COUNT, options={"bf": "3", "g": "30"})
    content = bytearray(path.read_bytes())
    where = content.index(b"elst") + 12
    shown, first = struct.unpack(">Ii", content[where : where + 8])
    shown = length * 1000 // 30 if length else shown  # milliseconds
    content[where : where + 8] = struct.pack(">Ii", shown, first + begin * FRAME)
    path.write_bytes(content)
    last = begin + length if length else COUNT
    with VideoFile(path).open() as video:
        count = len(video.timeline.pts)
        assert not video.timeline.cut_off
        with pytest.raises(Lost) as lost:
            video.find(AtFrame(count, RATE))
    assert count == last - begin
    assert found(path, [0, count - 1]) == [begin, last - 1]
    assert lost.value.reason == AFTER_END


def test_h264_in_avi_that_lacks_frames_is_refused(tmp_path: Path) -> None:
    """Its frames are told apart by their order alone: behind a lost one others would be taken for it."""
    path = make_video(tmp_path / "v.avi", grainy(COUNT), options={"bf": "3", "g": "30"})
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 1500] = bytes(random.Random(1).choices(range(256), k=1500))
    path.write_bytes(content)
    with pytest.raises(Lost, match=r"v\.avi: H.264 in AVI.* ffmpeg -i IN OUT\.mp4") as lost:
        found(path, [0])
    assert lost.value.reason == UNREADABLE


def transparent(path: Path, codec: str, form: str, shown: int = WIDTH // 2) -> Path:
    """Writes three frames of red, clear but for their left columns."""
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[..., 0], pixels[:, :shown, 3] = 255, 255
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, form
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=form)
            frame.pts, frame.time_base = number, 1 / RATE
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("suffix", "codec", "form"), [("mov", "png", "rgba"), ("mov", "qtrle", "argb"), ("mkv", "ffv1", "bgra")]
)
def test_transparent_parts_are_white_as_those_of_photos(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, codec: str, form: str
) -> None:
    path = transparent(tmp_path / f"v.{suffix}", codec, form)
    with VideoFile(path).open() as video:
        ((_, image),) = video.images([1])
    assert image is not None
    assert image.mode == "RGB"
    assert image.getpixel((5, 5)) == (255, 0, 0)
    assert image.getpixel((WIDTH - 5, 5)) == (255, 255, 255)
    assert f"{path}: has transparent parts; they are shown on white" in caplog.text


def test_of_webm_transparency_is_said_not_to_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = transparent(tmp_path / "v.webm", "libvpx-vp9", "yuva420p")
    assert found(path, [1]) != [None]
    assert f"{path}: has transparent parts, which are not read" in caplog.text


@pytest.mark.parametrize("suffix", ["avi", "mpg"])
def test_interlaced_by_its_frames_is_said_though_the_header_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str
) -> None:
    codec = "mpeg4" if suffix == "avi" else "mpeg2video"
    path = make_video(tmp_path / f"v.{suffix}", 6, codec, options={"flags": "+ildct+ilme"})
    assert found(path, [1, 2]) == [1, 2]
    assert caplog.text.count(f"{path}: interlaced") == 1


@pytest.mark.parametrize("transfer", [2, 1])
def test_dolby_vision_alone_is_refused(tmp_path: Path, transfer: int) -> None:
    """Its colours are of a kind of their own, and no header says so but by the name of the pictures."""
    path = make_video(
        tmp_path / "v.mp4",
        [Image.new("RGB", (WIDTH, HEIGHT), "red")] * 3,
        "libx265",
        options={"x265-params": "log-level=none"},
        context={} if transfer == 2 else {"color_trc": 1, "color_primaries": 1, "colorspace": 1},
    )
    content = path.read_bytes()
    path.write_bytes(content.replace(b"hev1", b"dvh1"))
    if transfer == 1:  # its own colours are for everybody
        assert found(path, [1]) != [None]
        return
    with pytest.raises(Lost, match=r"v\.mp4: Dolby Vision alone \(dvh1\).*tone-map") as lost:
        found(path, [1])
    assert lost.value.reason in BROKEN


def test_two_sizes_in_one_video_are_each_given(tmp_path: Path) -> None:
    parts = [
        make_video(tmp_path / "small.webm", [drawn(number) for number in range(30)], "libvpx"),
        make_video(tmp_path / "large.webm", [drawn(number, 160, 96) for number in range(30, 60)], "libvpx"),
    ]
    with av.open(str(tmp_path / "v.webm"), "w") as file:
        out = None
        for place, part in enumerate(parts):
            with av.open(str(part)) as source:
                stream = source.streams.video[0]
                out = out or file.add_stream_from_template(stream)
                for packet in source.demux(stream):
                    if packet.dts is not None:
                        packet.pts, packet.dts = packet.pts + 1000 * place, packet.dts + 1000 * place
                        packet.stream = out
                        file.mux(packet)
    with VideoFile(tmp_path / "v.webm").open() as video:
        shown = [(image.size, number_in(image)) for _, image in video.images([0, 29, 30, 59]) if image]
    assert shown == [((80, 48), 0), ((80, 48), 29), ((160, 96), 30), ((160, 96), 59)]


def test_a_fourth_byte_without_a_use_is_no_transparency(tmp_path: Path) -> None:
    """As uncompressed AVI has it: 0 everywhere."""
    path = transparent(tmp_path / "v.avi", "rawvideo", "bgra", shown=0)
    with VideoFile(path).open() as video:
        ((_, image),) = video.images([1])
    assert image is not None
    assert image.getpixel((5, 5)) == (255, 0, 0)

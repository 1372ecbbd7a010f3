"""Frames of videos, to the frame: containers, codecs, reordering, odd time stamps, damage."""

from __future__ import annotations

import math
import random
import shutil
import struct
from collections.abc import Callable
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from egogen.prepare.frames.timeline import Timeline
from egogen.prepare.frames.video import Video, VideoFile
from egogen.prepare.pair_plan import (
    AFTER_END,
    BROKEN,
    CUT_OFF,
    DAMAGED,
    UNREADABLE,
    AtFrame,
    AtTime,
    Lost,
    Place,
)
from tests.egogen.raw_data import HEIGHT, VP9, WIDTH, drawn, grainy, make_video, number_in

COUNT = 90
RATE = Fraction(30)
VARIABLE = list(accumulate(random.Random(3).choices([1, 2, 3, 7], k=COUNT - 1), initial=0))
# Container, codec, encoder options: without reordered frames, with, with open groups, with short ones.
KINDS = {
    "h264": ("mp4", "libx264", {"bf": "0", "g": "30"}),
    "b-frames": ("mp4", "libx264", {"bf": "3", "g": "30"}),
    "pyramid": ("mp4", "libx264", {"x264-params": "keyint=12:bframes=5:b-pyramid=normal:open-gop=1"}),
    "mpegts": ("ts", "libx264", {"bf": "3", "g": "30"}),  # no index: seeking lands behind what was asked for
    "mpegps": ("mpg", "mpeg2video", {}),  # after it, time stamps are others
    "two": ("mp4", "libx264", {"bf": "3", "g": "2"}),
    "one key": ("mkv", "libx264", {}),
    "vp9": ("mp4", "libvpx-vp9", VP9 | {"g": "24"}),
    "h264 avi": ("avi", "libx264", {"bf": "3", "g": "30"}),  # whose time stamps are those of decoding
    "vp9 b": ("webm", "libvpx-vp9", {"cpu-used": "5", "g": "24", "auto-alt-ref": "1", "lag-in-frames": "16"}),
}  # fmt: skip


def numbers(video: Video, positions: list[int]) -> list[int | None]:
    shown = list(video.images(positions))
    assert [position for position, _ in shown] == positions
    return [None if image is None else number_in(image) for _, image in shown]


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_is_found_alone_and_among_others(tmp_path: Path, kind: str) -> None:
    suffix, codec, options = KINDS[kind]
    path = make_video(tmp_path / f"v.{suffix}", COUNT, codec, options=options)
    rng = random.Random(kind)
    with VideoFile(path).open() as video:
        assert video.fps == 30
        assert [video.find(AtFrame(number, RATE)) for number in range(COUNT)] == list(range(COUNT))
        assert [video.find(AtTime(number / RATE)) for number in range(COUNT)] == list(range(COUNT))
        assert numbers(video, list(range(COUNT))) == list(range(COUNT))
        for _ in range(20):
            wanted = sorted(rng.sample(range(COUNT), rng.choice([1, 1, 2, 6])))
            assert numbers(video, wanted) == wanted


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_late_first_frame_and_a_variable_rate(tmp_path: Path, suffix: str) -> None:
    base = Fraction(1, 90)
    stamps = [stamp + 31 for stamp in VARIABLE]
    path = make_video(
        tmp_path / f"v.{suffix}", COUNT, stamps=stamps, base=base, options={"bf": "3", "g": "25"}
    )
    with VideoFile(path).open() as video:
        assert not video.timeline.steady
        for half in range(2 * VARIABLE[-1]):
            time = half * base / 2 + Fraction(1, 500)  # beside the rounding of the container's time stamps
            on_screen = max(number for number in range(COUNT) if VARIABLE[number] * base <= time)
            assert video.find(AtTime(time)) == on_screen
        assert numbers(video, list(range(COUNT))) == list(range(COUNT))
        assert video.stamp(5).seconds == pytest.approx(VARIABLE[5] / 90, abs=0.001)


def test_frame_numbers_of_a_variable_rate_are_times(tmp_path: Path) -> None:
    # A frame of a 30 Hz clock is missing: later numbers are still those of the clock.
    stamps = [number for number in range(COUNT) if number != 40]
    path = make_video(tmp_path / "v.mp4", [drawn(stamp) for stamp in stamps], stamps=stamps)
    with VideoFile(path).open() as video:
        shown = numbers(video, [video.find(AtFrame(number, RATE)) for number in (39, 40, 41, 80)])
    assert shown == [39, 39, 41, 80]


@pytest.mark.parametrize("rate", [Fraction(15), Fraction(30000, 1001)])
def test_frames_of_a_constant_rate_are_counted_whatever_rate_is_annotated(
    tmp_path: Path, rate: Fraction
) -> None:
    path = make_video(tmp_path / "v.mp4", COUNT, rate=rate)
    with VideoFile(path).open() as video:
        assert [video.find(AtFrame(number, RATE)) for number in range(COUNT)] == list(range(COUNT))


def test_packets_before_the_start_are_not_counted(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", COUNT, options={"bf": "2", "g": "30"})
    content = bytearray(path.read_bytes())
    # The edit list says at which tick of its pictures the film begins; let it begin ten frames later.
    where = content.index(b"elst") + 16
    (begin,) = struct.unpack(">i", content[where : where + 4])
    content[where : where + 4] = struct.pack(">i", begin + 10 * 512)
    path.write_bytes(content)
    with VideoFile(path).open() as video:
        assert numbers(video, [video.find(AtFrame(number, RATE)) for number in (0, 20)]) == [10, 30]


@pytest.mark.parametrize("place", [AtFrame(COUNT, RATE), AtTime(COUNT / RATE), AtTime(Fraction(100))])
def test_after_the_end(tmp_path: Path, place: Place) -> None:
    path = make_video(tmp_path / "v.mp4", COUNT)
    with VideoFile(path).open() as video, pytest.raises(Lost) as lost:
        video.find(place)
    assert lost.value.reason == AFTER_END


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("mp4", "libx264"), ("mp4", "libvpx-vp9"), ("webm", "libvpx-vp9"), ("avi", "libx264")],
)
def test_a_truncated_video_gives_what_it_has(tmp_path: Path, suffix: str, codec: str) -> None:
    options = {"g": "30"} | (VP9 if "vp9" in codec else {})
    path = make_video(
        tmp_path / f"v.{suffix}", grainy(COUNT), codec, options=options, container={"movflags": "faststart"}
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
    with VideoFile(path).open() as video:
        there = len(video.timeline.pts)
        assert video.timeline.cut_off
        assert 40 < there < 70
        found = numbers(video, list(range(there)))
        assert found[:40] == list(range(40))
        assert all(number in (None, position) for position, number in enumerate(found))
        with pytest.raises(Lost) as lost:
            video.find(AtFrame(COUNT - 1, RATE))
    assert lost.value.reason == CUT_OFF


def test_after_damage_nothing_is_given_until_the_next_key_frame(tmp_path: Path) -> None:
    path = make_video(
        tmp_path / "v.mp4", grainy(COUNT), options={"g": "30", "bf": "0"}, container={"movflags": "faststart"}
    )
    # Whole packets: of the half of one, decoders may make a picture without a word.
    with av.open(str(path)) as file:
        packets = list(file.demux(video=0))[:COUNT]
    begin, end = packets[41].pos, packets[44].pos
    assert begin is not None
    assert end is not None
    key = next(number for number in range(44, COUNT) if packets[number].is_keyframe)
    assert key > 44
    content = bytearray(path.read_bytes())
    content[begin:end] = random.Random(1).randbytes(end - begin)
    path.write_bytes(content)
    with VideoFile(path).open() as video:
        found = numbers(video, list(range(COUNT)))
    assert found == [*range(41), *[None] * (key - 41), *range(key, COUNT)]


def test_a_video_of_rubbish_is_read_once(tmp_path: Path) -> None:
    path = make_video(
        tmp_path / "v.mp4", grainy(COUNT), options={"g": "5"}, container={"movflags": "faststart"}
    )
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start:] = bytes(len(content) - start)
    path.write_bytes(content)
    with VideoFile(path).open() as video:
        assert numbers(video, list(range(COUNT))) == [None] * COUNT


# Where a display matrix takes x and y (right and down are positive), and what it does to rows and columns.
ORIENTATIONS: dict[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]] = {
    (1, 0, 0, 1): lambda picture: picture,
    (-1, 0, 0, 1): lambda picture: picture[:, ::-1],
    (1, 0, 0, -1): lambda picture: picture[::-1],
    (-1, 0, 0, -1): lambda picture: picture[::-1, ::-1],
    (0, 1, -1, 0): lambda picture: np.rot90(picture, -1),
    (0, -1, 1, 0): np.rot90,
    (0, 1, 1, 0): lambda picture: picture.swapaxes(0, 1),
    (0, -1, -1, 0): lambda picture: picture[::-1, ::-1].swapaxes(0, 1),
}


def with_matrix(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """Puts a display matrix into an MP4 file (ISO 14496-12: the track header's, 16.16 fixed point)."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    assert struct.unpack(">9i", content[matrix : matrix + 36])[0] == 1 << 16
    fixed = [round(value * (1 << 16)) for value in (a, b, 0, c, d, 0, 0, 0)]
    content[matrix : matrix + 36] = struct.pack(">9i", *fixed, 1 << 30)
    path.write_bytes(content)
    return path


def second(path: Path) -> Image.Image:
    """The frame of number 1."""
    with VideoFile(path).open() as video:
        ((_, image),) = video.images([1])
    assert image is not None
    return image


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("plain") / "v.mp4", 3)


@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_a_turned_or_mirrored_camera(tmp_path: Path, plain: Path, axes: tuple[int, int, int, int]) -> None:
    expected = ORIENTATIONS[axes](np.asarray(second(plain)))
    path = with_matrix(Path(shutil.copy(plain, tmp_path)), *axes)
    assert np.array_equal(np.asarray(second(path)), expected)


def test_a_matrix_that_turns_by_no_quarter_is_refused(tmp_path: Path, plain: Path) -> None:
    path = with_matrix(Path(shutil.copy(plain, tmp_path)), 0.7, 0.7, -0.7, 0.7)
    with pytest.raises(Lost, match="turns by no quarter") as lost:
        second(path)
    assert lost.value.reason == DAMAGED


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_pixels_that_are_not_square_are_made_so(tmp_path: Path, suffix: str) -> None:
    wide = {"sample_aspect_ratio": Fraction(4, 3)}
    path = make_video(tmp_path / f"v.{suffix}", 3, context=wide)
    shown = second(path)
    assert shown.size == (round(WIDTH * 4 / 3), HEIGHT)
    assert number_in(shown) == 1
    if suffix == "mp4":
        assert second(with_matrix(path, 0, 1, -1, 0)).size == (HEIGHT, round(WIDTH * 4 / 3))


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_high_dynamic_range_is_refused(tmp_path: Path, transfer: int, name: str) -> None:
    path = make_video(tmp_path / "v.mp4", 3, context={"color_trc": transfer, "color_primaries": 9})
    with pytest.raises(Lost, match=rf"v\.mp4: high dynamic range \({name}\).*tonemap") as lost:
        second(path)
    assert lost.value.reason in BROKEN


@pytest.mark.parametrize(
    ("context", "options", "told"),
    [
        ({"color_primaries": 9}, {}, "v.mp4: its colours are BT.2020's"),
        ({}, {"x264-params": "interlaced=1:tff=1"}, "v.mp4: interlaced"),
        ({"color_primaries": 1, "color_trc": 1, "colorspace": 1}, {}, ""),
    ],
)
def test_what_a_picture_does_not_show_rightly_is_said(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    context: dict[str, object],
    options: dict[str, str],
    told: str,
) -> None:
    second(make_video(tmp_path / "v.mp4", 3, context=context, options=options))
    assert told in caplog.text
    assert bool(told) == bool(caplog.text)


# Weights of red and blue in luma (ITU-R BT.601, BT.709, BT.2020), by the number of ITU-T H.273, table 4.
MATRICES = {6: (0.299, 0.114), 1: (0.2126, 0.0722), 9: (0.2627, 0.0593), 2: (0.299, 0.114)}
COLOUR = (200, 40, 60)


@pytest.mark.parametrize(
    ("matrix", "full"),
    [(matrix, full) for matrix in MATRICES for full in (False, True) if matrix != 2 or not full],
)
def test_colours_by_the_matrix_and_range_that_a_video_names(tmp_path: Path, matrix: int, full: bool) -> None:
    """Of a video that names none (2): BT.601, whatever its size, as ffmpeg takes it."""
    (red, green, blue), (of_red, of_blue) = COLOUR, MATRICES[matrix]
    luma = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    chroma = [(blue - luma) / (2 - 2 * of_blue), (red - luma) / (2 - 2 * of_red)]
    if not full:
        luma, chroma = 16 + luma * 219 / 255, [value * 224 / 255 for value in chroma]
    planes = [round(luma), *(round(value + 128) for value in chroma)]
    size = (720, 1280) if matrix == 2 else (HEIGHT, WIDTH)
    with av.open(str(tmp_path / "v.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=30, options={"preset": "ultrafast", "qp": "0"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        values = np.full((size[0] * 3 // 2, size[1]), planes[0], np.uint8)
        values[size[0] : size[0] * 5 // 4], values[size[0] * 5 // 4 :] = planes[1:]
        frame = av.VideoFrame.from_ndarray(values, format="yuv420p")
        if matrix != 2:
            for part in (stream.codec_context, frame):
                part.colorspace, part.color_range = matrix, 2 if full else 1
        for number in range(2):
            frame.pts = number
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    shown = np.asarray(second(tmp_path / "v.mp4"), int)
    assert np.abs(shown - COLOUR).max() <= 3, "8 bits of luma and chroma are rounded"


CONTAINERS = {
    "mp4": ("libx264", {"bf": "2"}),
    "mkv": ("libx264", {"bf": "2"}),
    "ts": ("libx264", {"bf": "2"}),
    "webm": ("libvpx-vp9", VP9),
    "mjpeg.avi": ("mjpeg", {}),
    "mpeg4.avi": ("mpeg4", {"bf": "2"}),
    "h264.avi": ("libx264", {"x264-params": "keyint=12:bframes=5:b-pyramid=normal:open-gop=1"}),
}


@pytest.mark.parametrize("rate", [Fraction(30), Fraction(25), Fraction(30000, 1001), Fraction(60000, 1001)])
def test_a_time_means_the_same_frame_in_any_container(tmp_path: Path, rate: Fraction) -> None:
    rng, count = random.Random(f"{rate}"), 40
    inside = [(rng.randrange(count) + Fraction(rng.randrange(1, 1000), 1000)) / rate for _ in range(200)]
    times = [*inside, *(number / rate for number in range(count))]
    floats = [Fraction(float(time)) for time in times]
    expected = [math.floor(time * rate) for time in times]
    for suffix, (codec, options) in CONTAINERS.items():
        path = make_video(tmp_path / f"v.{suffix}", count, codec, rate=rate, options=options)
        with VideoFile(path).open() as video:
            assert video.timeline.rate == rate, suffix
            for asked in (times, floats):
                assert [video.find(AtTime(time)) for time in asked] == expected, suffix
            if suffix != "ts":  # whose first key frame is hard to seek; no source of ours
                assert numbers(video, [0, 7, count - 1]) == [0, 7, count - 1], suffix
            for late in (count / rate, count / rate + Fraction(1, 100)):
                with pytest.raises(Lost):
                    video.find(AtTime(late))


@pytest.mark.parametrize(("end", "ends_at"), [(10, 10), (15, 15), (9, 10)])
def test_the_last_frame_may_be_held_longer(end: int, ends_at: int) -> None:
    """Of a container whose last frame has no length (9), it lasts as long as the others."""
    timeline = Timeline(Fraction(1, 30), list(range(10)), [0], end, cut_off=False)
    assert timeline.at(Fraction(ends_at - 1, 30)) == timeline.at(Fraction(2 * ends_at - 1, 60)) == 9
    assert timeline.at(Fraction(ends_at, 30)) is None


def test_a_variable_rate_in_ticks_as_long_as_frames(tmp_path: Path) -> None:
    stamps = [0, 1, 2, 4, 7, 8, 9]
    path = make_video(tmp_path / "v.avi", 7, "mjpeg", stamps=stamps, base=Fraction(1, 30))
    with VideoFile(path).open() as video:
        assert not video.timeline.steady
        for quarter in range(4 * stamps[-1]):
            on_screen = max(number for number in range(7) if 4 * stamps[number] <= quarter)
            assert video.find(AtTime(Fraction(quarter, 4 * 30))) == on_screen


def test_no_video_at_all(tmp_path: Path) -> None:
    (tmp_path / "junk.mp4").write_bytes(b"nothing" * 100)
    for name in ("junk.mp4", "none.mp4"):
        with pytest.raises(Lost, match=name) as lost, VideoFile(tmp_path / name).open():
            pass
        assert lost.value.reason == UNREADABLE

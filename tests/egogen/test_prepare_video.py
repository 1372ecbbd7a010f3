"""Frames of videos, to the frame: containers, codecs, reordering, odd time stamps, damage."""

from __future__ import annotations

import random
import struct
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import pytest

from egogen.prepare.frames.video import Video, VideoFile
from egogen.prepare.pair_plan import AFTER_END, CUT_OFF, UNREADABLE, AtFrame, AtTime, Lost, Place
from tests.egogen.raw_data import VP9, drawn, grainy, make_video, number_in

COUNT = 90
RATE = Fraction(30)
VARIABLE = list(accumulate(random.Random(3).choices([1, 2, 3, 7], k=COUNT - 1), initial=0))
# Container, codec, encoder options: without reordered frames, with, with open groups, with short ones.
KINDS = {
    "h264": ("mp4", "libx264", {"bf": "0", "g": "30"}),
    "b-frames": ("mp4", "libx264", {"bf": "3", "g": "30"}),
    "pyramid": ("mp4", "libx264", {"x264-params": "keyint=12:bframes=5:b-pyramid=normal:open-gop=1"}),
    "two": ("mp4", "libx264", {"bf": "3", "g": "2"}),
    "one key": ("mkv", "libx264", {}),
    "vp9": ("mp4", "libvpx-vp9", VP9 | {"g": "24"}),
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
    ("suffix", "codec"), [("mp4", "libx264"), ("mp4", "libvpx-vp9"), ("webm", "libvpx-vp9")]
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
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 1500] = bytes(random.Random(1).choices(range(256), k=1500))
    path.write_bytes(content)
    with VideoFile(path).open() as video:
        found = numbers(video, list(range(COUNT)))
    assert found.count(None) in range(1, 40)
    assert found[-20:] == list(range(COUNT - 20, COUNT))
    assert all(number in (None, position) for position, number in enumerate(found))


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


def test_a_turned_camera(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", 3)
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    assert struct.unpack(">9i", content[matrix : matrix + 36])[0] == 1 << 16
    # x goes down, y goes left: a quarter turn clockwise.
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    with VideoFile(path).open() as video:
        (_, image), = video.images([1])  # fmt: skip
    assert image is not None
    assert image.size == (48, 80)
    assert number_in(image.rotate(90, expand=True)) == 1


def test_no_video_at_all(tmp_path: Path) -> None:
    (tmp_path / "junk.mp4").write_bytes(b"nothing" * 100)
    for name in ("junk.mp4", "none.mp4"):
        with pytest.raises(Lost, match=name) as lost, VideoFile(tmp_path / name).open():
            pass
        assert lost.value.reason == UNREADABLE

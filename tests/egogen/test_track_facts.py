"""What a container says of its pictures, said oddly, damaged, or of other pictures than are decoded."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from egogen.prepare.frames.track_facts import MOST_PARTS, NO_FACTS, track_facts
from tests.egogen.raw_data import make_video
from tests.egogen.test_video_kinds import picture_of, with_box

APERTURE = struct.pack(">4IiIiI", 60, 1, 40, 1, 2, 1, -1, 1)
PROFILE_5 = bytes([1, 0, 5 << 1, 6 << 3 | 0b101, 0]).ljust(24, b"\0")


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return make_video(tmp_path / "v.mp4", 3)


def changed(path: Path, offset: int, content: bytes) -> None:
    film = bytearray(path.read_bytes())
    film[offset : offset + len(content)] = content
    path.write_bytes(film)


@pytest.mark.parametrize("stretch", [None, (2, 1)])
def test_cropping_is_no_stretch(video: Path, stretch: tuple[int, int] | None) -> None:
    """Where the track's header holds the cropped size, FFmpeg takes the two for square pixels made wide."""
    whole = picture_of(video)
    with_box(video, b"clap", APERTURE)
    changed(video, video.read_bytes().index(b"tkhd") + 80, struct.pack(">2I", 60 << 16, 40 << 16))
    if stretch is not None:
        with_box(video, b"pasp", struct.pack(">2I", *stretch))
    shown = picture_of(video)
    if stretch is None:
        assert np.array_equal(shown, whole[3:43, 12:72])
    else:
        assert shown.shape == (40, 120, 3)


def test_pictures_of_another_size_are_not_cropped_again(video: Path) -> None:
    """A stream may have left out its own margins, which the container's size still counts."""
    whole = picture_of(video)
    with_box(video, b"clap", APERTURE)
    entry = video.read_bytes().index(b"stsd") + 4 + 8 + 8  # behind its own head and that of the entry
    changed(video, entry + 24, struct.pack(">2H", 80, 64))
    changed(video, video.read_bytes().index(b"tkhd") + 80, struct.pack(">2I", 80 << 16, 64 << 16))
    assert track_facts(video, "mp4", 0).size == (80, 64)
    assert np.array_equal(picture_of(video), whole)


@pytest.mark.parametrize("damaged", [APERTURE[:-4] + bytes(4), APERTURE[:20]])
@pytest.mark.parametrize("first", [True, False])
def test_a_damaged_fact_hides_no_other(video: Path, damaged: bytes, first: bool) -> None:
    boxes = [(b"clap", damaged), (b"dvcC", PROFILE_5)]
    for name, content in boxes if first else reversed(boxes):
        with_box(video, name, content)
    facts = track_facts(video, "mp4", 0)
    assert (facts.crop, facts.dolby) == ((0, 0, 0, 0), 5)


def test_a_fact_behind_countless_others_is_not_looked_for(video: Path) -> None:
    with_box(video, b"dvcC", PROFILE_5)
    assert track_facts(video, "mp4", 0).dolby == 5
    fillers = struct.pack(">I4s", 8, b"free") * (MOST_PARTS - 3)
    for name, content in ((b"free", fillers), (b"clap", APERTURE)):
        with_box(video, name, content)
    film = video.read_bytes()  # the filler's own parts in its place
    assert track_facts(video, "mp4", 0).crop == (12, 3, 8, 5)
    at = film.index(fillers) - 8
    changed(video, at, struct.pack(">I4s", 8, b"free"))
    assert track_facts(video, "mp4", 0).crop == (0, 0, 0, 0)


def test_of_other_containers_nothing_is_known(video: Path) -> None:
    with_box(video, b"clap", APERTURE)
    assert track_facts(video, "avi", 0) == NO_FACTS
    assert track_facts(video, "mp4", 1) == NO_FACTS, "there is one track"

"""Hostile videos: each is lost with one line that names it, soon; no other file is read, no address asked."""

from __future__ import annotations

import os
import random
import struct
import time
from pathlib import Path

import av
import pytest

from egogen.prepare.frames import video as module
from egogen.prepare.frames.video import VideoFile
from egogen.prepare.pair_plan import UNREADABLE, Lost
from tests.egogen.raw_data import make_video

HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"
LISTS = {
    "x.m3u8": HLS.format("secret.ts"),
    "hls.mp4": HLS.format("secret.ts"),
    "remote.mp4": HLS.format("http://127.0.0.1:9/x.ts"),
    "concat.mp4": "ffconcat version 1.0\nfile secret.mp4\n",
    "x.ffconcat": "ffconcat version 1.0\nfile secret.mp4\n",
    "x.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "dash.mp4": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"></MPD>',
    "x.svg": '<svg xmlns="http://www.w3.org/2000/svg"><image href="secret.mp4"/></svg>',
}


def frames_of(path: Path) -> int:
    with VideoFile(path).open() as video:
        return sum(image is not None for _, image in video.images(range(len(video.timeline.pts))))


@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_names_other_files_is_no_video(name: str, tmp_path: Path) -> None:
    make_video(tmp_path / "secret.mp4", 5)
    make_video(tmp_path / "secret.ts", 5, codec="mpeg2video")
    (tmp_path / name).write_text(LISTS[name])
    with pytest.raises(Lost, match=name) as lost:
        frames_of(tmp_path / name)
    assert lost.value.reason == UNREADABLE
    assert frames_of(tmp_path / "secret.mp4") == 5


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_damaged_headers_end_soon(suffix: str, tmp_path: Path) -> None:
    """Cut, or with other bytes, mostly near both ends, where containers keep what they say of themselves."""
    path = make_video(tmp_path / f"x{suffix}", 12)
    content, chance, lost, began = path.read_bytes(), random.Random(3), 0, time.process_time()
    for number in range(60):
        changed = bytearray(content[: chance.randrange(len(content))] if number % 3 == 0 else content)
        for _ in range(8 * (number % 3)):
            place = chance.randrange(min(len(changed), 900))
            changed[place if chance.random() < 0.5 else -1 - place] = chance.choice([0, 255, 127, 128])
        path.write_bytes(changed)
        try:
            assert frames_of(path) <= 12
        except Lost:
            lost += 1
    assert lost > 5
    assert time.process_time() - began < 10


def test_a_header_of_huge_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before memory for one is asked for."""
    path = make_video(tmp_path / "x.mp4", 3)
    content = bytearray(path.read_bytes())
    place = content.index(b"avc1", content.index(b"stsd")) + 28  # the sample entry's width and height
    assert struct.unpack_from(">HH", content, place) == (80, 48)
    struct.pack_into(">HH", content, place, 65535, 65535)
    (tmp_path / "huge.mp4").write_bytes(content)
    assert frames_of(tmp_path / "huge.mp4") == 3  # the stream says otherwise, and is right
    monkeypatch.setattr(module, "MOST_PIXELS", 1000)
    with pytest.raises(Lost, match=r"x\.mp4: frames of 80 x 48; allowed are 1000 pixels"):
        frames_of(path)


def test_a_pipe_that_never_ends(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.mp4")
    with pytest.raises(Lost, match=r"x\.mp4: is a named pipe"):
        frames_of(tmp_path / "x.mp4")


def test_the_containers_are_those_of_the_library() -> None:
    known = {part for name in av.formats_available for part in name.split(",")}
    assert set(module.CONTAINERS.split(",")) <= known

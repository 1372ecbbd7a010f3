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
from PIL import ExifTags, Image

from egogen.prepare.frames.find import VIDEOS, find_sources
from egogen.prepare.frames.video import VideoFile
from egogen.prepare.pair_plan import AFTER_END, BROKEN, CUT_OFF, UNREADABLE, AtFrame, Lost
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


def with_box(path: Path, kind: bytes, content: bytes) -> Path:
    """Puts a box at the end of the first sample entry of an MP4 file, whose index is behind its frames."""
    film, end = bytearray(path.read_bytes()), 0
    assert film.index(b"mdat") < film.index(b"moov")
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"1"):  # avc1, hev1
        at = film.index(name, end) - (3 if name == b"1" else 0)
        (size,) = struct.unpack_from(">I", film, at - 4)
        end, place = at, at - 4 + size
        struct.pack_into(">I", film, at - 4, size + 8 + len(content))
    film[place:place] = struct.pack(">I4s", 8 + len(content), kind) + content
    path.write_bytes(film)
    return path


def in_matroska(path: Path) -> Path:
    """The same in Matroska, as FFmpeg writes it."""
    made = path.with_suffix(".mkv")
    with av.open(str(path)) as source, av.open(str(made), "w", options={"strict": "unofficial"}) as file:
        stream = source.streams.video[0]
        out = file.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = out
                file.mux(packet)
    return made


def picture_of(path: Path) -> np.ndarray:
    with VideoFile(path).open() as video:
        ((_, image),) = video.images([1])
    return np.asarray(image)


@pytest.mark.parametrize(
    ("said", "left", "top", "right", "bottom"),
    [
        ((60, 1, 40, 1, 2, 1, -1, 1), 12, 3, 8, 5),
        ((80, 1, 24, 1, 0, 1, 0, 1), 0, 12, 0, 12),
        ((141, 2, 48, 1, 0, 1, 0, 1), 4, 0, 5, 0),  # 70.5 pixels wide, from 4.75 on
        ((80, 1, 48, 1, 0, 1, 0, 1), 0, 0, 0, 0),
        ((60, 1, 40, 1, 11, 1, 0, 1), 0, 0, 0, 0),  # beyond the picture
        ((60, 0, 40, 1, 0, 1, 0, 1), 0, 0, 0, 0),
        ((96, 1, 48, 1, 0, 1, 0, 1), 0, 0, 0, 0),
    ],
)
def test_what_a_container_crops_is_cropped(
    tmp_path: Path, said: tuple[int, ...], left: int, top: int, right: int, bottom: int
) -> None:
    """The margins in Matroska are those that FFmpeg works out of MP4's aperture."""
    path = make_video(tmp_path / "v.mp4", 3)
    whole = picture_of(path)
    expected = whole[top : HEIGHT - bottom, left : WIDTH - right]
    with_box(path, b"clap", struct.pack(">4IiIiI", *said))
    assert np.array_equal(picture_of(path), expected)
    assert np.array_equal(picture_of(in_matroska(path)), expected)


def test_a_picture_is_cropped_before_it_is_turned(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.mp4", 3)
    whole = picture_of(path)
    with_box(path, b"clap", struct.pack(">4IiIiI", 60, 1, 40, 1, 2, 1, -1, 1))
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    content[matrix : matrix + 20] = struct.pack(">5i", 0, 1 << 16, 0, -1 << 16, 0)
    path.write_bytes(content)
    assert np.array_equal(picture_of(path), np.rot90(whole[3:43, 12:72], -1))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(
    ("profile", "compatible", "box", "alone"),
    [(5, 0, b"dvcC", True), (10, 0, b"dvvC", True), (8, 1, b"dvvC", False), (8, 4, b"dvvC", False),
     (4, 2, b"dvcC", False)],
)  # fmt: skip
def test_dolby_vision_that_only_its_record_tells_of(
    tmp_path: Path, suffix: str, profile: int, compatible: int, box: bytes, alone: bool
) -> None:
    """Its pictures are called as any others' and name no transfer function."""
    path = make_video(tmp_path / "v.mp4", 3, "libx265", options={"x265-params": "log-level=none"})
    record = bytes([1, 0, profile << 1, 6 << 3 | 0b101, compatible << 4]).ljust(24, b"\0")
    with_box(path, box, record)
    path = in_matroska(path) if suffix == "mkv" else path
    if not alone:
        assert found(path, [1]) == [1]
        return
    with pytest.raises(Lost, match=rf"v\.{suffix}: Dolby Vision alone \(profile {profile}\)") as lost:
        found(path, [1])
    assert lost.value.reason in BROKEN


def rpu(profile: int) -> bytes:
    """Dolby Vision's data beside a picture, a NAL unit of HEVC: curves that change nothing, no metadata."""

    def golomb(number: int) -> str:
        digits = f"{number + 1:b}"
        return "0" * (len(digits) - 1) + digits

    bits = (
        f"000010{18:011b}{profile:04b}0000" + "1000" + golomb(23) + "011"
    )  # type, format, profile, level ...
    bits += golomb(2) * 2 + golomb(4) + "000001" + "00" + golomb(0) * 3  # depths of 10, 10 and 12 bits ...
    bits += (golomb(0) + f"{0:010b}{1023:010b}") * 3 + golomb(0) * 2  # from black to white
    bits += (golomb(0) * 2 + "0" + "1" + "0" * 23 + golomb(1) + "0" * 23) * 3  # 0 + 1 x
    bits += "0" * (-len(bits) % 8)
    made = bytearray(b"\x7c\1\x19")
    for byte in int(bits, 2).to_bytes(len(bits) // 8, "big") + b"sums\x80":
        made += b"\3" * (made[-2:] == b"\0\0" and byte <= 3) + bytes([byte])
    return b"\0\0\0\1" + bytes(made)


@pytest.mark.parametrize("profile", [0, 1])
def test_dolby_vision_that_only_its_frames_tell_of(tmp_path: Path, profile: int) -> None:
    """In MPEG-TS no box says so; of the data's own profiles 0 is profile 5."""
    options = {"x265-params": "log-level=none"}
    with (
        av.open(str(make_video(tmp_path / "plain.ts", 3, "libx265", options=options))) as source,
        av.open(str(tmp_path / "v.ts"), "w") as file,
    ):
        stream = source.streams.video[0]
        out = file.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                file.mux(with_content(packet, bytes(packet) + rpu(profile), out))
    with av.open(str(tmp_path / "v.ts")) as file:
        frame = next(file.decode(video=0))
        assert {"DOVI_RPU_BUFFER", "DOVI_METADATA"} <= {each.type.name for each in frame.side_data}
    if profile:
        assert found(tmp_path / "v.ts", [1]) == [1]
        return
    with pytest.raises(Lost, match=r"v\.ts: Dolby Vision alone \(profile 5\)") as lost:
        found(tmp_path / "v.ts", [1])
    assert lost.value.reason in BROKEN


def with_content(packet: av.Packet, content: bytes, stream: av.VideoStream) -> av.Packet:
    """A packet with other bytes, for another stream."""
    made = av.Packet(content)
    made.pts, made.dts, made.time_base = packet.pts, packet.dts, packet.time_base
    made.stream, made.is_keyframe = stream, packet.is_keyframe
    return made


@pytest.mark.parametrize("name", ["v.MTS", "v.m2ts", "v.M4V", "v.MOV", "v.ts", "v.mpg", "v.wmv", "v.mxf"])
def test_videos_are_found_by_any_suffix_that_cameras_write(tmp_path: Path, name: str) -> None:
    suffix = name[2:].lower()
    made = {"mts": "ts", "m4v": "mp4"}.get(suffix, suffix)
    codec = "mpeg2video" if name.endswith(("mpg", "mxf", "wmv")) else "libx264"
    path = make_video(tmp_path / f"v.{made}", 6, codec)
    path.rename(tmp_path / name)
    sources = find_sources(tmp_path, VIDEOS)
    assert sources == {"v": tmp_path / name}
    assert found(sources["v"], [1, 4]) == [1, 4]


def test_a_usual_suffix_counts_before_a_rare_one(tmp_path: Path) -> None:
    """What a camera wrote, often interlaced, may lie beside what was made from it."""
    for name in ("raw/x.MTS", "raw/y.MTS", "made/x.mp4", "z.avi", "z.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    expected = {"x": "made/x.mp4", "y": "raw/y.MTS", "z": "z.avi"}
    assert find_sources(tmp_path, VIDEOS) == {name: tmp_path / place for name, place in expected.items()}


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
@pytest.mark.parametrize("suffix", ["avi", "mov"])
def test_frames_with_exif(tmp_path: Path, suffix: str, orientation: int, turns: int) -> None:
    """Motion JPEG of cameras; FFmpeg tells of EXIF by a kind of data that PyAV has no name for."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = orientation, "x"
    path = make_video(tmp_path / f"plain.{suffix}", 3, "mjpeg")
    whole = picture_of(path)
    with av.open(str(path)) as source, av.open(str(tmp_path / f"v.{suffix}"), "w") as file:
        stream = source.streams.video[0]
        out = file.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                content = bytes(packet)
                noted = b"\xff\xe1" + struct.pack(">H", 2 + len(exif.tobytes())) + exif.tobytes()
                file.mux(with_content(packet, content[:2] + noted + content[2:], out))
    assert np.array_equal(picture_of(tmp_path / f"v.{suffix}"), np.rot90(whole, turns))


def test_h264_in_avi_of_which_a_size_is_damaged_is_refused(tmp_path: Path) -> None:
    """Its chunk seems to reach beyond the end; what is read behind it would count from the wrong frame."""
    path = make_video(tmp_path / "v.avi", grainy(COUNT), options={"bf": "3", "g": "30"})
    content = bytearray(path.read_bytes())
    place = content.index(b"00dc", len(content) // 2)
    struct.pack_into("<I", content, place + 4, 1 << 28)
    path.write_bytes(content)
    with pytest.raises(Lost, match=r"v\.avi: H.264 in AVI"):
        found(path, [0])


@pytest.mark.parametrize("part", [0.3, 0.5, 0.9])
def test_h264_in_avi_that_was_cut_off_gives_what_is_sure(tmp_path: Path, part: float) -> None:
    """Behind a cut nothing orders the last frames; all before are told rightly, none of them is missing."""
    params = {"x264-params": "keyint=30:bframes=5:b-pyramid=normal:open-gop=1"}
    path = make_video(tmp_path / "v.avi", grainy(COUNT), options=params)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with VideoFile(path).open() as video:
        there = len(video.timeline.pts)
        assert video.timeline.cut_off
        assert abs(there - COUNT * part) < 15
        with pytest.raises(Lost) as lost:
            video.find(AtFrame(COUNT - 1, RATE))
    assert lost.value.reason == CUT_OFF
    assert found(path, range(there)) == list(range(there))


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

"""Where frames are read from: a folder of image files, or tar files that hold the same names."""

from __future__ import annotations

import io
import logging
import re
import struct
import tarfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple, Protocol, runtime_checkable

from PIL import Image, UnidentifiedImageError

from egogen.blocks import in_blocks
from egogen.distinct import once
from egogen.errors import UserError, reason
from egogen.files import atomic_open, regular
from egogen.hints import hint
from egogen.layout import find_frame
from egogen.rgb import to_rgb, upright_size
from egogen.unfetched import HEAD, check_fetched, check_stands
from egogen.walks import shown

JPEG_END = b"\xff\xd9"
# What Pillow raises for bytes that are not a whole image, or that claim to be a huge one.
BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, struct.error, LookupError,
    TypeError, AttributeError, ArithmeticError, RuntimeError, MemoryError,
)  # fmt: skip
SIDE_TEXTS = re.compile("MAX_TEXT|text chunk")  # what Pillow says where a PNG has too much beside its pixels
log = logging.getLogger(__name__)


@runtime_checkable
class FrameStore(Protocol):
    """Frames by the names that annotations use."""

    @property
    def place(self) -> Path:
        """The folder behind it, for messages."""
        ...

    def read(self, name: str) -> Image.Image:
        """Decodes a frame as RGB; a `UserError` names a missing or broken one."""
        ...

    def check(self, name: str) -> None:
        """Raises what `read` would raise, in less time."""
        ...


class FolderFrames:
    """Frames as files below a folder."""

    def __init__(self, folder: Path) -> None:
        self.place = folder

    def read(self, name: str) -> Image.Image:
        """Decodes a frame as RGB."""
        return read_frame(find_frame(self.place, name))

    def check(self, name: str) -> None:
        """Reads all of a frame's bytes, decoding it coarsely where its format allows."""
        read_frame(find_frame(self.place, name), coarse=True)


class Member(NamedTuple):
    """Where a frame's bytes are."""

    tar: Path
    offset: int
    size: int


class TarFrames:
    """Frames inside the tar files of a folder, read at random without unpacking; many small files become few.

    Args:
        folder: holds `*.tar`, not compressed, as `python -m egogen.pack` writes them; or is one such file.
        tars: which of the folder's, by default all.

    Raises:
        UserError: there is no tar file, one is damaged, or two frames have one name.
    """

    def __init__(self, folder: Path, tars: Sequence[Path] = ()) -> None:
        self.place = folder
        self.members: dict[str, Member] = {}
        tars = tars or ([folder] if folder.is_file() else shown(folder.glob("*.tar")))
        if not tars:
            raise UserError(f"{folder}: no tar file here; write some by python -m egogen.pack")
        for path in tars:
            self.index(path)

    def index(self, path: Path) -> None:
        """Notes where each frame of a tar file lies."""
        try:
            size = regular(path).stat().st_size
            links: dict[str, str] = {}
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    name = plain_name(member.name)
                    if member.isfile():
                        self.add(name, Member(path, member.offset_data, member.size), size)
                    elif member.islnk():  # a second name of a file, of which GNU tar keeps the content once
                        links[name] = plain_name(member.linkname)
            for name, goal in links.items():
                if (found := self.members.get(goal)) is not None and found.tar == path:
                    self.add(name, found, size)
        except UserError:
            raise
        except (tarfile.TarError, *BROKEN) as error:  # its numbers are texts, its headers may hold headers
            check_stands(path)
            raise UserError(f"{path}: not a readable tar file, cut off perhaps ({error})") from None

    def add(self, name: str, member: Member, tar_size: int) -> None:
        """Adds one frame to the index."""
        if name in self.members:
            raise UserError(f"{member.tar}: frame {name!r} is in {self.members[name].tar} too")
        if member.size < 0 or member.offset + member.size > tar_size:
            raise UserError(f"{member.tar}: cut off within {name!r}; write it again")
        self.members[name] = member

    def read(self, name: str) -> Image.Image:
        """Decodes a frame as RGB."""
        return decode(lambda: io.BytesIO(self.bytes(name)), f"{self.place}/{name}")

    def check(self, name: str) -> None:
        """Reads all of a frame's bytes, decoding it coarsely where its format allows."""
        decode(lambda: io.BytesIO(self.bytes(name)), f"{self.place}/{name}", coarse=True)

    def bytes(self, name: str) -> bytes:
        """A frame's file as it was packed.

        Raises:
            UserError: no tar file holds it.
        """
        if name not in self.members:
            raise UserError(
                f"{self.place}: no tar file here holds frame {name!r}; is it of another split, or of older "
                "annotations than those that python -m egogen.pack was given?"
            )
        tar, offset, size = self.members[name]
        with tar.open("rb") as file:
            file.seek(offset)
            return file.read(size)


def plain_name(name: str) -> str:
    """A name in a tar file as annotations use it: `tar -C FOLDER .` writes `./` before each."""
    return name.removeprefix("./")


def open_frames(place: Path) -> FrameStore:
    """The frames of a folder: in its tar files (`egogen.pack`) if it holds some, else single images.

    Raises:
        UserError: there is no such folder, or a tar file is damaged.
    """
    if not place.exists():
        raise UserError(
            f"{place}: no such folder of frames; bash scripts/download_dataset.sh fetches the published, "
            "python -m egogen.prepare makes others"
        )
    return TarFrames(place) if place.is_file() or shown(place.glob("*.tar")) else FolderFrames(place)


def check_frames(frames: FrameStore, names: Iterable[str], threads: int = 8) -> None:
    """Reads every frame once, so that a broken one is found before hours of work and not after.

    Raises:
        UserError: names the first broken frame and how many there are.
    """

    def problem(name: str) -> str | None:
        try:
            frames.check(name)
        except UserError as error:
            return str(error)
        return None

    first, count = None, 0
    with ThreadPoolExecutor(threads) as pool:
        for block in in_blocks(once(names)):  # a pool takes all that it is given at once
            for found in filter(None, pool.map(problem, block)):
                first, count = first or found, count + 1
    if first is not None:
        raise UserError(first + (f"; {count - 1} more frames have faults" if count > 1 else ""))


def read_frame(path: Path, coarse: bool = False) -> Image.Image:
    """Decodes a frame, or anybody's photo, as upright RGB.

    Args:
        path: the image file.
        coarse: a JPEG is decoded at an eighth of its size: all of its bytes are read in less time.

    Raises:
        UserError: the file is missing or broken.
    """
    return decode(lambda: regular(path).open("rb"), f"{path}", coarse)


def decode(opened: Callable[[], IO[bytes]], name: str, coarse: bool = False) -> Image.Image:
    """Decodes an image as upright RGB, as `egogen.rgb.to_rgb` says.

    Raises:
        UserError: it is missing or broken, or its values have no known range.
    """
    try:
        # Given a path, Pillow would map an uncompressed TIFF and scramble one that is to be turned.
        with opened() as file, Image.open(file) as image:
            if coarse:
                image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
            return to_rgb(image, name)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{name}: no such frame{hint(Path(name))}") from None
    except UnidentifiedImageError:
        with opened() as file:
            head = file.read(HEAD)
        check_fetched(name, head)
        if not head.strip(b"\0"):
            raise UserError(f"{name}: not a readable image (empty, or zeros); copy it again") from None
        raise UserError(
            f"{name}: not a readable image (no image, or of a kind that is not read, such as HEIC or RAW); "
            "save it as JPEG or PNG"
        ) from None
    except BROKEN as error:
        why = reason(error) if isinstance(error, OSError) else error
        raise UserError(f"{name}: not a readable image ({why}); {remedy(error)}") from None


def remedy(error: Exception) -> str:
    """What to do about a picture that Pillow does not read: not all of these are damaged."""
    if isinstance(error, Image.DecompressionBombError):
        return "make it smaller"
    if SIDE_TEXTS.search(f"{error}"):
        return "its texts or its colour profile are larger than is read; save it again without them"
    return "is it cut off? copy it again"


def image_size(file: Path | io.BytesIO) -> tuple[int, int] | None:
    """Width and height of a frame by its header, upright; None if it cannot be opened."""
    try:
        with Image.open(regular(file) if isinstance(file, Path) else file) as image:
            return upright_size(image)
    except BROKEN:
        return None


def encode(frame: Image.Image, quality: int) -> bytes:
    """A frame as JPEG with full colour resolution."""
    return encoded(frame, "JPEG", quality=quality, subsampling=0)


def encoded(picture: Image.Image, form: str, **how: object) -> bytes:
    """A picture's file.

    In memory: Pillow writes to files past Python, and says nothing where a disk that gets full takes but a
    part of it.

    Args:
        picture: any.
        form: Pillow's name of the format.
        how: as `Image.save` takes it.
    """
    stream = io.BytesIO()
    picture.save(stream, form, **how)
    return stream.getvalue()


def pack(folder: Path, names: list[str], out: Path, frames_per_tar: int = 5000) -> list[Path]:
    """Writes frames into tar files of a new folder; the same input gives the same bytes.

    Args:
        folder: what the names are relative to.
        names: the frames.
        out: the folder of tar files.
        frames_per_tar: how many frames one tar file holds.

    Returns:
        The tar files. One that exists and is whole is not written again.
    """
    paths = []
    for number, first in enumerate(range(0, len(names), frames_per_tar)):
        path = out / f"frames-{number:05d}.tar"
        paths.append(path)
        if has_members(path, len(names[first : first + frames_per_tar])):
            continue
        with (
            atomic_open(path) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for name in names[first : first + frames_per_tar]:
                add_file(tar, folder / name, name)
    return paths


def has_members(path: Path, count: int) -> bool:
    """Whether a tar file is there with so many files in it, none cut off; a damaged one gets a warning."""
    if not path.exists():
        return False
    try:
        found = len(TarFrames(path).members)
    except UserError:
        found = 0
    if found != count:
        log.warning("%s: damaged, %d of %d files are whole; it is written anew", path, found, count)
    return found == count


def add_file(tar: tarfile.TarFile, path: Path, name: str) -> None:
    """Appends a file without its owner and times.

    Raises:
        UserError: it is missing.
    """
    try:
        content = regular(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)})") from None
    add_bytes(tar, name, content)


def add_bytes(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Appends a file that is in memory, without owner and times."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(content))

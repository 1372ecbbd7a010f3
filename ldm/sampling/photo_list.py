"""Which photos are to be drawn, with which actions: of files, of folders, or of a table. No torch."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from argparse import ArgumentTypeError
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from egogen.csv_rows import read_csv, told
from egogen.errors import UserError, shorten
from egogen.frames import read_frame
from egogen.hints import hint
from egogen.layout import expanded
from egogen.manifest import file_hash
from egogen.reserved import is_blank, text_fault
from egogen.seeds import read_seed
from egogen.walks import walk
from ldm.sampling.edit_options import COLUMNS, FORMATS, PhotoListOptions, frame_name

# What is taken for a photo in a folder; those of these that cannot be read are named.
PHOTOS = {*FORMATS, ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".mpo", ".tif", ".tiff"}
SHOWN = 5  # faults that a message names
THREADS = 4
Parsed = TypeVar("Parsed")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wish:
    """A frame that is wanted; `name` is that of its file, empty where nobody names it."""

    photo: Path
    action: str
    seed: int
    description: str | None = None
    name: str = ""


class Found(NamedTuple):
    """What is to be drawn, and what is wrong with the photos of folders that cannot be."""

    wishes: list[Wish]
    left_out: list[str]


def read_wishes(options: PhotoListOptions) -> Found:
    """Finds and checks everything before anything is drawn.

    What somebody names, a file or a row, must be good. Of what merely lies in a folder the bad is left out.

    Raises:
        UserError: a named file or rows of the table have faults, or there is nothing to draw.
    """
    found = table(options) if options.is_table else listed(options)
    if not found.wishes:
        more = f"; {found.left_out[0]}" if found.left_out else ""
        raise UserError(f"--input {options.input[0]}: no photos here to draw{more}")
    return found


def listed(options: PhotoListOptions) -> Found:
    """Photos that are named, and those in named folders and below, each once; with one action for all."""
    assert options.prompt is not None
    first: dict[str, Path] = {}  # of the names of one file
    is_named: dict[Path, bool] = {}
    for path in options.input:
        if not path.exists():
            raise UserError(f"--input {path}: no such file or folder{hint(path)}")
        for photo in photos_below(path) if path.is_dir() else [path]:
            same = first.setdefault(os.path.realpath(photo), photo)
            is_named[same] = is_named.get(same, False) or not path.is_dir()
    faults = photo_faults(is_named)
    for photo, why in faults.items():
        if is_named[photo]:
            raise UserError(why)
    whole = [photo for photo in is_named if photo not in faults]
    wish = Wish(Path(), options.prompt, options.seed, options.description)
    return Found([replace(wish, photo=photo) for photo in whole], [*faults.values()])


def photos_below(folder: Path) -> list[Path]:
    """The photos of a folder by their suffixes, links to nothing too; hidden ones are passed over."""
    found: list[Path] = []
    others: list[Path] = []
    for here, folders, files, lost in walk(folder, tolerant=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in sorted([*files, *lost]):
            if not name.startswith("."):
                (found if Path(name).suffix.lower() in PHOTOS else others).append(here / name)
    if others:
        log.info("%s: %d files are no photos, such as %s; passed over", folder, len(others), others[0].name)
    return found


def table(options: PhotoListOptions) -> Found:
    """The rows of a table; relative paths are relative to it."""
    (path,) = options.input
    names, rows = read_csv(path)
    if not {*COLUMNS[:2]} <= {*names} <= {*COLUMNS}:
        raise UserError(
            f"{path}: its columns are {told(names)}; allowed are {told(COLUMNS)}, of which the first two are "
            "needed"
        )
    faults: dict[int, str] = {}
    wishes: dict[int, Wish] = {}
    for line, row in rows:
        try:
            wishes[line] = wish_of(row, path.parent, options)
        except UserError as error:
            faults[line] = f"{error}"
    broken = photo_faults(wish.photo for wish in wishes.values())
    for line, wish in wishes.items():
        if wish.photo in broken:
            faults[line] = f"column 'photo': {broken[wish.photo]}"
    faults = repetitions(wishes) | faults
    if faults:
        shown = "; ".join(f"line {line}, {faults[line]}" for line in sorted(faults)[:SHOWN])
        more = f"; and {len(faults) - SHOWN} more rows" if len(faults) > SHOWN else ""
        raise UserError(f"{path}: {shown}{more}")
    return Found([*wishes.values()], [])


def wish_of(row: Mapping[str, str], folder: Path, options: PhotoListOptions) -> Wish:
    """What a row asks for; a `UserError` names the column that is wrong."""
    cells = {name: row.get(name, "").strip() for name in COLUMNS}
    for name in COLUMNS[:2]:
        if is_blank(cells[name]):
            raise UserError(f"column {name!r}: blank; expected {'a file' if name == 'photo' else 'words'}")
    described = bool(cells["description"])
    if described and not options.vllm:
        raise UserError("column 'description': its features are made by --vllm; leave it blank without")
    for name in ("action", "description") if described else ("action",):
        if options.vllm and (fault := text_fault(cells[name])):
            raise UserError(f"column {name!r}: {shorten(cells[name])}: {fault}")
    return Wish(
        folder / expanded(cells["photo"]),
        cells["action"],
        parsed(cells, "seed", read_seed) if cells["seed"] else options.seed,
        cells["description"] or None,
        parsed(cells, "output", output_name),
    )


def parsed(cells: Mapping[str, str], name: str, read: Callable[[str], Parsed]) -> Parsed:
    """A cell's value; a `UserError` says what is allowed."""
    try:
        return read(cells[name])
    except ArgumentTypeError as error:
        raise UserError(f"column {name!r}: {error}") from None


def output_name(text: str) -> str:
    """A frame's name; an `ArgumentTypeError` for one that is none, or lies elsewhere."""
    path = PurePosixPath(text)
    if text and (path.is_absolute() or ".." in path.parts or path.suffix.lower() not in FORMATS):
        raise ArgumentTypeError(
            f"got {shorten(text)}, allowed: a name that ends in {', '.join(FORMATS)}, below --output"
        )
    return text and f"{path}"


def repetitions(wishes: Mapping[int, Wish]) -> dict[int, str]:
    """Rows that ask for what another asks for, or for its file, by their lines."""
    frames: dict[tuple[object, ...], int] = {}
    files: dict[str, int] = {}
    faults = {}
    for line, wish in wishes.items():
        frame = os.path.realpath(wish.photo), wish.action, wish.description, wish.seed
        if (first := frames.setdefault(frame, line)) != line:
            faults[line] = f"asks for the frame of line {first}; remove one, or give it another seed"
        elif wish.name and (first := files.setdefault(wish.name.casefold(), line)) != line:
            faults[line] = f"column 'output': {shorten(wish.name)} is the name of line {first} too"
    return faults


def photo_faults(photos: Iterable[Path]) -> dict[Path, str]:
    """What is wrong with photos, each read once to its end, by those that cannot be drawn."""

    def fault(photo: Path) -> str | None:
        if not is_text(f"{photo}"):
            return f"{shorten(f'{photo}')}: its name is not UTF-8; give it another"
        try:
            read_frame(photo, coarse=True)
        except UserError as error:
            return f"{error}"
        return None

    each = list(dict.fromkeys(photos))
    with ThreadPoolExecutor(THREADS) as pool:
        return {photo: why for photo, why in zip(each, pool.map(fault, each), strict=True) if why}


def is_text(name: str) -> bool:
    """Whether a file's name can be written into a table: its bytes may be no characters."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def digest(wish: Wish) -> str:
    """What a frame is drawn from: the photo's bytes, the words, the seed."""
    return short_hash(file_hash(wish.photo), wish.action, wish.description, wish.seed)


def short_hash(*parts: object) -> str:
    """Sixteen hexadecimal digits that follow from the parts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def named_apart(
    wishes: Sequence[Wish], home: Path, known: Mapping[str, str], photos: Mapping[str, str]
) -> list[Wish]:
    """The same with a name each. Where several would have one, a hash of what is asked for is added.

    So a name does not depend on what else is asked for, and further photos rename none that are drawn: one
    that had its plain name for itself keeps it.

    Args:
        wishes: of one run.
        home: the folder of the frames, without links; photos are told apart by where they lie from there.
        known: `digest` by name, of frames that the folder was claimed for.
        photos: where the photo lies, by the casefolded name of a frame that was drawn of it.
    """
    plain = {wish: wish.name or frame_name(wish.photo, wish.action) for wish in wishes}
    wanted = Counter(name.casefold() for name in plain.values())

    def named(wish: Wish) -> str:
        name, where = plain[wish], place(wish.photo, home)
        path = Path(name)
        asked = short_hash(where, wish.action, wish.description, wish.seed)
        apart = f"{path.stem}_{asked[:8]}{path.suffix}"
        if wish.name or (name in known and known[name] == digest(wish)):
            return name
        is_alone = wanted[name.casefold()] == 1 and photos.get(name.casefold(), where) == where
        return name if is_alone and apart not in known else apart

    return [replace(wish, name=named(wish)) for wish in wishes]


def place(photo: Path, home: Path) -> str:
    """Where a photo lies, from a folder: both may be moved together. Its own name may be a link's."""
    return os.path.relpath(Path(os.path.realpath(photo.parent), photo.name), home)

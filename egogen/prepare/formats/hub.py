"""Makes an EgoGen data set of a download from the hub: the authors' files, or a folder of `to-parquet`.

Frames may be in EgoGen.zip (whole or in parts), in folders or in Parquet files; JSON files at the top, in
EgoGen/ or in the archive. What is there already is kept. The result is checked: exit code 1 says that it
has faults.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from egogen.annotations import check_object, check_relative
from egogen.archives.split_zip import group_archives
from egogen.archives.unpack import unpack
from egogen.disk import require_space
from egogen.errors import UserError, shorten
from egogen.files import atomic_open, parse_json
from egogen.layout import FOLDERS, Layout
from egogen.prepare.formats.card import IMAGES
from egogen.prepare.formats.parquet_rows import rows_of, schema_of
from egogen.prepare.options import HubOptions
from egogen.progress import Progress
from egogen.published import SPLITS, dataset_place, is_hidden
from egogen.validate.check_report import EXIT_FAULTS
from egogen.validate.frame_files import files_below
from egogen.validate.repair import copy_targets
from egogen.validate.text_checks import read_annotations
from egogen.validate.validate_options import ValidateOptions
from egogen.validate.whole import validate

log = logging.getLogger(__name__)


def prepare(options: HubOptions) -> None:
    """Unpacks or copies everything, then checks the result."""
    install(options.source, options.out)
    report = validate(ValidateOptions(root=options.out, workers=options.workers))
    sys.stdout.write(report.text())
    if report.faults:
        raise SystemExit(EXIT_FAULTS)


def install(source: Path, root: Path) -> None:
    """Brings a download into the official layout below a data root.

    Raises:
        UserError: the folder holds no EgoGen data, an archive is damaged or unsafe, or files are in the way.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; give the folder of the download")
    names = sorted(name for name in files_below(source) if not is_hidden(PurePosixPath(name)))
    check_inside(source, names)
    place = partial(dataset_place, root)
    loose = {source / name: goal for name in names if (goal := place(PurePosixPath(name))) is not None}
    archives = group_archives(names)
    tables = [source / name for name in names if name.endswith(".parquet")]
    if not (archives or tables or loose):
        raise UserError(
            f"{source}: no EgoGen data here; expected EgoGen.zip, EgoGen/ or the Parquet files of to-parquet"
        )
    missing = [origin for origin, goal in loose.items() if not goal.exists()]
    require_space(root, sum(origin.stat().st_size for origin in missing), "copying")
    for origin, goal in Progress(loose.items(), desc="copying", unit="file"):
        keep_or_write(goal, origin.read_bytes(), origin)
    for archive in archives:
        done = unpack([source / part for part in archive.parts], root, place)
        log.info("%s: %d files unpacked, %d were there, %d left out", archive.name, *done)
    for table in Progress(tables, unit="file"):
        unpack_table(table, root)
    for layout in (Layout(root, dataset) for dataset in FOLDERS):
        for line in copy_targets(layout, read_annotations(layout, "val").items):
            log.info("%s", line)


def check_inside(source: Path, names: Sequence[str]) -> None:
    """Refuses a download whose links lead elsewhere: what is outside of it would become part of the data.

    The hub's cache keeps files as links of `snapshots/REVISION` to `blobs`, which belong to the download.

    Raises:
        UserError: a file is a link to nothing, or it or a folder above it a link to a place outside.
    """
    real = source.resolve()
    blobs = [real.parent.parent / "blobs"] if real.parent.name == "snapshots" else []
    for name in names:
        goal = (source / name).resolve()
        if not any(goal.is_relative_to(inside) for inside in (real, *blobs)):
            raise UserError(f"{source / name}: leads to {goal}, outside of the download; refused")
        if not goal.is_file():
            raise UserError(f"{source / name}: is a link to nothing; is the download whole?")


def keep_or_write(goal: Path, content: bytes, origin: Path) -> None:
    """Writes a file unless it is there already; one that was cut off is written anew.

    Raises:
        UserError: another file is there.
    """
    there = goal.read_bytes() if goal.exists() else b""
    if there == content:
        return
    if not content.startswith(there):
        raise UserError(f"{goal}: there already, with other bytes than in {origin}; move it away")
    with atomic_open(goal) as file:
        file.write(content)


def unpack_table(path: Path, root: Path) -> None:
    """Writes the images of a Parquet file of `to-parquet` as frames.

    Raises:
        UserError: it is damaged or none of ours, or a path in it leads out of the split folder.
    """
    found = parse_json((schema_of(path).metadata or {}).get(b"egogen", b"{}"), f"{path}")
    facts = check_object(found, f"{path}: the metadata egogen", "settings by name")
    if facts.get("split") not in SPLITS or facts.get("dataset") not in FOLDERS:
        raise UserError(f"{path}: its split is unknown; python -m egogen.prepare to-parquet writes it")
    frames = Layout(root, facts["dataset"]).frames(facts["split"])
    for number, row in enumerate(rows_of(path, IMAGES), start=1):
        where = f"{path}: row {number}"
        for image in row.values():
            match image:
                case {"path": str() as name, "bytes": bytes() as content}:
                    keep_or_write(frames / inside(name, where), content, path)
                case _:
                    raise UserError(f"{where}: an image is {shorten(image)}; expected bytes and path of each")


def inside(name: str, where: str) -> str:
    """The path of an image; raises `UserError` if it leads out of the split's folder."""
    try:
        return check_relative(name)
    except ValueError as error:
        raise UserError(f"{where}: the image path {name!r} {error}") from None

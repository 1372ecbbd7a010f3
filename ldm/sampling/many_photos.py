"""Many photos, each drawn as if it were alone, into one folder that a second run goes on with.

`images/`            the frames
`manifest.json`      what makes them what they are, and what each is drawn from
`photos.csv`         photo, action, description, seed and frame; itself a table that the command takes
`contact_sheet.jpg`  photo beside frame, the action below; of many photos several sheets
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from egogen.errors import UserError
from egogen.files import atomic_open
from egogen.frames import encoded, read_frame
from egogen.locks import hold
from egogen.manifest import NAME as MANIFEST
from egogen.manifest import checkpoint_hash, file_hash
from egogen.progress import Progress
from egogen.sheets import sheet, tile
from ldm.checkpoints.lora_files import told_loras
from ldm.networks.devices import find_device
from ldm.sampling.asking import Answer, Question, ask
from ldm.sampling.drawn_items import claim_items, in_order, known_items
from ldm.sampling.edit_options import COLUMNS, PhotoListOptions
from ldm.sampling.editing import Condition, Studio, decode, open_studio, save, shaped, with_features
from ldm.sampling.frame_output import is_drawn
from ldm.sampling.photo_list import SHOWN, Wish, digest, named_apart, place, read_wishes

IMAGES, SHEET, TABLE, STAGE_ONE = "images", "contact_sheet.jpg", "photos.csv", ".stage_1"
ON_A_SHEET = 60
# Of a preset: what changes no frame, or is said elsewhere.
ELSEWHERE = {"batch_size", "compile", "adapt", "seed", "output_range", "format", "height", "loras"}
log = logging.getLogger(__name__)


def edit_all(options: PhotoListOptions) -> None:
    """Checks everything, has stage 1 describe what is not drawn yet, draws it, shows it.

    Raises:
        UserError: at the start, if something is wrong with what is asked for; at the end, if photos could
            not be drawn: the others are.
    """
    out = options.output
    assert out is not None
    check_folder(out, options.input)
    unnamed, failed = read_wishes(options)
    for fault in failed:
        log.warning("%s; it is left out", fault)
    studio = open_studio(options, find_device(options.device))
    with hold(out, "an edit"):
        home, rows = Path(os.path.realpath(out)), known_rows(out / TABLE)
        photos = {name.casefold(): row["photo"] for name, row in rows.items()}
        wishes = named_apart(unnamed, home, known_items(out), photos)
        claim(out, options, studio, wishes)
        todo = [wish for wish in wishes if not is_drawn(out / IMAGES / wish.name)]
        log.info("%d photos, %d of them are drawn already", len(wishes), len(wishes) - len(todo))
        texts = {name for name, row in rows.items() if row["description"]}
        untold = [wish for wish in wishes if wish in todo or wish.name not in texts]
        answers = described(options, out / STAGE_ONE, untold)  # an ended run has drawn some, and told of none
        failed += draw_all(out, studio, todo, answers, options.batch_size)
        show(out, wishes, answers)
        if not failed:
            shutil.rmtree(out / STAGE_ONE, ignore_errors=True)
    log.info("wrote %s, %s and %s", out / IMAGES, out / TABLE, out / SHEET)
    if failed:
        more = f"; and {len(failed) - SHOWN} more" if len(failed) > SHOWN else ""
        raise UserError(
            f"{len(failed)} photos are not drawn, all others are: {'; '.join(failed[:SHOWN])}{more}"
        )


def check_folder(out: Path, inputs: Sequence[Path]) -> None:
    """Refuses a folder of frames that is none, or whose frames would be photos of the next run.

    Raises:
        UserError: says which.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--output {out}: is a file; of many photos it names a folder")
    for path in inputs:
        if path.is_dir() and Path(os.path.realpath(out)).is_relative_to(os.path.realpath(path)):
            raise UserError(
                f"--output {out}: lies within --input {path}, where its frames would be taken for photos; "
                "name a folder elsewhere"
            )
    if (out / IMAGES).is_dir() and any((out / IMAGES).iterdir()) and not (out / MANIFEST).exists():
        raise UserError(
            f"{out}: has frames but no {MANIFEST}, which says what drew them; choose another output folder, "
            "or delete this one"
        )


def claim(out: Path, options: PhotoListOptions, studio: Studio, wishes: Sequence[Wish]) -> None:
    """Makes a folder that of the settings and photos, or checks that it is; further photos are added.

    Raises:
        UserError: it was begun with other settings, or a photo, its action or its seed has changed.
    """
    sampling = {name: value for name, value in asdict(studio.sampling).items() if name not in ELSEWHERE}
    loras = {"loras": told_loras(studio.sampling.loras)} if studio.sampling.loras else {}
    settings = {
        "checkpoint": checkpoint_hash(options.ckpt),
        "config": None if options.config is None else file_hash(options.config),
        "ema": not options.no_ema,
        "resolution": studio.side,
        "sampling": {
            **sampling,
            **loras,
            "precision": studio.precisions.unet,
            "precision_vae": studio.precisions.vae,
        },
        "vllm": None if options.vllm is None else checkpoint_hash(options.vllm),
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
    }
    claim_items(out, settings, lambda: ((wish.name, digest(wish)) for wish in wishes))


def described(options: PhotoListOptions, folder: Path, wishes: Sequence[Wish]) -> dict[str, Answer]:
    """What stage 1 says of photos, by the frames' names: one run of it, and one for given descriptions."""
    if not options.vllm:
        return {}
    answers: dict[str, Answer] = {}
    for part, is_given in (("own", False), ("given", True)):
        asked = {
            key(wish): Question(key(wish), wish.photo, wish.action, wish.seed, wish.description)
            for wish in wishes
            if (wish.description is not None) == is_given
        }
        if asked:
            answers |= ask(options, folder / part, list(asked.values()))
    return {wish.name: answers[key(wish)] for wish in wishes}


def key(wish: Wish) -> str:
    """The name under which stage 1 knows a frame."""
    return hashlib.sha256(wish.name.encode()).hexdigest()[:16]


def draw_all(
    out: Path, studio: Studio, wishes: Sequence[Wish], answers: Mapping[str, Answer], size: int
) -> list[str]:
    """Draws photos in batches and writes each frame at once; returns what went wrong with single ones."""
    failed: list[str] = []
    with studio.pipeline.quiet(), Progress(total=len(wishes), desc="draw", unit="photo") as bar:
        for first in range(0, len(wishes), size):
            batch = wishes[first : first + size]
            failed += draw_batch(out, studio, batch, answers)
            bar.update(len(batch))
    return failed


def draw_batch(
    out: Path, studio: Studio, wishes: Sequence[Wish], answers: Mapping[str, Answer]
) -> Iterator[str]:
    """Draws one batch; gives what went wrong with single photos."""
    photos = {}
    for wish in wishes:
        try:  # it was whole when it was looked at
            photos[wish] = read_frame(wish.photo)
        except UserError as error:
            yield f"{error}"
    if not photos:
        return
    drawn = decode(
        studio.pipeline,
        list(photos.values()),
        [condition(wish, answers, studio.width) for wish in photos],
        studio.side,
        studio.sampling,
        [wish.seed for wish in photos],
        check_finite=False,
    )
    for (wish, photo), square in zip(photos.items(), drawn, strict=True):
        if square.isfinite().all():
            save(shaped(square, photo), out / IMAGES / wish.name)
        else:
            yield f"{wish.photo}: the drawn frame is not finite; try --precision 32, or another checkpoint"


def condition(wish: Wish, answers: Mapping[str, Answer], width: int | None) -> Condition:
    """What guides a frame: stage 1's answer, or the action's words."""
    return with_features(*answers[wish.name], width) if wish.name in answers else Condition(wish.action)


def show(out: Path, wishes: Sequence[Wish], answers: Mapping[str, Answer]) -> None:
    """Writes the table and the sheets of what is drawn, by this run or an earlier one."""
    home = Path(os.path.realpath(out))  # paths in the table are relative to it
    known = {name: row for name, row in known_rows(out / TABLE).items() if (out / IMAGES / name).exists()}
    rows = dict(known)
    for wish in wishes:
        if (out / IMAGES / wish.name).exists():
            text = answers[wish.name].text if wish.name in answers else None
            rows[wish.name] = {
                "photo": place(wish.photo, home), "action": wish.action, "seed": f"{wish.seed}",
                "description": text or rows.get(wish.name, {}).get("description", ""), "output": wish.name,
            }  # fmt: skip
    rows = {name: rows[name] for name in in_order(known, (wish.name for wish in wishes)) if name in rows}
    lines = io.StringIO()
    writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows.values())
    with atomic_open(out / TABLE) as file:
        file.write(lines.getvalue().encode())
    shown = [row for row in rows.values() if (home / row["photo"]).is_file()]
    for number, first in enumerate(range(0, len(shown), ON_A_SHEET), 1):
        tiles = [
            tile([read_frame(home / row["photo"]), read_frame(out / IMAGES / row["output"])], row["action"])
            for row in shown[first : first + ON_A_SHEET]
        ]
        target = out / (SHEET if number == 1 else f"{Path(SHEET).stem}_{number}.jpg")
        with atomic_open(target) as file:
            file.write(encoded(sheet(tiles), "JPEG", quality=92, subsampling=0))


def known_rows(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a table that an earlier run wrote, by the frames' names."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = [{name: row.get(name) or "" for name in COLUMNS} for row in csv.DictReader(file)]
    return {row["output"]: row for row in rows if row["output"]}

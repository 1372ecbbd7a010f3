"""Turns a tree of features into another store, folder by folder; a run that was killed goes on.

`.npy` to shards: text is cut to the rows that stage 2 keeps; patches follow from image features by least
squares (`egogen.features.projector`). Shards to `.npy`: the projector gives the image features back.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm.contrib.concurrent import thread_map

from egogen.clip_pixels import SETTINGS
from egogen.errors import UserError
from egogen.features.difference import Difference
from egogen.features.feature_options import Conversion
from egogen.features.feature_shards import FeatureFolder, read_difference, write_shard
from egogen.features.npy import TEXT_TOKENS, is_done, write_feature
from egogen.features.projector import Projector, read_projector
from egogen.features.store import Form, claim_store, made_by, read_manifest
from egogen.features.store_names import RowType
from egogen.files import atomic_folder, clean_parts
from egogen.hints import hint
from egogen.layout import clip_folder, feature_folders, projector_path, shard_path
from egogen.progress import Progress
from egogen.walks import shown

log = logging.getLogger(__name__)
PART = "features"  # names the shards
SAMPLES = 8  # features of a folder that the projector is tried on before all work
OURS = {"form", "row_type", "converted_from", "features", "names", "projector", "features_per_shard"}
Made = tuple[np.ndarray, Difference | None]


class FolderConversion(NamedTuple):
    """One folder of the tree and what becomes of it."""

    wish: Conversion
    source: FeatureFolder
    target: Path
    form: Form
    projector: Projector | None = None  # of image features

    @property
    def row_type(self) -> RowType:
        """How rows are kept: patches always in float16."""
        return self.wish.text_type if self.source.kind == "llava_text" else "float16"

    def make(self, name: str) -> Made:
        """What a shard gets for a name: the text rows that stage 2 keeps, or patches.

        Raises:
            UserError: the projector does not give this feature.
        """
        if self.source.kind == "llava_text":
            return self.source.features(name)[:TEXT_TOKENS], None
        values, relative = self.source.stored(name), self.wish.tolerance
        if self.projector is None or self.source.form == "shards":
            return values, None
        try:
            patches, difference = self.projector.recover(values)
        except (ValueError, FloatingPointError) as error:
            fault = str(error)
        else:
            if difference.relative <= relative:
                return patches, difference
            fault = f"relative error {difference.relative:.3g}, allowed {relative:g}"
        raise UserError(
            f"{self.source.place / name}: not a feature of this projector ({fault}); is "
            f"{self.wish.projector} of the checkpoint that made the features?"
        )


class Outcome(NamedTuple):
    """What became of one folder; the difference is that of its shards from the source."""

    target: Path
    features: int
    difference: Difference | None


def convert(wish: Conversion) -> list[Outcome]:
    """Converts all folders of features at or below a source.

    Raises:
        UserError: there are none, they are of that form already, the projector does not fit them, or a
            feature is damaged.
    """
    source, target = wish.source, wish.target
    folders = feature_folders(source)
    if not source.is_dir() or not folders:
        raise UserError(
            f"{source}: no folder llava_image or llava_text here or up to two levels below{hint(source)}"
        )
    if target.resolve() == source.resolve():
        raise UserError(f"{target}: is the source itself; choose another folder")
    if wish.store == "online":
        clip_files(wish.clip)
    jobs = [prepare(wish, FeatureFolder(source / path, kind), target / path) for path, kind in folders]
    return [run(job) for job in jobs]


def prepare(wish: Conversion, source: FeatureFolder, target: Path) -> FolderConversion:
    """Checks that one folder can be converted, before any work is done.

    Raises:
        UserError: it holds nothing, is of that form already, or the projector does not fit it.
    """
    if not source.names:
        raise UserError(f"{source.place}: holds no features")
    text = source.kind == "llava_text"
    form: Form = "npy" if wish.store == "npy" else "shards" if text or wish.store == "compact" else "online"
    if source.form == form == "npy":
        raise UserError(f"{source.place}: holds .npy files already; give --to compact or --to online")
    if text:
        return FolderConversion(wish, source, target, form)
    if source.projector is None and wish.projector is None:
        raise UserError(f"--projector: needed for {source.place}, a file or folder with stage 1's projector")
    projector = source.projector or read_projector(Path(wish.projector or ""))
    job = FolderConversion(wish, source, target, form, projector)
    if source.form == "shards":
        return job
    if projector.weight.shape[0] <= projector.weight.shape[1]:
        log.warning("a projector %s fits any features: a wrong one goes unseen", projector.weight.shape)
    for name in source.names[:: max(1, len(source.names) // SAMPLES)]:
        job.make(name)
    return job


def run(job: FolderConversion) -> Outcome:
    """Converts one folder; what is there already is left as it is."""
    names, wish = job.source.names, job.wish
    before = {key: value for key, value in read_manifest(job.source.place).items() if key not in OURS}
    settings = {
        **before,
        "converted_from": job.source.form,
        "features": len(names),
        "names": hashlib.sha256("\n".join(names).encode()).hexdigest(),
        "projector": None if job.projector is None else job.projector.digest,
        "features_per_shard": None if job.form == "npy" else wish.features_per_shard,
    }
    claim_store(job.target, settings, job.form, job.row_type)
    if job.projector is not None and job.form != "npy":
        job.projector.write(projector_path(job.target))
    if job.form == "shards":
        return Outcome(job.target, len(names), to_shards(job))
    if job.form == "npy":
        to_npy(job)
    else:
        copy_files(clip_files(wish.clip), clip_folder(job.target))
    return Outcome(job.target, len(names), None)


def to_npy(job: FolderConversion) -> None:
    """Writes a file for each feature that has no whole one yet."""

    def write(name: str) -> None:
        if not is_done(job.target / name):
            write_feature(job.target / name, job.source.features(name))

    workers, title = job.wish.workers, f"{job.target}"
    thread_map(write, job.source.names, max_workers=workers, tqdm_class=Progress, desc=title, unit="feature")


def to_shards(job: FolderConversion) -> Difference:
    """Writes the shards that are not there yet, one at a time in memory; a damaged one is written anew."""
    clean_parts(job.target)
    names, size, difference = job.source.names, job.wish.features_per_shard, Difference()
    maker = made_by(job.target)
    with (
        ThreadPoolExecutor(job.wish.workers) as pool,
        Progress(total=len(names), desc=f"{job.target}", unit="feature") as bar,
    ):
        for number, first in enumerate(range(0, len(names), size)):
            part, path = names[first : first + size], shard_path(job.target, PART, number)
            done = finished(path)
            if done is None:
                made = list(pool.map(job.make, part))
                known = [error for _, error in made if error is not None]
                whole = sum(known, Difference()) if known else None
                features = {name: values for name, (values, _) in zip(part, made, strict=True)}
                done = write_shard(path, features, maker, job.row_type, whole)
            difference += done
            bar.update(len(part))
    return difference


def finished(path: Path) -> Difference | None:
    """What a shard that is there says of its difference; None if it is to be written."""
    if not path.exists():
        return None
    try:
        return read_difference(path)
    except UserError as error:
        log.warning("%s; it is written anew", error)
        return None


def clip_files(clip: Path | None) -> list[Path]:
    """Settings and weights of a CLIP.

    Raises:
        UserError: no folder is given, or it lacks them.
    """
    if clip is None:
        raise UserError("--clip: needed for --to online, the folder of the CLIP that stage 1 saw with")
    weights = shown(clip.glob("*.safetensors*")) or shown(clip.glob("*.bin*"))
    if not weights or not (clip / "config.json").is_file():
        raise UserError(f"{clip}: no CLIP here; expected a folder with config.json and weights")
    return [path for path in (clip / "config.json", clip / SETTINGS) if path.is_file()] + weights


def copy_files(paths: Sequence[Path], target: Path) -> None:
    """Copies files into a folder that appears whole or not at all; one that is there is left alone."""
    if target.exists():
        return
    with atomic_folder(target) as part:
        for path in paths:
            shutil.copyfile(path, part / path.name)

"""Readers under fire: whatever is in a file, a value or a one-line `UserError` comes of reading it.

Hypothesis spoils whole files: their bytes, and their values. `KNOWN` keeps the inputs that once made trouble.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save

from egogen.annotations import Annotations, read_metadata
from egogen.archives.unpack import unpack
from egogen.conversations import read_conversations
from egogen.errors import UserError
from egogen.features.feature_shards import FeatureFolder, read_difference, write_shard
from egogen.features.npy import is_done, read_image_feature, read_pair, read_text_feature
from egogen.features.store import claim_store, made_by
from egogen.features.weight_files import read_tensors
from egogen.files import read_yaml
from egogen.frames import add_bytes, image_size, read_frame
from egogen.journal import Journal
from egogen.layout import sample_index, shard_path
from egogen.manifest import file_hash
from egogen.prepare.ego4d.ego4d_file import read_videos
from egogen.prepare.epic.epic_file import COLUMNS, read_actions, read_video_info
from egogen.prepare.formats.parquet_rows import rows_of, schema_of
from egogen.sample_shards import SampleShards
from egogen.shard_claims import FOLDER, PLAN, Claims
from egogen.status import main as status
from tests.egogen.raw_data import action
from tests.egogen.split_archive import split_archive
from tests.egogen.test_parquet_rows import exported
from tests.fuzzing import BUDGETS, EDITS, VALUES, edited, fuzz, holds, spoilt

Input = bytes | tuple[bytes, ...]
ACTION = {"image_0": "a/0.jpg", "image_1": "a/1.jpg", "action": "cut", "llava_forecast_finetune": "The hand"}
CLIPS = {"clip": {"0": ACTION, "1": ACTION}}
METADATA = {"clip": {"height": 4, "width": 6, "fps": 30.0, "actions": {"0": {"box": [1, 2, 3, 4]}}}}
TURNS = [{"id": "x", "image": "a/0.jpg", "conversations": [{"from": "human", "value": "<image>"}]}]
VIDEO = {
    "video_uid": "v", "video_metadata": {"fps": 30.0, "width": 8, "height": 6},
    "annotated_intervals": [{"clip_uid": "c", "clip_parent_start_frame": 3, "narrated_actions": [action(0)]}],
}  # fmt: skip
ROW = "P01_01_0,P01,P01_01,00:00:01.1,00:00:01.00,00:00:02.5,60,150,cut it,cut,1,it,2,['it'],[2]"
EPIC = f"{','.join(COLUMNS)}\n{ROW}\n".encode()
INFO = b"video_id,duration,fps,resolution\nP01_01,9.5,59.94,1920x1080\n"
YAML = b"a: &x {b: 1e-4, c: [1, 2, no]}\nd: *x\ne: {<<: *x, f: text}\n"
NOTE = {
    "total": 3, "before": 0, "done": 1, "since": "2026", "token": "a", "seconds": 1.5, "pid": 1, "host": "h",
    "place": "p",
}  # fmt: skip


def dumped(*values: object) -> st.SearchStrategy[bytes]:
    """JSON of these or others, or damaged."""
    return st.one_of([spoilt(value) for value in values]).map(lambda value: json.dumps(value).encode())


def damaged(*contents: bytes) -> st.SearchStrategy[bytes]:
    """Copies with changes."""
    return st.builds(edited, st.sampled_from(contents), EDITS)


def array(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def header(text: str, content: bytes = b"\0" * 64) -> bytes:
    """An `.npy` file of any header."""
    told = text.encode("latin1", "replace")
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(told)) + told + content


def tensors(told: object, content: bytes = b"\0" * 64) -> bytes:
    """A safetensors file of any header."""
    text = told if isinstance(told, bytes) else json.dumps(told).encode()
    return struct.pack("<Q", len(text)) + text + content


def picture(form: str, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.effect_noise((9, 7), 50).convert(mode).save(file, form)
    return file.getvalue()


class Target:
    """A reader: what it reads is written into files of a folder, and read."""

    def __init__(
        self,
        strategy: st.SearchStrategy[Any],
        names: tuple[str, ...],
        *reads: Callable[[Path], object],
        known: tuple[Any, ...] = (),
    ) -> None:
        self.strategy, self.names, self.reads, self.known = strategy, names, reads, known

    def check(self, folder: Path) -> Callable[[Any], None]:
        """Writes an input and reads it in each way."""

        def run(found: Any) -> None:
            for name, content in zip(
                self.names, found if isinstance(found, tuple) else (found,), strict=True
            ):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            for read in self.reads:
                holds(lambda read=read: read(folder), folder)  # type: ignore[misc]

        return run


def at(name: str, read: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: read(folder / name)


def read_all(path: Path) -> list[np.ndarray]:
    return [read() for read in read_tensors(path).values()]


SHARD = shard_path(Path("shards"), "0", 0).as_posix()


def make_shards(folder: Path) -> bytes:
    """A folder of feature shards: what is in its only one."""
    place = folder / "shards"
    claim_store(place, {"checkpoint": "x"}, "shards", "int8")
    path = folder / SHARD
    write_shard(
        path, {"a/0.npy": np.ones((2, 3), np.float16), "b.npy": np.ones((1, 3))}, made_by(place), "int8"
    )
    return path.read_bytes()


def read_shards(folder: Path) -> None:
    for tolerant in (True, False):
        found = FeatureFolder(folder / "shards", "llava_text", tolerant)
        for name in found.names:
            for read in (found.features, found.files.read, found.files.outline, found.files.path):
                with suppress(UserError):
                    read(name)
    read_difference(folder / SHARD)


def make_samples(folder: Path) -> tuple[bytes, bytes]:
    """Index and shard of one sample."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        add_bytes(tar, "000000000.input.jpg", picture("JPEG"))
        add_bytes(tar, "000000000.target.jpg", picture("JPEG"))
        facts = {**ACTION, "clip_id": "c", "action_id": "0", "description": None}
        add_bytes(tar, "000000000.json", json.dumps(facts).encode())
    (folder / "x.tar").write_bytes(file.getvalue())
    shard = {
        "file": "x.tar",
        "samples": 1,
        "bytes": len(file.getvalue()),
        "sha256": file_hash(folder / "x.tar"),
    }
    return json.dumps({"samples": 1, "shards": [shard]}).encode(), file.getvalue()


INDEX = sample_index(Path(), "ego4d", "val").as_posix()


def fit_size(pair: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """Lets the index say the shard's true size, so that more than the size is looked at."""
    index, tar = pair
    with suppress(ValueError, KeyError, TypeError, IndexError):
        told = json.loads(index)
        told["shards"][0]["bytes"] = len(tar)
        index = json.dumps(told).encode()
    return index, tar


def read_samples(folder: Path) -> None:
    found = SampleShards(folder, "ego4d", "val")
    for item in found.annotations:
        for name in (item.action.image_0, item.action.image_1):
            with suppress(UserError):
                found.read(name)
    found.check_sums()


def read_archive(folder: Path) -> None:
    """Unpacks what is there, and looks that nothing came out elsewhere."""
    before = set(folder.iterdir())
    out = folder / "out"
    parts = [folder / "x.z01", folder / "x.zip"]
    try:
        for paths in (parts, parts[1:]):
            with suppress(UserError):
                unpack(paths, out, lambda name: out / name)
        assert set(folder.iterdir()) <= {*before, out}
        assert all(path.resolve().is_relative_to(out) and not path.is_symlink() for path in out.rglob("*"))
    finally:
        remove(out)


def remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    if folder.exists():
        folder.rmdir()


def read_journal(folder: Path) -> None:
    for tolerant in (True, False):
        found = Journal(folder / "x.jsonl", ("clip", "id"), anew="run again", tolerant=tolerant)
        assert all(isinstance(part, str) for key in found.rows for part in key)


def read_claims(folder: Path) -> None:
    claims = Claims(folder, 2, together=True)
    [claims.is_done(shard) for shard in claims.shards]
    claim = claims.path(claims.shards[0], ".claim")
    content = claim.read_bytes() if claim.exists() else None
    try:
        claims.is_free(claims.shards[0])
    finally:
        if content is not None:
            claim.write_bytes(content)


def tell(folder: Path) -> None:
    with redirect_stdout(io.StringIO()), suppress(SystemExit):
        status([str(folder), "--all"])


FLOATS = np.arange(12, dtype=np.float16).reshape(4, 3)
PARTS = tuple(split_archive({"a/0.jpg": b"x" * 90, "b.txt": b"y" * 60}, 130))
ZIP64 = tuple(split_archive({"a/0.jpg": b"x" * 150, "b.txt": b"y" * 60}, 300, zip64=True))
WHOLE = save({"weight": np.ones((2, 3), np.float32), "bias": np.ones(2, np.float16)})
NPY = [array(FLOATS), array(FLOATS[None]), array(FLOATS[0].astype(np.float64)), array(np.ones((256, 3)))]
NPZ = io.BytesIO()
np.savez(NPZ, weight=FLOATS)
ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def targets(folder: Path) -> Iterator[tuple[str, Target]]:
    """The readers by name."""
    annotations = dumped(CLIPS, METADATA, TURNS) | damaged(
        *(json.dumps(each).encode() for each in (CLIPS, METADATA))
    )
    readers = [at("x.json", read) for read in (Annotations.read, read_metadata, read_conversations)]
    yield "annotations", Target(annotations, ("x.json",), *readers)
    npy = damaged(*NPY) | spoilt({"descr": "<f2", "fortran_order": False, "shape": [4, 3]}).map(
        lambda told: header(f"{told}".replace("[", "(").replace("]", ")"))
    )
    ways = [lambda path: is_done(path), lambda path: read_pair(path, path)]
    ways += [
        lambda path, read=read, outline=outline, width=width: read(path, width, outline)
        for read in (read_image_feature, read_text_feature)
        for outline in (True, False)
        for width in (None, 3)
    ]
    yield "npy", Target(npy, ("x.npy",), *(at("x.npy", way) for way in ways))
    shard = make_shards(folder)
    length = int.from_bytes(shard[:8], "little")
    told = json.loads(shard[8 : 8 + length])
    facts = json.loads(told["__metadata__"]["egogen"])
    of_facts = spoilt(facts).map(
        lambda value: tensors({**told, "__metadata__": {"egogen": json.dumps(value)}}, shard[8 + length :])
    )
    of_header = spoilt(told).map(lambda value: tensors(value, shard[8 + length :]))
    yield "shards", Target(damaged(shard) | of_facts | of_header, (SHARD,), read_shards)
    weights = damaged(WHOLE, NPZ.getvalue()) | spoilt({"weight": ENTRY, "bias": ENTRY}).map(tensors)
    for suffix in ("safetensors", "npz"):
        yield suffix, Target(weights, (f"x.{suffix}",), at(f"x.{suffix}", read_all))
    archives = st.sampled_from([PARTS[:2], ZIP64]).flatmap(
        lambda pair: st.tuples(*(damaged(each) for each in pair))
    )
    yield "split zip", Target(archives, ("x.z01", "x.zip"), read_archive)
    videos = dumped({"videos": [VIDEO]}, {"video_data": {"v": VIDEO}}) | damaged(
        json.dumps({"videos": [VIDEO]}).encode()
    )
    both = [
        at("x.json", lambda path, clips=clips: list(read_videos(path, ("pre_15", "pnr_frame"), clips)))
        for clips in (True, False)
    ]
    crashed = (b'{"version": ' + b"9" * 5000 + b"}", b'{"videos": [{"fps": ' + b"9" * 5000 + b"}]}")
    yield "ego4d", Target(videos, ("x.json",), *both, known=crashed)
    tables = damaged(EPIC, INFO, EPIC.decode().encode("utf-16"))
    yield (
        "epic",
        Target(
            tables,
            ("x.csv",),
            at("x.csv", lambda path: list(read_actions(path))),
            at("x.csv", read_video_info),
        ),
    )
    yield (
        "yaml",
        Target(
            damaged(YAML) | VALUES.map(lambda value: json.dumps(value).encode()),
            ("x.yaml",),
            at("x.yaml", read_yaml),
        ),
    )
    parquet = exported(folder).read_bytes()
    rows = at("x.parquet", lambda path: list(rows_of(path)))
    yield "parquet", Target(damaged(parquet), ("x.parquet",), rows, at("x.parquet", schema_of))
    index, tar = make_samples(folder)
    pair = st.tuples(damaged(index) | dumped(json.loads(index)), st.just(tar) | damaged(tar)).map(fit_size)
    yield "webdataset", Target(pair, (INDEX, "x.tar"), read_samples)
    lines = st.lists(
        dumped({"clip": "a", "id": "0", "x": 1}) | damaged(b'{"clip": "a", "id": "0"}'), max_size=4
    )
    yield "journal", Target(lines.map(b"\n".join), ("x.jsonl",), read_journal)
    notes = st.tuples(
        dumped({"shards": 2, "command": ["-m", "x", "--shard", "auto"]}) | damaged(b'{"shards": 2}'),
        *[dumped(NOTE) | damaged(json.dumps(NOTE).encode())] * 3,
    )
    names = (PLAN, "1_of_2.claim", "2_of_2.done", "1_of_2.left")
    yield "claims", Target(notes, tuple(f"{FOLDER}/{name}" for name in names), read_claims, tell)
    forms = [
        picture(form) for form in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "ICO", "TGA", "DDS")
    ]
    images = damaged(*forms, picture("PNG", "I;16"), picture("TIFF", "F"))
    coarse = [at("x.jpg", lambda path, coarse=coarse: read_frame(path, coarse)) for coarse in (True, False)]
    yield "images", Target(images, ("x.jpg",), *coarse, at("x.jpg", image_size))


NAMES = (
    "annotations", "npy", "shards", "safetensors", "npz", "split zip", "ego4d", "epic", "yaml", "parquet",
    "webdataset", "journal", "claims", "images",
)  # fmt: skip


@pytest.mark.parametrize("long", BUDGETS)
@pytest.mark.parametrize("name", NAMES)
def test_a_value_or_one_line_comes_of_any_input(name: str, long: bool, tmp_path: Path) -> None:
    target = dict(targets(tmp_path))[name]
    fuzz(target.check(tmp_path), target.strategy, target.known, long)

"""WebDataset shards read in place: the same data set as the files, and a damaged shard is named.

Witnesses: the `webdataset` library, and the files that were exported.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from egogen.annotations import Annotations
from egogen.errors import UserError
from egogen.frames import FolderFrames, FrameStore, add_bytes
from egogen.layout import Layout, sample_index
from egogen.manifest import file_hash
from egogen.prepare.__main__ import main
from egogen.sample_shards import SampleShards


@pytest.fixture(scope="module")
def shards(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of the train split: 2, 2 and 1 samples."""
    out = tmp_path_factory.mktemp("shards")
    flags = ["--dataset", "ego4d", "--split", "train", "--samples-per-shard", "2", "--out", str(out)]
    main(["to-webdataset", str(world), *flags])
    return out


@pytest.fixture
def copied(shards: Path, tmp_path: Path) -> Path:
    """Shards that a test may damage."""
    for path in shards.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_they_hold_the_annotations_and_frames_of_the_files(world: Path, shards: Path) -> None:
    layout = Layout(world, "ego4d")
    found, expected = SampleShards(shards, "ego4d", "train"), Annotations.read(layout.annotations("train"))
    assert isinstance(found, FrameStore)
    assert found.annotations.items == expected.items
    files = FolderFrames(layout.frames("train"))
    for item in expected:
        for name in (item.action.image_0, item.action.image_1):
            assert found.read(name).tobytes() == files.read(name).tobytes()
            found.check(name)
    found.check_sums()
    with pytest.raises(UserError, match=r"no shard holds the frame 'a/b\.jpg'"):
        found.read("a/b.jpg")


def test_webdataset_reads_the_same_bytes_in_the_same_order(shards: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    found = SampleShards(shards, "ego4d", "train")
    paths = [str(shards / shard.file) for shard in found.index.shards]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"{number:09d}" for number in range(5)]
    for sample, item in zip(samples, found.annotations, strict=True):
        for role, name in (("input.jpg", item.action.image_0), ("target.jpg", item.action.image_1)):
            assert sample[role] == found.tars.bytes(found.member(name))
        assert json.loads(sample["json"])["clip_id"] == item.clip


def flip(path: Path, _: Path) -> None:
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)


def cut(path: Path, _: Path) -> None:
    os.truncate(path, path.stat().st_size - 512)


def lose(path: Path, _: Path) -> None:
    path.unlink()


def swap(path: Path, folder: Path) -> None:
    """A shard of the same length, of other samples: what it holds is there twice."""
    path.write_bytes((folder / "ego4d-train-000000.tar").read_bytes())
    edit(folder, lambda shard: shard | {"bytes": path.stat().st_size} if "1.tar" in shard["file"] else shard)


def edit(folder: Path, change: Callable[[Any], Any]) -> None:
    index = sample_index(folder, "ego4d", "train")
    value = json.loads(index.read_text())
    index.write_text(json.dumps({**value, "shards": list(map(change, value["shards"]))}))


def write_facts(path: Path, folder: Path) -> None:
    """A sample that does not say whose it is."""
    with tarfile.open(path, "w") as tar:
        add_bytes(tar, "000000002.json", b"{}")
    edit(folder, lambda shard: shard | {"bytes": path.stat().st_size} if "1.tar" in shard["file"] else shard)


def shorten_index(_: Path, folder: Path) -> None:
    index = sample_index(folder, "ego4d", "train")
    value = json.loads(index.read_text())
    index.write_text(json.dumps({**value, "shards": value["shards"][:2]}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, r"train-000001\.tar: damaged, its SHA-256 is not that in ego4d-train\.index\.json"),
        (cut, r"train-000001\.tar: is \d+ bytes long, the index beside it says \d+"),
        (lose, r"train-000001\.tar: missing, the index beside it lists it"),
        (swap, r"train-000001\.tar: frame '000000000\.input\.jpg' is in .*000000\.tar too"),
        (write_facts, r"train-000001\.tar: 000000002\.json: names no clip_id and action_id"),
        (shorten_index, r"index\.json: lists 5 samples, its shards hold 4"),
        (
            lambda _, folder: edit(folder, lambda shard: shard | {"file": "../x.tar"}),
            r"index\.json, field 'shards\.0\.file': found '\.\./x\.tar': contains '\.\.'",
        ),
        (lambda _, folder: sample_index(folder, "ego4d", "train").unlink(), r"index\.json: no such file"),
    ],
)
def test_what_is_damaged_is_named(copied: Path, damage: Callable[[Path, Path], None], message: str) -> None:
    damage(copied / "ego4d-train-000001.tar", copied)
    with pytest.raises(UserError, match=message):
        SampleShards(copied, "ego4d", "train").check_sums()


def test_the_same_shards_have_the_same_sums(copied: Path) -> None:
    index = json.loads(sample_index(copied, "ego4d", "train").read_text())
    assert [shard["sha256"] for shard in index["shards"]] == [
        file_hash(copied / shard["file"]) for shard in index["shards"]
    ]

"""What stage 2 says of stores that are damaged, mixed, of another model, or not what the key says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from egogen.errors import UserError
from egogen.features.projector import Projector
from egogen.files import write_json
from egogen.layout import clip_folder, projector_path, shard_paths
from ldm.config.merge import load_config
from ldm.config.sections import TrainConfig
from ldm.data.image_features import VisionFiles, load_vision
from tests.ldm.feature_run import PATCH_WIDTH, base, make_stores, module
from tests.ldm.toy_run import WIDTH, Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_stores(tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def run_root(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_ROOT", str(run.root / "runs"))


# --- what goes wrong ------------------------------------------------------------------------------------


def test_a_wrong_key_is_named(run: Run) -> None:
    with pytest.raises(UserError, match=r"features\.store: got 'zip', allowed: npy, compact, online"):
        load_config(TrainConfig, [], ["features.store=zip"])
    with pytest.raises(UserError, match=r"unknown key 'features\.stor'; did you mean 'features\.store'"):
        load_config(TrainConfig, [], ["features.stor=npy"])
    assert load_config(TrainConfig, [base(run)], run.words()).features.store == "npy"  # old configurations


def test_the_key_must_say_what_is_there(run: Run) -> None:
    for store, root, message in (
        ("compact", run.features, r"form 'npy', expected 'shards'; set features\.store=npy"),
        ("npy", run.root / "compact", r"form 'shards', expected 'npy'; set features\.store=compact"),
        ("npy", run.root / "online", r"form 'online', expected 'npy'; set features\.store=online"),
        ("online", run.root / "compact", r"form 'shards', expected 'online'; set features\.store=compact"),
        ("compact", run.root / "none", r"no such folder of features; make it by"),
    ):
        with pytest.raises(UserError, match=message):
            module(run, "npy", f"features.store={store}", f"data.features={root}")


def lose_shard(root: Path) -> None:
    shard_paths(root / "ego4d/train/llava_text")[0].unlink()


def cut_shard(root: Path) -> None:
    path = shard_paths(root / "ego4d/train/llava_image")[0]
    path.write_bytes(path.read_bytes()[:-3])


def change_byte(root: Path) -> None:
    path = shard_paths(root / "ego4d/train/llava_image")[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def other_projector(root: Path) -> None:
    path = projector_path(root / "ego4d/train/llava_image")
    path.unlink()
    Projector(np.ones((WIDTH, PATCH_WIDTH), np.float32), np.zeros(WIDTH, np.float32)).write(path)


def mix(root: Path) -> None:
    first, other = (shard_paths(root / f"ego4d/{split}/llava_text")[0] for split in ("train", "val"))
    shutil.copy(other, first.with_name("other-00000.safetensors"))


def two_checkpoints(root: Path) -> None:
    for kind in ("llava_image", "llava_text"):
        place = root / "ego4d/train" / kind
        write_json(place / "manifest.json", {"form": "shards", "row_type": "float16", "checkpoint": kind})
        for path in shard_paths(place):
            path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_shard, r"llava_text: no shard holds the feature .*\(4 items have such problems\)"),
        (cut_shard, r"features-00000\.safetensors: damaged shard"),
        (change_byte, r"features-00000\.safetensors: damaged shard \(the bytes of .* have changed"),
        (other_projector, r"not made with the manifest\.json and projector that are beside it"),
        (
            lambda root: projector_path(root / "ego4d/val/llava_image").unlink(),
            r"projector\.safetensors: missing",
        ),
        (mix, r"other-00000\.safetensors: not made with the manifest\.json"),
        (
            two_checkpoints,
            r"text features of checkpoint llava_text, but image features in .* are of llava_image",
        ),
    ],
)
def test_damage_is_named_before_training(run: Run, tmp_path: Path, damage: Any, message: str) -> None:
    shutil.copytree(run.root / "compact", tmp_path / "compact")
    damage(tmp_path / "compact")
    with pytest.raises(UserError, match=message):
        module(run, "compact", f"data.features={tmp_path / 'compact'}").prepare_data()


def test_headers_alone_may_be_looked_at(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.root / "compact", tmp_path / "compact")
    change_byte(tmp_path / "compact")
    where = f"data.features={tmp_path / 'compact'}"
    module(run, "compact", where, "data.check=headers").prepare_data()
    lose_shard(tmp_path / "compact")
    with pytest.raises(UserError, match="no shard holds the feature"):
        module(run, "compact", where, "data.check=headers").prepare_data()


def test_another_width_or_clip_is_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"image features of width 24, model\.architecture\.llm_width is 32"):
        module(run, "compact", "model.architecture.llm_width=32")
    shutil.copytree(run.root / "online", tmp_path / "online")
    where = f"data.features={tmp_path / 'online'}"
    config = clip_folder(tmp_path / "online/ego4d/train/llava_image") / "config.json"
    raw = json.loads(config.read_text())
    config.write_text(json.dumps({**raw, "patch_size": 8}))
    with pytest.raises(UserError, match=r"64 x 64 pixels in patches of 8 x 8 are 64 patches, expected 256"):
        module(run, "online", where)
    config.write_text(json.dumps({**raw, "num_hidden_layers": 5}))
    with pytest.raises(UserError, match=r"clip: tensor .* is missing from the folder's weights"):
        module(run, "online", where).prepare_data()
    for path in config.parent.glob("*.safetensors"):
        path.unlink()
    shutil.rmtree(config.parent)
    with pytest.raises(UserError, match="clip: no checkpoint here"):
        module(run, "online", where)


def test_clip_and_projector_must_fit(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.root / "clip", tmp_path / "clip")
    Projector(np.ones((WIDTH, 7), np.float32), np.zeros(WIDTH, np.float32)).write(projector_path(tmp_path))
    with pytest.raises(UserError, match="CLIP's patches are 16 wide, the projector takes 7"):
        load_vision(VisionFiles.of(tmp_path, online=True))

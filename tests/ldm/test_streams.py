"""One of the two streams of features left out, in each store: its folder need not even be there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from egogen.annotations import Annotations
from egogen.errors import UserError
from egogen.layout import features_root
from ldm.checkpoints.safe_reading import read
from ldm.data.image_features import complete
from ldm.data.stage_one import TEXT, StageOne
from ldm.networks.shapes import Streams
from ldm.sample import main as sample
from ldm.train import main as train
from tests.ldm.feature_run import SHORT, STORES, batches, make_stores, module, words
from tests.ldm.toy_run import WIDTH, Run, training

IMAGE_ALONE, TEXT_ALONE = Streams(True, False), Streams(False, True)
# Stream -> the key that leaves the other one out, and the folder that nobody then needs.
LEFT_OUT = {
    IMAGE_ALONE: ("model.text_features=false", "llava_text"),
    TEXT_ALONE: ("model.image_features=false", "llava_image"),
}
EACH = pytest.mark.parametrize("streams", LEFT_OUT, ids=["image alone", "text alone"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_stores(tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def run_root(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_ROOT", str(run.root / "runs"))


def without(run: Run, store: str, streams: Streams, tmp_path: Path) -> Path:
    """The store with one folder of each split missing."""
    root = run.features if store == "npy" else run.root / store
    left_out = LEFT_OUT[streams][1]
    return Path(shutil.copytree(root, tmp_path / "features", ignore=shutil.ignore_patterns(left_out)))


@EACH
@pytest.mark.parametrize("store", STORES)
def test_a_stream_alone_is_what_it_is_beside_the_other(
    run: Run, store: str, streams: Streams, tmp_path: Path
) -> None:
    """It is read, and checked, without a folder of the other one."""
    items = Annotations.read(run.annotations("val")).items
    known, alone = (run.features if store == "npy" else run.root / store), tmp_path / "features"
    assert without(run, store, streams, tmp_path) == alone
    both, one = (
        StageOne(
            store,
            features_root(root, "ego4d", "val", "llava_image"),
            features_root(root, "ego4d", "val", "llava_text"),
            WIDTH,
            items,
            chosen,
        )
        for root, chosen in ((known, Streams()), (alone, streams))
    )
    for item in items:
        for full in (False, True):
            one.check(item, full)
        frame = Image.open(run.layout.frames("val") / str(item.action.image_0)).convert("RGB")
        expected, found = (part.read(item, frame.copy) for part in (both, one))
        assert (TEXT in found) == streams.text
        assert len(found) == (1 if streams == TEXT_ALONE or store == "npy" else 2)
        for name, value in found.items():
            assert not isinstance(value, torch.Tensor) or torch.equal(value, expected[name])
    if streams.image and one.vision is not None:
        batch = {
            key: value[None] if isinstance(value, torch.Tensor) else [value] for key, value in found.items()
        }
        made = complete(batch, {one.vision.digest: one.vision})  # type: ignore[arg-type]
        assert made["vllm_image"].shape == (1, 256, WIDTH)


@EACH
@pytest.mark.parametrize("store", STORES)
def test_a_stream_alone_is_batched_checked_and_needed(
    run: Run, store: str, streams: Streams, tmp_path: Path
) -> None:
    key, _ = LEFT_OUT[streams]
    root = without(run, store, streams, tmp_path)
    data = module(run, store, key, f"data.features={root}")
    data.prepare_data()
    assert len(data.visions) == (streams.image and store != "npy")
    for batch, expected in zip(batches(data), batches(module(run, store)), strict=True):
        for name, wanted in (("vllm_image", streams.image), ("vllm_text", streams.text)):
            assert (name in batch) == wanted
            assert not wanted or torch.equal(batch[name], expected[name])
    with pytest.raises(UserError, match=LEFT_OUT[streams][1]):
        module(run, store, f"data.features={root}").prepare_data()


@EACH
def test_a_stream_alone_trains_and_draws(run: Run, streams: Streams, tmp_path: Path) -> None:
    """Its checkpoint holds no weights of the other, and says so to who wants both."""
    store = "online" if streams.image else "compact"
    key, left_out = LEFT_OUT[streams]
    settings = words(run, store, key, f"data.features={without(run, store, streams, tmp_path)}")
    name = f"no_{left_out}"
    train(training(run, name, *settings, *SHORT, logs=tmp_path / "logs"))
    checkpoint = tmp_path / "logs" / f"tiny_{name}" / "checkpoints" / "last.ckpt"
    state = read(checkpoint)["state_dict"]
    found = Streams("projection_img.weight" in state, "projection_txt.weight" in state)
    assert found == streams
    config = tmp_path / "generate.yaml"
    config.write_text("sampling: {steps: 2}\n")
    draw = ["--config", str(config), "--ckpt", str(checkpoint), "--out", str(tmp_path / "out")]
    sample([*draw, *settings])
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == 3
    made = json.loads((tmp_path / "out" / "manifest.json").read_text())["feature_store"]
    assert made == ("online" if streams.image else "compact, text float16")
    with pytest.raises(UserError, match=r"has weights for \w+ features, .* wants image and text"):
        sample([*draw[:-1], str(tmp_path / "both"), *words(run, store)])

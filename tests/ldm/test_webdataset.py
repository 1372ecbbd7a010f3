"""Training from WebDataset shards: the batches, the loss and the weights of single files, bit for bit.

Witness: the same run from single files.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from egogen.errors import UserError
from egogen.prepare.__main__ import main as prepare
from ldm.checkpoints.safe_reading import read
from ldm.checkpoints.source import load_parts
from ldm.config.merge import load_config
from ldm.config.sections import GenerateConfig, TrainConfig
from ldm.data.image_features import Batch
from ldm.data.loaders import PairsModule
from ldm.data.pairs import SplitFiles
from ldm.networks.text import make_tokenizer
from ldm.sample import main as sample
from tests.ldm.toy_run import TRAINING, Run, base, fit, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    made = make_run(tmp_path_factory.mktemp("run"))
    for split in ("train", "val"):
        flags = ["--dataset", "ego4d", "--split", split, "--out", str(made.root / "shards")]
        more = ["--annotations", str(made.annotations(split)), "--samples-per-shard", "2"]
        prepare(["to-webdataset", str(made.root / "data"), *flags, *more])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUN_ROOT", str(made.root / "runs"))
        yield made


def from_shards(run: Run) -> list[str]:
    """Settings that take annotations and frames from the shards alone: the data set is nowhere else."""
    nothing = ["data.train_annotations=", "data.val_annotations=", f"data.root={run.root / 'nowhere'}"]
    return [f"data.webdataset={run.root / 'shards'}", *nothing]


def batches(run: Run, *words: str) -> list[Batch]:
    config = load_config(TrainConfig, [base(run)], [*run.words(), *TRAINING, *words])
    parts = load_parts(run.start, config.model.shape, conditioner=True, new_conditioner=True)
    data = PairsModule(config, parts, make_tokenizer())
    data.prepare_data()
    return [*data.train_dataloader(), *data.val_dataloader()]


def test_batches_are_those_of_the_files(run: Run) -> None:
    """Also with loader workers, and with two processes reading in their own order."""
    files = batches(run)
    assert len(files) == 10
    for words in ([], ["data.workers=2", "data.check=headers"]):
        for one, two in zip(files, batches(run, *from_shards(run), *words), strict=True):
            assert one.keys() == two.keys()
            for name, value in one.items():
                same = torch.equal if isinstance(value, torch.Tensor) else operator.eq
                assert same(value, two[name])


@pytest.mark.slow
def test_a_run_goes_on_from_shards_and_ends_as_from_files(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Step 1 from single files, step 2 from shards."""
    short = ["trainer.images_every_steps=100", "trainer.save_every_steps=1", "trainer.max_steps=2"]
    whole = fit(run, "files", *short) / "checkpoints"
    first = str(whole / "step=0000001.ckpt")
    with caplog.at_level(logging.INFO):
        resumed = fit(run, "shards", "--resume", first, *short, *from_shards(run)) / "checkpoints"
    assert f"resume {first}" in caplog.text
    assert "data.webdataset: '' -> " in caplog.text
    one, two = (read(folder / "last.ckpt")["state_dict"] for folder in (whole, resumed))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_annotations_of_ones_own_go_with_the_shards(run: Run) -> None:
    words = [f"data.webdataset={run.root / 'shards'}", f"data.root={run.root / 'nowhere'}"]
    config = load_config(TrainConfig, [base(run)], [*run.words(), *words])
    files = SplitFiles(config.data, "train")
    assert files.annotations.source == run.annotations("train")
    files.check()
    config = load_config(GenerateConfig, [], [*run.words(), *from_shards(run)])
    assert SplitFiles(config.data, "val").annotations.source == run.root / "shards/ego4d-val.index.json"


def test_drawing_reads_shards_and_the_data_sets_metadata(run: Run, tmp_path: Path) -> None:
    """By the method that copies frames: the files are those of a drawing from single files."""
    config = tmp_path / "generate.yaml"
    config.write_text("sampling: {format: png}\n")
    shards = [*from_shards(run), f"data.root={run.root / 'data'}"]
    drawn = []
    for name, words in (("files", []), ("shards", shards)):
        flags = ["--config", str(config), "--method", "copy", "--out", str(tmp_path / name)]
        sample([*flags, *run.words(), *words])
        images = tmp_path / name / "images"
        drawn.append({path.relative_to(images): path.read_bytes() for path in images.rglob("*.png")})
    assert len(drawn[0]) == 3
    assert drawn[0] == drawn[1]


def test_a_damaged_shard_is_named_before_training(run: Run) -> None:
    path = run.root / "shards/ego4d-train-000001.tar"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-1] + b"\1")
        with pytest.raises(UserError, match=r"ego4d-train-000001\.tar: damaged, its SHA-256"):
            batches(run, *from_shards(run))
    finally:
        path.write_bytes(whole)


def test_one_place_for_frames(run: Run) -> None:
    with pytest.raises(UserError, match=r"data\.webdataset: got 'a', allowed: empty where data\.frame_tars"):
        load_config(TrainConfig, [base(run)], [*run.words(), "data.webdataset=a", "data.frame_tars=b"])
    with pytest.raises(UserError, match=r"nowhere/ego4d-train\.index\.json: no such file"):
        fit(run, "nowhere", *from_shards(run), f"data.webdataset={Path('nowhere')}")

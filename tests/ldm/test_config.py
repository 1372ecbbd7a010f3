"""Every YAML loads and builds; wrong settings are named."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from itertools import chain, permutations
from pathlib import Path

import pytest
import torch

from egogen import cli
from egogen.errors import UserError
from ldm.checkpoints.source import load_parts, open_source, with_sizes
from ldm.checkpoints.writing import published_state, write
from ldm.config.merge import flag_word, load_config
from ldm.config.sections import GenerateConfig, ModelConfig, TrainConfig
from ldm.networks.architecture import build
from ldm.networks.shapes import Architecture
from ldm.sample import SampleOptions
from ldm.sampling.drawing_config import read_config
from ldm.train import TrainOptions
from ldm.training.early_checks import accumulate, unused
from ldm.training.run import choose_precision
from tests.ldm.toy_run import SHAPE

CONFIGS = Path(__file__).parents[2] / "configs"
# Those of stage 1 are read in tests/llava/test_plan.py.
STAGE_2 = sorted([*CONFIGS.glob("train_*.yaml"), *CONFIGS.glob("generate_*.yaml")])


@pytest.mark.parametrize("path", STAGE_2, ids=lambda path: path.name)
def test_every_yaml_loads_and_its_model_builds(path: Path) -> None:
    kind: type[TrainConfig | GenerateConfig] = (
        TrainConfig if path.name.startswith("train_") else GenerateConfig
    )
    config = load_config(kind, [path])
    with torch.device("meta"):
        parts = build(config.model.shape, config.model.vllm_features)
    assert parts.conditioner is not None
    assert parts.unet.config.in_channels == 8


@pytest.mark.parametrize(
    ("name", "epochs"), [("train_ego4d.yaml", 240), ("train_kitchen.yaml", 330)], ids=["ego4d", "epic"]
)
def test_published_training_values(name: str, epochs: int) -> None:
    config = load_config(TrainConfig, [CONFIGS / name])
    assert (config.data.batch_size, accumulate(config, 8), config.trainer.max_epochs) == (32, 4, epochs)
    assert (config.optimizer.lr, config.optimizer.weight_decay, config.trainer.seed) == (1e-4, 0.01, 23)
    assert config.trainer.max_steps == -1  # the epochs alone end it
    assert config.optimizer.betas == [0.9, 0.999]
    assert (config.model.ema_decay, config.data.resolution, config.data.flip) == (0.9999, 256, 0.5)


@pytest.mark.parametrize("name", ["generate_ego4d.yaml", "generate_kitchen.yaml"])
def test_published_sampling_values(name: str) -> None:
    sampling = load_config(GenerateConfig, [CONFIGS / name]).sampling
    assert (sampling.steps, sampling.scales_txt, sampling.scales_img, sampling.seed) == (100, [7.5], [1.5], 0)
    assert (sampling.scheduler, sampling.output_range, sampling.format) == (
        "euler_ancestral",
        "stretch",
        "jpg",
    )


def test_files_merge_left_to_right_and_words_win(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("data: {batch_size: 3, flip: 0.1}\ntrainer: {max_steps: 5}")
    (tmp_path / "b.yaml").write_text("data: {batch_size: 4}")
    config = load_config(TrainConfig, [tmp_path / "a.yaml", tmp_path / "b.yaml"], ["data.flip=0.2"])
    assert (config.data.batch_size, config.data.flip, config.trainer.max_steps) == (4, 0.2, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: {}", r"unknown key 'modle'; did you mean 'model'"),
        ("data: {batchsize: 3}", r"unknown key 'data.batchsize'; did you mean 'data.batch_size'"),
        ("data: {batch_size: many}", r"data.batch_size"),
        ("data: {batch_size: 0}", r"data.batch_size: got 0, allowed: at least 1"),
        ("data: {dataset: ego5d}", r"'ego5d': allowed are ego4d, epickitchen"),
        ("sampling: {output_range: wide}", r"sampling.output_range: got 'wide'"),
        ("optimizer: {lr: -1}", r"optimizer.lr"),
        ("data: [1", r"not valid YAML .* at line 2"),
        ("model: {architecture: {unet: {channels: [48, 96]}}}", r"2 channels and 4 attention"),
        ("[1, 2]", r"a.yaml"),
        ("data: 3", r"data: got 3, allowed: settings by name"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text + "\n")
    with pytest.raises(UserError, match=message) as caught:
        load_config(TrainConfig, [tmp_path / "a.yaml"])
    assert "\n" not in str(caught.value)


def test_wrong_words_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_config(TrainConfig, [tmp_path / "none.yaml"])
    with pytest.raises(
        UserError, match=r"unknown key 'trainer\.max_step'; did you mean 'trainer\.max_steps'"
    ):
        load_config(TrainConfig, [], ["trainer.max_step=3"])
    with pytest.raises(UserError, match="expected key=value"):
        load_config(TrainConfig, [], ["trainer.max_steps"])


def test_effective_batch_must_divide() -> None:
    config = load_config(TrainConfig, [CONFIGS / "train_ego4d.yaml"], ["data.batch_size=24"])
    with pytest.raises(UserError, match=r"1024 is no multiple of data.batch_size x devices = 24; use 1032"):
        accumulate(config, 1)


@pytest.mark.parametrize("name", ["12gb_lora", "24gb", "40gb", "80gb"])
@pytest.mark.parametrize("base", ["train_ego4d", "train_kitchen", "train_joint"])
def test_hardware_presets_lie_over_any_run(base: str, name: str) -> None:
    files = [CONFIGS / f"{base}.yaml", CONFIGS / "hardware" / f"{name}.yaml"]
    config = load_config(TrainConfig, files)
    assert config.trainer.precision == "bf16-mixed"
    for devices in (1, 2, 4, 8):
        assert accumulate(config, devices) * config.data.batch_size * devices == 1024
    published = load_config(TrainConfig, files[:1])
    assert config.optimizer.lr == published.optimizer.lr
    assert config.trainer.max_epochs == published.trainer.max_epochs


def test_the_joint_run_reads_both_data_sets() -> None:
    config = load_config(TrainConfig, [CONFIGS / "train_joint.yaml"], ["data.resolution=64"])
    one, other = config.all_data()
    assert (one.dataset, other.dataset) == ("ego4d", "epickitchen")
    assert other.resolution == 64
    assert other.layout().frames("train").parts[-2:] == ("epickitchen", "train")
    assert (accumulate(config, 8), config.trainer.max_steps) == (4, 20000)


def test_our_own_descriptions_come_before_those_of_the_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What scripts/describe.sh wrote is used without naming it; a named file comes first of all."""
    monkeypatch.setenv("RUN_ROOT", str(tmp_path / "runs"))
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "data"))
    config = load_config(TrainConfig, [CONFIGS / "train_ego4d.yaml"])
    assert config.data.annotations("val") == tmp_path / "data/EgoGen/ego4d_val.json"
    merged = tmp_path / "runs/annotations/ego4d_val.json"
    merged.parent.mkdir(parents=True)
    merged.write_text("{}")
    assert config.data.annotations("val") == merged
    assert config.data.annotations("train") == tmp_path / "data/EgoGen/ego4d_train.json"
    named = load_config(TrainConfig, [CONFIGS / "train_ego4d.yaml"], ["data.val_annotations=mine.json"])
    assert named.data.annotations("val") == Path("mine.json")


def test_words_that_older_yaml_takes_for_others_are_what_they_say() -> None:
    words = ["optimizer.eight_bit=on", "sampling.compile=yes", "model.compile=off", "sampling.seed=010"]
    config = load_config(TrainConfig, [], words)
    assert (config.optimizer.eight_bit, config.sampling.seed) == ("on", 10)
    assert (config.sampling.compile, config.model.compile) == (True, False)


def test_a_flag_and_a_word_of_one_setting() -> None:
    assert flag_word("--seed", "trainer.seed", 3, ["trainer.seed=3", "sampling.seed=4"]) == "trainer.seed=3"
    with pytest.raises(UserError, match=r"^--seed 3, 'trainer\.seed=4': are one setting; give one of them"):
        flag_word("--seed", "trainer.seed", 3, ["trainer.seed=4"])
    for name in ("runs/a #1: b.ckpt", "[a]", "010", "é\U0001f642"):
        word = flag_word("--teacher", "model.start", Path(name), ["trainer.seed=4"])
        assert load_config(TrainConfig, [], [word]).model.start == name
    assert flag_word("--teacher", "model.start", Path("a.ckpt"), ["model.start=a.ckpt"])


def test_settings_without_effect_are_named() -> None:
    assert unused(TrainConfig()) == []
    words = ["optimizer.p2_k=2", "model.vllm_features=false", "model.mixer_dropout=0.5"]
    assert unused(load_config(TrainConfig, [], words)) == [
        "optimizer.p2_k, with optimizer.p2_gamma=0",
        "model.mixer_dropout, with model.vllm_features=false",
    ]
    assert (
        unused(load_config(TrainConfig, [], [*words, "optimizer.p2_gamma=1", "model.vllm_features=true"]))
        == []
    )


def test_sections_of_other_methods_are_named(caplog: pytest.LogCaptureFixture) -> None:
    sdedit = f"{CONFIGS / 'methods' / 'sdedit.yaml'}"
    read_config([sdedit], "sdedit", None)
    assert not caplog.text
    read_config([sdedit], "copy", None)
    assert "sdedit.yaml: sdedit: not used by --method copy" in caplog.text


def test_precision_is_chosen_by_the_machine_unless_it_is_said() -> None:
    assert choose_precision("auto", on_gpu=False) == "32-true"
    assert choose_precision("32-true", on_gpu=True) == "32-true"
    assert choose_precision("bf16-mixed", on_gpu=False) == "bf16-mixed"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trainer.precision=16", "trainer.precision: got '16', allowed: auto, 32-true, bf16-mixed"),
        ("optimizer.eight_bit=yes", "optimizer.eight_bit: got"),
        ("sampling.scales_txt=[]", r"sampling.scales_txt: got \[\], allowed: at least one number"),
        ("sampling.precision=16", "sampling.precision: got '16'"),
        ("sampling.scheduler=eular", "scheduler 'eular': allowed are euler_ancestral"),
        ("sampling.scheduler=FlowMatchEulerDiscreteScheduler", "does not know Stable Diffusion's noise"),
        ("model.ema_every=epoch", "model.ema_every: got 'epoch', allowed: step, batch"),
        ("data.check=none", "data.check: got 'none', allowed: full, headers"),
        ("model.mixer_dropout=1", "model.mixer_dropout"),
        ("trainer.keep_every_steps=1500", r"got 1500, allowed: multiples of trainer\.save_every_steps=1000"),
        ("trainer.keep_last=-1", "trainer.keep_last: got -1, allowed: 0 or more"),
        ("joint=[{dataset: ego5d}]", "'ego5d': allowed are ego4d, epickitchen"),
        ("joint=[{batch_size: 3}]", "batch_size"),
    ],
)
def test_wrong_values_are_named(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(TrainConfig, [CONFIGS / "train_ego4d.yaml"], [word])


def test_nobody_changes_settings() -> None:
    config = load_config(TrainConfig, [CONFIGS / "train_ego4d.yaml"])
    for section, name in ((config, "model"), (config.optimizer, "lr"), (config.model.shape.unet, "heads")):
        with pytest.raises(FrozenInstanceError):
            setattr(section, name, getattr(section, name))


def test_numbers_and_nothing_are_texts_where_a_text_is_meant() -> None:
    words = [
        "sampling.precision=32",
        "data.root=2024",
        "data.features=",
        "optimizer.lr=1",
        "joint=[{root: 7}]",
    ]
    config = load_config(TrainConfig, [], words)
    assert (config.sampling.precision, config.data.root, config.data.features) == ("32", "2024", "")
    assert (config.optimizer.lr, config.joint[0].root) == (1.0, "7")
    with pytest.raises(UserError, match=r"data\.workers: got True, allowed: a number"):
        load_config(TrainConfig, [], ["data.workers=true"])


def test_a_checkpoint_states_the_sizes_that_the_settings_leave_out(tmp_path: Path) -> None:
    wide = replace(SHAPE, unet=replace(SHAPE.unet, in_channels=4))
    write(tmp_path / "start.ckpt", published_state(build(wide, conditioner=False), wide), wide)
    source = open_source(tmp_path / "start.ckpt")
    assert with_sizes(ModelConfig(), source).shape == SHAPE
    other = ModelConfig(architecture=Architecture())
    assert with_sizes(other, source) == other
    # No tensor tells the number of heads.
    with pytest.raises(UserError, match=r"start\.ckpt: .* do not belong together; the file has .*heads=8"):
        load_parts(source, replace(SHAPE, unet=replace(SHAPE.unet, heads=4)))
    write(tmp_path / "odd.ckpt", {}, SHAPE)
    content = torch.load(tmp_path / "odd.ckpt", weights_only=True)
    content["architecture"]["unet"]["groups"] = 5
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(UserError, match=r"odd\.ckpt: model\.architecture\.unet\.channels: got 32"):
        open_source(tmp_path / "odd.ckpt").sizes()


TRAIN_PARTS = (["--base", "A.yaml", "a.x=1"], ["--train"], ["a.y=2"], ["--name", "n"], ["--resume", "~/r"])
SAMPLE_PARTS = (["--config", "A.yaml", "a.x=1"], ["--no-ema"], ["a.y=2"], ["--method", "copy"], ["--out=~/r"])


@pytest.mark.parametrize(
    ("kind", "parts"), [(TrainOptions, TRAIN_PARTS), (SampleOptions, SAMPLE_PARTS)], ids=["train", "sample"]
)
def test_flags_and_words_stand_in_any_order(
    kind: type, parts: tuple[list[str], ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for order in permutations(parts):
        options = cli.options(kind, list(chain(*order)), "p", None)
        given = options.base if kind is TrainOptions else options.config
        assert sorted([*given, *options.overrides]) == ["A.yaml", "a.x=1", "a.y=2"]
        assert (options.resume if kind is TrainOptions else options.out) == tmp_path / "r"

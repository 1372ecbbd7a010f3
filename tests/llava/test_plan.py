from pathlib import Path

import pytest
import yaml

from egogen.errors import UserError
from llava.train import main
from llava.tuning.arguments import read_arguments
from llava.tuning.plan import Counts, Plan, Shape
from tests.llava.conftest import Loaded
from tests.llava.training import REPO, flags

# The 13B model on 8 GPUs, as published.
BIG = Plan(
    counts=Counts(13_021_112_320, 303_179_776),
    shape=Shape(layers=40, width=5120, inner=13824, vocabulary=32000),
    records=85521,
    longest=600,
    updates=2004,
    batch=16,
    processes=8,
    accumulation=1,
    half=True,
    frozen_bytes=2.0,
    checkpointing=True,
    deepspeed={"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}},
)


def test_memory_of_states_by_zero_stage() -> None:
    trained, frozen = BIG.counts
    # 2 + 2 + 12 bytes a trained parameter (Rajbhandari et al. 2020, section 3.1), shared out stage by stage.
    assert BIG.states(0) == 16 * trained + 2 * frozen
    assert BIG.states(1) == (4 + 12 / 8) * trained + 2 * frozen
    assert BIG.states(2) == (2 + 14 / 8) * trained + 2 * frozen
    assert BIG.states(3) == 16 / 8 * trained + 2 / 8 * frozen
    assert BIG.states(3, offload=True) == 2 / 8 * trained
    full = Plan(**{**BIG.__dict__, "half": False, "frozen_bytes": 4.0})
    assert full.states(0) == 16 * trained + 4 * frozen


def test_the_plan_in_words() -> None:
    text = BIG.text()
    assert "13,021,112,320 parameters" in text
    assert "128 = 16 x 8 processes x 1 accumulated" in text
    assert [line for line in text.splitlines() if line.endswith("<- this run")] == [
        line for line in text.splitlines() if "ZeRO-3 with offload" in line
    ]
    kept_all = Plan(**{**BIG.__dict__, "checkpointing": False})
    assert kept_all.activations() > 5 * BIG.activations()


def test_a_dry_run_trains_nothing(
    data: Path,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    loaded: Loaded,
) -> None:
    out = tmp_path / "run"
    main(flags(data, tiny, out, "--num_train_epochs", "2", "--gradient_accumulation_steps", "3", "--dry_run"))
    shown = capsys.readouterr().out
    assert "183,168 parameters" in shown
    assert "45,152 parameters" in shown
    assert "6 = 2 x 1 processes x 3 accumulated" in shown
    assert "updates 2" in " ".join(shown.split())
    assert "no ZeRO" in shown.split("<- this run")[0].splitlines()[-1]
    assert not out.exists()
    main(flags(data, tiny, out, "--dry-run", "--lora_enable", "True", "--lora_r", "2"))
    trained = int(capsys.readouterr().out.split()[1].replace(",", ""))
    # Adapters of rank 2 on 7 matrices of each of 2 layers, and the projector.
    language = loaded[0].model.language_model
    wanted = sum(
        2 * sum(layer.shape) for name, layer in language.named_parameters() if name.endswith("_proj.weight")
    ) + sum(value.numel() for value in loaded[0].model.multi_modal_projector.parameters())
    assert trained == wanted


def test_a_run_for_gpus_is_planned_without_any(
    data: Path,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(REPO)
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    words = [
        *("configs/finetune.yaml", "--model_name_or_path", str(tiny), "--image_folder", str(data)),
        *("--data_path", str(data / "records.json"), "--output_dir", str(tmp_path / "run"), "--dry_run"),
    ]
    main(words)
    shown = capsys.readouterr().out
    assert "128 = 16 x 8 processes x 1 accumulated" in shown
    marked = next(line for line in shown.splitlines() if line.endswith("<- this run"))
    assert "ZeRO-3 with offload" in marked
    made = read_arguments(words, None)
    assert (made.training.bf16, made.training.tf32, made.training.deepspeed) == (
        True, True, "configs/deepspeed/zero3_offload.json",
    )  # fmt: skip
    monkeypatch.setenv("RANK", "3")
    main(words)
    assert not capsys.readouterr().out
    with pytest.raises(UserError, match="unknown flags: --nonsense"):
        read_arguments([*words, "--nonsense", "1"], None)


@pytest.mark.parametrize("path", sorted(REPO.glob("configs/finetune*.yaml")), ids=lambda path: path.stem)
def test_presets_are_read(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)
    raw = yaml.safe_load(path.read_text())
    names = ("--model_name_or_path", "m", "--data_path", "d", "--image_folder", "i")
    plain = ("--use_cpu", "True", "--bf16", "False", "--tf32", "False")
    made = read_arguments([str(path), *names, "--output_dir", str(tmp_path), *plain], None)
    batch = made.training.per_device_train_batch_size * made.training.gradient_accumulation_steps
    assert batch * (1 if made.lora.lora_enable else 8) == 128
    assert made.lora.bits == raw.get("bits", 16)
    assert made.training.learning_rate == (2e-4 if made.lora.lora_enable else 2e-5)
    assert made.training.get_warmup_steps(1000) == 30

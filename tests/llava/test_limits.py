"""Fine-tuning's numbers, processes, and what may change when it goes on."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed import distributed_c10d
from transformers import TrainingArguments

from egogen.errors import UserError
from llava.checkpoints.adapters import LoraArguments
from llava.tuning import run_settings
from llava.tuning.arguments import Arguments, read_arguments
from llava.tuning.finetuner import Finetune
from llava.tuning.limits import REFUSED, check_processes
from llava.tuning.run_settings import CLAIMED_IF_GIVEN, FREE, SETTINGS, checked_settings, note_start
from llava.tuning.train_flags import (
    DataArguments,
    FixedArguments,
    ModelArguments,
    ScheduleArguments,
    check_ours,
    trainer_types,
)

PATHS = ("--model_name_or_path", "m", "--data_path", "d", "--image_folder", "i", "--use_cpu", "True")
GATHER = "stage3_gather_16bit_weights_on_model_save"
NUMBERS = [
    each.name for kind in (TrainingArguments, DataArguments, ScheduleArguments, LoraArguments)
    for each in fields(kind)  # type: ignore[arg-type]
    if any(word in str(each.type) for word in ("int", "float")) and each.name != "local_rank"
]  # fmt: skip
VALUES = ("nan", "inf", "-inf", "-1", "0", "1e30", "9" * 400, "9" * 5000, "1.5", "x", "-0.5")


def read(tmp_path: Path, *more: str) -> Arguments:
    return read_arguments([*PATHS, "--output_dir", str(tmp_path), *more], None)


@pytest.mark.parametrize(
    ("zero", "good"),
    [
        ({"stage": 3}, False),
        ({"stage": 3, GATHER: False}, False),
        ({"stage": 3, GATHER: True}, True),
        ({"stage": 3, "stage3_gather_fp16_weights_on_model_save": True}, True),
        ({"stage": 2}, True),
    ],
)
def test_zero_3_that_would_leave_the_weights_in_shards(
    tmp_path: Path, zero: dict[str, object], good: bool
) -> None:
    """Transformers warns of it when all is trained, and saves no model."""
    path = tmp_path / "zero.json"
    path.write_text(json.dumps({"zero_optimization": zero}))
    told = rf"zero\.json: ZeRO-3 without {GATHER} would leave .*; set it to true"
    with nullcontext() if good else pytest.raises(UserError, match=told):
        read(tmp_path, "--dry_run", "True", "--deepspeed", f"{path}")


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_ends_in_a_traceback(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused = 0
    for value in VALUES:
        try:
            read(tmp_path, f"--{name}={value}")
        except UserError as error:
            refused += 1
            assert len(f"{error}".splitlines()) < 3  # noqa: PT017
        except SystemExit as ended:  # argparse's own line
            refused += 1
            assert ended.code == 2  # noqa: PT017
    capsys.readouterr()
    assert refused >= 5, name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--learning_rate", "nan"), "--learning_rate: got nan, allowed: above 0, up to 1"),
        (("--adam_beta2", "1"), "--adam_beta2: got 1.0, allowed: 0 to less than 1"),
        (("--weight_decay", "-1"), "--weight_decay: got -1.0, allowed: 0 or more"),
        (("--seed", "-1"), "--seed: got -1, allowed: 0 to 4,294,967,295"),
        (("--max_steps", "0"), "--max_steps: got 0, allowed: at least 1, or -1 for no limit"),
        (("--resume_from_checkpoint", "x"), "--resume_from_checkpoint: got 'x', allowed: no such flag"),
        (("--eval_strategy", "steps", "--eval_steps", "3"), "--eval_strategy"),
        (("--save_only_model", "True"), "--save_only_model: got True"),
    ],
)
def test_what_is_allowed_is_said(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, *words)


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    args = read(tmp_path, "--data_path", "~/d.json", "--image_folder=~/i", "--vision_tower", "~/clip")
    assert (args.data.data_path, args.data.image_folder) == (tmp_path / "d.json", tmp_path / "i")
    assert args.model.vision_tower == tmp_path / "clip"


def test_tasks_of_srun_and_several_gpus_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = read(tmp_path).training
    for name, value in (("SLURM_PROCID", "1"), ("SLURM_LOCALID", "1"), ("SLURM_STEP_NUM_TASKS", "8")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="srun has started 8 processes, each of which would train alone"):
        check_processes(training)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    monkeypatch.setenv("SLURM_PROCID", "0")
    check_processes(training)
    monkeypatch.setattr(TrainingArguments, "n_gpu", 4)
    with pytest.raises(UserError, match="one process sees 4 GPUs and would take 4 times the batch"):
        check_processes(training)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learning_rate", "-1"], "--learning_rate: got -1.0, allowed: above 0, up to 1"),
        (["--save_steps=nan"], "--save_steps: got nan, allowed: above 0"),
        (["--lora_r", "4"], "--lora_r: not used without --lora_enable True"),
        (
            ["--warmup_ratio", "0.1", "--warmup-steps", "5"],
            r"both say how .* give one of them \(--warmup_ratio 0",
        ),
    ],
)
def test_mistakes_are_told_before_torch_is_imported(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_ours([*PATHS, "--output_dir", "o", *words], None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learning_rte", "1"], "unrecognized arguments: --learning_rte; did you mean --learning_rate?"),
        (["--num-train-epochs", "x"], "argument --num-train-epochs: invalid float value: 'x'"),
        (["--max_steps=1.5"], "argument --max_steps: invalid int value: '1.5'"),
        (["--max_steps=", "--bf16"], "argument --max_steps: invalid int value: ''"),
    ],
)
def test_flags_of_transformers_are_known_before_it_is_imported(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        check_ours([*PATHS, "--output_dir", "o", *words], None)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_the_flags_that_are_read_from_its_source_are_all() -> None:
    assert {each.name for each in fields(TrainingArguments) if each.init} - trainer_types().keys() == set()


def test_every_setting_has_a_decision() -> None:
    """A new one of transformers or ours fails here until somebody decides on it."""
    claimed = {"deepspeed", "model_name_or_path", "vision_tower", "data_path", "model_max_length"}
    claimed |= {"on_bad_record", "warmup_ratio", *(each.name for each in fields(LoraArguments))}
    kinds = (TrainingArguments, ModelArguments, DataArguments, ScheduleArguments, LoraArguments)
    every = {each.name for kind in kinds for each in fields(kind)}  # type: ignore[arg-type]
    decided = [*claimed, *SETTINGS, *CLAIMED_IF_GIVEN, *FREE, *REFUSED]
    assert len(decided) == len(set(decided))
    assert set(decided) == every | {"world_size"}  # of the fixed ones there is one value
    assert not every & {each.name for each in fields(FixedArguments)} - {"evaluation_strategy"}


@pytest.mark.parametrize(
    "change",
    [
        ("--learning_rate", "1e-3"), ("--weight_decay", "0.5"), ("--seed", "3"), ("--warmup_steps", "7"),
        ("--lr_scheduler_type", "cosine"), ("--per_device_train_batch_size", "3"), ("--data_seed", "5"),
        ("--label_smoothing_factor", "0.1"), ("--neftune_noise_alpha", "3"), ("--adam_beta1", "0.5"),
        ("--lora_enable", "True"), ("--model_max_length", "99"), ("--dataloader_drop_last", "True"),
        ("--average_tokens_across_devices", "True"), ("--lr_scheduler_kwargs", '{"a": 1}'),
    ],
)  # fmt: skip
def test_what_is_learnt_may_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str]
) -> None:
    monkeypatch.setattr(run_settings, "checkpoint_hash", lambda _: "m")
    monkeypatch.setattr(run_settings, "file_hash", lambda _: "d")
    first = read(tmp_path)
    begun = checked_settings(first)
    assert not set(CLAIMED_IF_GIVEN) & set(begun)
    note_start(first, begun)
    assert checked_settings(read(tmp_path, "--logging_steps", "3", "--save_steps", "9")) == begun
    with pytest.raises(UserError, match="the folder was made with"):
        checked_settings(read(tmp_path, *change))


@pytest.mark.parametrize(
    ("optim", "deepspeed", "states"),
    [("adamw_torch_fused", None, 8), ("adamw_bnb_8bit", None, 0), ("adamw_torch", "zero.json", 12)],
)
def test_a_checkpoint_s_least_size_is_that_of_its_optimiser(
    optim: str, deepspeed: str | None, states: int
) -> None:
    model = torch.nn.Linear(10, 1, bias=False, dtype=torch.bfloat16)
    trainer: Any = SimpleNamespace(model=model, args=SimpleNamespace(optim=optim, deepspeed=deepspeed))
    assert Finetune.saved_bytes(trainer) == (10 * 2, 10 * states)


def test_the_time_that_processes_wait_is_that_of_all_their_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed makes groups of its own without naming a time."""
    for name in ("default_pg_timeout", "default_pg_nccl_timeout"):
        monkeypatch.setattr(distributed_c10d, name, timedelta(minutes=3))
    read(tmp_path, "--ddp_timeout", "77")
    assert distributed_c10d._get_default_timeout("gloo") == timedelta(seconds=77)
    assert distributed_c10d._get_default_timeout("nccl") == timedelta(seconds=77)

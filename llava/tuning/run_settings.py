"""What a fine-tuning run was told: claimed for its output folder, noted at each start."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from transformers import TrainingArguments

from egogen.files import read_json, write_json
from egogen.manifest import checkpoint_hash, claim, file_hash
from egogen.record import run_record
from llava.tuning.arguments import Arguments

RUN = "run.json"
RECORD = "record.json"
PACKAGES = ("torch", "transformers", "deepspeed", "accelerate", "peft", "tokenizers")
# What may not change between the two halves of an interrupted run.
SETTINGS = (
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "bf16",
    "fp16",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "max_grad_norm",
    "max_steps",
    "num_train_epochs",
    "optim",
    "per_device_train_batch_size",
    "seed",
    "warmup_steps",
    "weight_decay",
    "world_size",
)


def claim_output(args: Arguments) -> dict[str, object]:
    """Claims the output folder for the settings of this run, and returns them.

    Raises:
        UserError: the folder was begun with others.
    """
    values = {name: getattr(args.training, name) for name in SETTINGS}
    plain = {key: value if isinstance(value, int | float) else str(value) for key, value in values.items()}
    settings: dict[str, object] = {
        "model": checkpoint_hash(args.model.model_name_or_path),
        "data": file_hash(args.data.data_path),
        "model_max_length": args.data.model_max_length,
        "lora": asdict(args.lora) if args.lora.lora_enable else None,
        "on_bad_record": args.data.on_bad_record,
        "vision_tower": str(args.model.vision_tower) if args.model.vision_tower else None,
        "deepspeed": deepspeed_settings(args.training),
        **plain,
    }
    claim(args.output, settings, RUN)
    return settings


def note_start(args: Arguments, settings: Mapping[str, object]) -> None:
    """Adds a record of this start: versions and code may differ from those of the first half."""
    path = args.output / RECORD
    configuration = {
        "training": args.training.to_sanitized_dict(),
        "deepspeed": deepspeed_settings(args.training),
    }
    record = {**run_record(PACKAGES), "settings": settings, "configuration": configuration}
    write_json(path, [*(read_json(path) if path.exists() else []), record])


def deepspeed_settings(training: TrainingArguments) -> dict[str, object] | None:
    """What the DeepSpeed file says, if one is used."""
    chosen = training.deepspeed
    if not chosen:
        return None
    return dict(chosen) if isinstance(chosen, dict) else json.loads(Path(chosen).read_text(encoding="utf-8"))

"""What a fine-tuning run was told: claimed for its output folder, noted at each start."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from egogen.annotations import check_object
from egogen.errors import UserError
from egogen.files import read_json, write_json
from egogen.manifest import begun, checkpoint_hash, claim, file_hash
from egogen.record import run_record
from llava.tuning.arguments import Arguments
from llava.tuning.limits import deepspeed_settings

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
# The same, where they are not as transformers and this command have them by default.
CLAIMED_IF_GIVEN = (
    *("accelerator_config", "average_tokens_across_devices", "data_seed", "dataloader_drop_last"),
    *("dataloader_in_order", "fsdp", "fsdp_config", "full_determinism", "ignore_data_skip"),
    *("label_smoothing_factor", "lr_scheduler_kwargs", "neftune_noise_alpha", "optim_args"),
    *("optim_target_modules", "parallelism_config", "train_sampling_strategy"),
)
BY_DEFAULT = {"average_tokens_across_devices": False, "accelerator_config": AcceleratorConfig()}
# What may change: where results go and how often, what is told, how fast it is. docs/stage1.md has the table.
FREE = [
    "output_dir", "image_folder", "dry_run", "activation_checkpointing", "activation_checkpointing_kwargs",
    "gradient_checkpointing", "gradient_checkpointing_kwargs", "torch_compile", "torch_compile_backend",
    "torch_compile_mode", "use_liger_kernel", "liger_kernel_config", "use_cache", "torch_empty_cache_steps",
    "tf32", "use_cpu", "enable_jit_checkpoint", "local_rank", "debug", "skip_memory_metrics",
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers",
    "dataloader_prefetch_factor", "dataloader_multiprocessing_context", "ddp_find_unused_parameters",
    "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph", "ddp_backend", "ddp_timeout",
    "logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node", "logging_nan_inf_filter",
    "log_level", "log_level_replica", "include_num_input_tokens_seen", "disable_tqdm", "report_to",
    "run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id",
    "save_strategy", "save_steps", "save_on_each_node", "save_total_limit", "push_to_hub", "hub_token",
    "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push", "hub_revision", "eval_steps",
    "eval_delay", "per_device_eval_batch_size", "prediction_loss_only", "eval_on_start",
    "eval_do_concat_batches", "eval_use_gather_object", "eval_accumulation_steps", "include_for_metrics",
    "batch_eval_metrics", "bf16_full_eval", "fp16_full_eval", "metric_for_best_model", "greater_is_better",
    "restore_callback_states_from_checkpoint", "label_names", "length_column_name", "do_train",
]  # fmt: skip
MOST_FITTING = 1024  # processes that a message offers; the file may hold any number


def checked_settings(args: Arguments) -> dict[str, object]:
    """The settings of this run, which are those that its output folder was begun with, if it was.

    Raises:
        UserError: the folder was begun with others; another number of processes is none, if an update takes
            as many batches as before.
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
    settings |= given(args.training)
    if (args.output / RUN).exists():
        settings |= spread_as_before(args.output / RUN, args)
    begun(args.output, settings, RUN)
    return settings


def spread_as_before(run: Path, args: Arguments) -> dict[str, int]:
    """How a run shared out its batches when it began; it goes on being claimed, as it decides nothing learnt.

    Raises:
        UserError: an update would take another number of batches.
    """
    first: Any = check_object(read_json(run), f"{run}", "settings by name")
    before = {name: first.get(name) for name in ("world_size", "gradient_accumulation_steps")}
    now = {name: getattr(args.training, name) for name in before}
    if before == now or not all(isinstance(value, int) for value in before.values()):
        return {}
    wanted, processes = math.prod(before.values()), now["world_size"]
    if wanted != math.prod(now.values()):
        fitting = [f"{count}" for count in range(1, min(wanted, MOST_FITTING) + 1) if wanted % count == 0]
        advice = (
            f"add --gradient_accumulation_steps {wanted // processes}"
            if wanted % processes == 0
            else f"start one of {', '.join(fitting)} processes, with as much accumulation as makes up for it"
        )
        raise UserError(
            f"{run}: an update of this run takes {wanted} batches (processes x accumulation: "
            f"{' x '.join(map(str, before.values()))}), this start would take {math.prod(now.values())} "
            f"({' x '.join(map(str, now.values()))}); {advice}"
        )
    return before


def given(training: TrainingArguments) -> dict[str, object]:
    """Those of `CLAIMED_IF_GIVEN` that are not as they are by default."""
    defaults = {each.name: each.default for each in fields(TrainingArguments)} | BY_DEFAULT
    found = {name: getattr(training, name) for name in CLAIMED_IF_GIVEN}
    return {name: f"{value}" for name, value in found.items() if value not in (None, defaults[name], {}, [])}


def note_start(args: Arguments, settings: Mapping[str, object]) -> None:
    """Claims the output folder; adds a record of this start, whose versions and code may be others."""
    claim(args.output, settings, RUN)
    path = args.output / RECORD
    configuration = {
        "training": args.training.to_sanitized_dict(),
        "deepspeed": deepspeed_settings(args.training),
    }
    record = {**run_record(PACKAGES), "settings": settings, "configuration": configuration}
    write_json(path, [*(read_json(path) if path.exists() else []), record])

"""What a fine-tuning run's numbers may be, and that its processes are those that a launcher started."""

from __future__ import annotations

import math
from dataclasses import fields

from transformers import TrainingArguments

from egogen.errors import UserError, check
from egogen.seeds import MOST_SEED
from egogen.shards import launched

LARGEST = 10**12  # of any number
NOT_NEGATIVE = (0, LARGEST, "0 or more")
AT_LEAST_1 = (1, 10**9, "at least 1")
ABOVE_0 = (math.ulp(0.0), LARGEST, "above 0")
BELOW_1 = (0, math.nextafter(1.0, 0.0), "0 to less than 1")
SEED = (0, MOST_SEED, f"0 to {MOST_SEED:,}")
RANGES = {
    "learning_rate": (math.ulp(0.0), 1, "above 0, up to 1"),
    "weight_decay": NOT_NEGATIVE,
    "adam_beta1": BELOW_1,
    "adam_beta2": BELOW_1,
    "adam_epsilon": ABOVE_0,
    "max_grad_norm": NOT_NEGATIVE,
    "label_smoothing_factor": BELOW_1,
    "num_train_epochs": ABOVE_0,
    "warmup_steps": NOT_NEGATIVE,
    "per_device_train_batch_size": AT_LEAST_1,
    "per_device_eval_batch_size": AT_LEAST_1,
    "gradient_accumulation_steps": AT_LEAST_1,
    "logging_steps": ABOVE_0,
    "save_steps": ABOVE_0,
    "save_total_limit": AT_LEAST_1,
    "seed": SEED,
    "data_seed": SEED,
    "dataloader_num_workers": (0, 4096, "0 to 4096"),
    "ddp_timeout": AT_LEAST_1,
}
# What would be taken and then not done, or would make a run that cannot go on as it was.
REFUSED = {
    "resume_from_checkpoint": (None, "no such flag: a run goes on from its own newest checkpoint"),
    "eval_strategy": ("no", "no: there is no validation set"),
    "do_eval": (False, "False: there is no validation set"),
    "do_predict": (False, "False: there is no test set"),
    "load_best_model_at_end": (False, "False: there is no validation set"),
    "remove_unused_columns": (False, "False: the columns are the model's own"),
    "save_only_model": (False, "False: a run goes on with its optimiser's state alone"),
    "auto_find_batch_size": (False, "False: the effective batch is as the settings say"),
}


def check_training(training: TrainingArguments) -> None:
    """Checks every number of transformers' training arguments.

    Raises:
        UserError: one is not finite, out of range, or asks for what there is not; names the first.
    """
    for each in fields(training):
        value = getattr(training, each.name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            low, high, allowed = RANGES.get(each.name, (-LARGEST, LARGEST, "a finite number of usual size"))
            check(f"--{each.name}", value, allowed, low <= value <= high)
        if each.name in REFUSED:
            only, allowed = REFUSED[each.name]
            check(f"--{each.name}", value, allowed, value == only)
    steps = training.max_steps
    check("--max_steps", steps, "at least 1, or -1 for no limit", steps == -1 or steps >= 1)


def check_processes(training: TrainingArguments) -> None:
    """Sees to it that the effective batch is what the settings say.

    Raises:
        UserError: a launcher has started processes of which torch knows nothing, or one process would spread
            its batch over several GPUs.
    """
    launcher, me = launched()
    if launcher and me.world_size != training.world_size:
        raise UserError(
            f"{launcher} has started {me.world_size} processes, each of which would train alone; start one "
            "on each machine, and the processes by torchrun --nproc_per_node N -m llava.train"
        )
    if training.n_gpu > 1:
        raise UserError(
            f"one process sees {training.n_gpu} GPUs and would take {training.n_gpu} times the batch; start "
            f"by torchrun --nproc_per_node {training.n_gpu} -m llava.train, or show it one by "
            "CUDA_VISIBLE_DEVICES=0"
        )

"""What a fine-tuning run's numbers may be, and that its processes are those that a launcher started."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from transformers import TrainingArguments

from egogen.annotations import JsonObject, check_object
from egogen.errors import UserError, check
from egogen.files import read_json
from egogen.shards import launched
from llava.tuning.number_ranges import check_number

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

GATHERING = ("stage3_gather_16bit_weights_on_model_save", "stage3_gather_fp16_weights_on_model_save")


def check_training(training: TrainingArguments) -> None:
    """Checks every number of transformers' training arguments.

    Raises:
        UserError: one is not finite, out of range, or asks for what there is not; names the first.
    """
    for each in fields(training):
        value = getattr(training, each.name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            check_number(each.name, value)
        if each.name in REFUSED:
            only, allowed = REFUSED[each.name]
            check(f"--{each.name}", value, allowed, value == only)
    steps = training.max_steps
    check("--max_steps", steps, "at least 1, or -1 for no limit", steps == -1 or steps >= 1)


def deepspeed_settings(training: TrainingArguments) -> JsonObject | None:
    """What the DeepSpeed file says, if one is used.

    Raises:
        UserError: it cannot be read.
    """
    chosen = training.deepspeed
    if not chosen:
        return None
    found = chosen if isinstance(chosen, dict) else read_json(Path(chosen))
    return check_object(found, "--deepspeed" if found is chosen else f"{chosen}", "settings by name")


def check_gathering(training: TrainingArguments) -> None:
    """Sees to it that DeepSpeed's ZeRO-3 writes weights that others can load.

    Raises:
        UserError: they would stay in shards, of which transformers warns when training is over.
    """
    settings = deepspeed_settings(training) or {}
    zero = check_object(settings.get("zero_optimization", {}), f"{training.deepspeed}", "settings by name")
    if zero.get("stage") == 3 and not any(zero.get(name) for name in GATHERING):
        raise UserError(
            f"--deepspeed {training.deepspeed}: ZeRO-3 without {GATHERING[0]} would leave the weights in "
            "shards, which nothing here loads; set it to true"
        )


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

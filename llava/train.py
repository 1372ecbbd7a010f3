"""Fine-tunes the VLLM on curated conversations: load, freeze vision, encode, train, save.

    torchrun --nproc_per_node 8 -m llava.train --model_name_or_path DIR --data_path FILE --image_folder DIR \
        --output_dir DIR --deepspeed configs/deepspeed/zero3_offload.json ...

Run again, it goes on from the newest complete checkpoint; a finished run is left as it is.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from egogen import cli
from egogen.conversations import read_conversations
from egogen.disk import writing
from egogen.files import read_json, write_json
from egogen.locks import hold
from egogen.manifest import checkpoint_hash, claim, file_hash
from egogen.record import run_record
from egogen.shards import take_shard
from llava.arguments import Arguments, read_arguments
from llava.conversations import Collate, ConversationDataset, Example, encode_all
from llava.images import check_images
from llava.lora import add_adapters, four_bits
from llava.model import choose_attention, count_parameters, empty, freeze_vision, load, read_checkpoint
from llava.plan import Counts, Plan, Shape
from llava.settings import patches_across, text_settings, vision_settings
from llava.tokenizer import load_tokenizer, save_tokenizer

log = logging.getLogger(__name__)

COMPLETE = "complete.json"  # written into a checkpoint, and into the output folder, when all else is there
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


class Finetune(Trainer):
    """Transformers' Trainer; every folder it saves can be loaded by `llava.model.load`."""

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - handed on to Trainer
        tokenizer: PreTrainedTokenizerBase,
        image_processor: CLIPImageProcessorPil,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*args, **kwargs)
        self.tokenizer = tokenizer
        self.image_processor = image_processor

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(str(output_dir or self.args.output_dir))
            save_tokenizer(self.tokenizer, folder)
            self.image_processor.save_pretrained(folder)


class MarkComplete(TrainerCallback):
    """Marks a checkpoint when all processes have written their part; others are not resumed from."""

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 - of no use here
    ) -> None:
        """Called after a checkpoint was written."""
        del control, kwargs
        wait_for_all()
        if state.is_world_process_zero:
            write_json(
                Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / COMPLETE,
                {"step": state.global_step},
            )


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run; unfinished ones are named and passed over."""
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.partition("-")[2].isdecimal()]
    found = sorted(numbered, key=lambda path: int(path.name.partition("-")[2]), reverse=True)
    for path in found:
        if (path / COMPLETE).exists():
            return path
        log.warning("%s: not complete, passed over", path)
    return None


class FirstRate(TrainerCallback):
    """Takes the whole rate in the first update where DeepSpeed's file names a schedule (published; F-S1-03).

    DeepSpeed's schedules began after the first update when LEGO was trained; today's begin before it.
    """

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401 - holds the optimiser
    ) -> None:
        """Called once the schedule has set its first rate."""
        del control
        if state.global_step == 0 and "scheduler" in (deepspeed_settings(args) or {}):
            for group in kwargs["optimizer"].param_groups:
                group["lr"] = args.learning_rate


def deepspeed_settings(training: TrainingArguments) -> dict[str, Any] | None:
    """What the DeepSpeed file says, if one is used."""
    chosen = training.deepspeed
    if not chosen:
        return None
    settings = chosen if isinstance(chosen, dict) else json.loads(Path(chosen).read_text(encoding="utf-8"))
    return dict(settings)


def wait_for_all() -> None:
    """Waits until every process is here."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def read_examples(args: Arguments, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """Encodes the conversations and looks at their images, each process at its share.

    Raises:
        UserError: a record or an image is bad; names it.
    """
    data = args.data
    records = read_conversations(data.data_path)
    skip_bad = data.on_bad_record == "skip"
    examples = encode_all(records, tokenizer, data.model_max_length, data.data_path, skip_bad=skip_bad)
    mine = take_shard(examples, args.training.process_index + 1, args.training.world_size)
    check_images(data.image_folder / example.image for example in mine if example.image)
    return examples


def settings_of(args: Arguments) -> dict[str, Any]:
    """What made the output folder."""
    values = {name: getattr(args.training, name) for name in SETTINGS}
    plain = {key: value if isinstance(value, int | float) else str(value) for key, value in values.items()}
    return {
        "model": checkpoint_hash(args.model.model_name_or_path),
        "data": file_hash(args.data.data_path),
        "model_max_length": args.data.model_max_length,
        "lora": asdict(args.lora) if args.lora.lora_enable else None,
        "on_bad_record": args.data.on_bad_record,
        "vision_tower": str(args.model.vision_tower) if args.model.vision_tower else None,
        "deepspeed": deepspeed_settings(args.training),
        **plain,
    }


def weight_type(args: Arguments) -> torch.dtype:
    """The type that weights are loaded in.

    In 16 bits where DeepSpeed keeps a master copy of 32, or where they are frozen; elsewhere steps of 16-bit
    weights would be rounded away, and autocast computes in 16 bits from 32.
    """
    has_master = bool(args.training.deepspeed) or args.lora.lora_enable
    return torch.bfloat16 if args.training.bf16 and has_master else torch.float32


def plan(args: Arguments, examples: Sequence[Example]) -> Plan:
    """What the run is going to do; the model is built without its weights."""
    training, start = args.training, args.model.model_name_or_path
    config = read_checkpoint(start, args.model.vision_tower).config
    model = empty(config)
    freeze_vision(model)
    if args.lora.lora_enable:
        counts = count_parameters(add_adapters(model, args.lora, start))
    else:
        counts = count_parameters(model)
    text, patches = text_settings(config), patches_across(vision_settings(config)) ** 2
    accumulation = training.gradient_accumulation_steps
    batches = math.ceil(len(examples) / training.world_size / training.per_device_train_batch_size)
    an_epoch = max(1, math.ceil(batches / accumulation))
    half = bool(training.bf16 or training.fp16)
    frozen_bytes = {4: 0.55, 16: 2.0 if half else 4.0}[args.lora.bits]  # NF4 with its constants
    return Plan(
        counts=Counts(*counts),
        shape=Shape(
            int(text.num_hidden_layers),
            int(text.hidden_size),
            int(text.intermediate_size),
            int(text.vocab_size),
        ),
        records=len(examples),
        longest=max(len(example.ids) + (patches - 1) * bool(example.image) for example in examples),
        updates=training.max_steps
        if training.max_steps > 0
        else math.ceil(training.num_train_epochs * an_epoch),
        batch=training.per_device_train_batch_size,
        processes=training.world_size,
        accumulation=accumulation,
        half=half,
        frozen_bytes=frozen_bytes,
        checkpointing=bool(training.gradient_checkpointing),
        deepspeed=deepspeed_settings(training),
    )


def finetune(args: Arguments) -> None:
    """Trains and saves.

    Raises:
        UserError: the model, a record, an image or the output folder is not as it must be.
    """
    training, start = args.training, args.model.model_name_or_path
    output = Path(str(training.output_dir))
    # Cheap before dear: texts and images are looked at before the model is loaded.
    examples = read_examples(args, load_tokenizer(start))
    if args.data.dry_run:
        if training.process_index == 0:
            print(plan(args, examples).text())  # noqa: T201 - what was asked for
        return
    if training.process_index == 0:
        settings = settings_of(args)
        claim(output, settings, RUN)
    if (output / COMPLETE).exists():
        log.info("%s: finished before, left as it is", output)
        return
    if training.process_index == 0:
        # Each start adds its record: versions and code may differ from those of the first half.
        configuration = {
            "training": training.to_sanitized_dict(),
            "deepspeed": deepspeed_settings(training),
        }
        append_record(
            output / RECORD, {**run_record(PACKAGES), "settings": settings, "configuration": configuration}
        )
    if training.deepspeed:
        import deepspeed

        deepspeed.init_distributed()  # ZeRO-3 shares weights out while they are loaded
    model, tokenizer, processor = load(
        start,
        vision_tower=args.model.vision_tower,
        dtype=weight_type(args),
        quantization=four_bits() if args.lora.bits == 4 else None,
        # The trainer moves the model later; the attention must be that of where it goes.
        attention=choose_attention(training.device, torch.bfloat16 if training.bf16 else torch.float32),
    )
    freeze_vision(model)
    patches = model.patches
    set_seed(training.seed)  # adapters begin at random
    learner = add_adapters(model, args.lora, start) if args.lora.lora_enable else model
    trained, frozen = count_parameters(learner)
    log.info(
        "trained: %s parameters (projector, %s); frozen: %s",
        f"{trained:,}",
        "adapters" if args.lora.lora_enable else "language model",
        f"{frozen:,}",
    )
    trainer = Finetune(
        model=learner,
        args=training,
        train_dataset=ConversationDataset(examples, args.data.image_folder, processor),
        data_collator=Collate(patches),
        callbacks=[MarkComplete(), FirstRate()],
        tokenizer=tokenizer,
        image_processor=processor,
    )
    checkpoint = newest_checkpoint(output)
    if checkpoint is not None:
        log.info("goes on from %s", checkpoint)
    result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model(str(output))
    trainer.save_state()
    wait_for_all()
    if training.process_index == 0:
        write_json(output / COMPLETE, {"step": result.global_step, "loss": result.training_loss})
        log.info("%s: %d updates, mean loss %.4f", output, result.global_step, result.training_loss)


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Adds a record to a JSON list."""
    write_json(path, [*(read_json(path) if path.exists() else []), record])


def skip_compiling() -> None:
    """Keeps DeepSpeed on a CPU from compiling a reduction that serves inference only."""
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def main(argv: Sequence[str] | None = None) -> None:
    """Fine-tunes by the command line's settings."""
    skip_compiling()
    args = read_arguments(argv, __doc__)
    if args.training.process_index:
        logging.getLogger().setLevel(logging.WARNING)
    first = args.training.process_index == 0 and not args.data.dry_run
    output = Path(str(args.training.output_dir))
    try:
        with hold(output, "fine-tuning") if first else nullcontext(), writing(output):
            finetune(args)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    cli.run(main)

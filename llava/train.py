"""Fine-tunes the VLLM on curated conversations: load, freeze vision, encode, train, save.

    torchrun --nproc_per_node 8 -m llava.train --model_name_or_path DIR --data_path FILE --image_folder DIR \
        --output_dir DIR --deepspeed configs/deepspeed/zero3_offload.json ...

Run again, it goes on from the newest complete checkpoint; a finished run is left as it is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
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
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from egogen import cli
from egogen.conversations import read_conversations
from egogen.files import write_json
from egogen.manifest import checkpoint_hash, claim, file_hash
from egogen.shards import take_shard
from llava.arguments import Arguments, read_arguments
from llava.conversations import Collate, ConversationDataset, Example, encode_all
from llava.images import check_images
from llava.model import freeze_vision, load
from llava.tokenizer import load_tokenizer, save_tokenizer

log = logging.getLogger(__name__)

COMPLETE = "complete.json"  # written into a checkpoint, and into the output folder, when all else is there
RUN = "run.json"
# What may not change between the two halves of an interrupted run.
SETTINGS = (
    "bf16",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "max_steps",
    "num_train_epochs",
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
    found = sorted(
        folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True
    )
    for path in found:
        if (path / COMPLETE).exists():
            return path
        log.warning("%s: not complete, passed over", path)
    return None


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
        **plain,
    }


def finetune(args: Arguments) -> None:
    """Trains and saves.

    Raises:
        UserError: the model, a record, an image or the output folder is not as it must be.
    """
    training, start = args.training, args.model.model_name_or_path
    output = Path(str(training.output_dir))
    # Cheap before dear: texts and images are looked at before the model is loaded.
    examples = read_examples(args, load_tokenizer(start))
    if training.process_index == 0:
        claim(output, settings_of(args), RUN)
    if (output / COMPLETE).exists():
        log.info("%s: finished before, left as it is", output)
        return
    model, tokenizer, processor = load(
        start,
        vision_tower=args.model.vision_tower,
        dtype=torch.bfloat16 if training.bf16 else torch.float32,
    )
    trained, frozen = freeze_vision(model)
    log.info(
        "trained: %s parameters (projector, language model); frozen: %s (vision)",
        f"{trained:,}",
        f"{frozen:,}",
    )
    trainer = Finetune(
        model=model,
        args=training,
        train_dataset=ConversationDataset(examples, args.data.image_folder, processor),
        data_collator=Collate(model.patches),
        callbacks=[MarkComplete()],
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
    try:
        finetune(args)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    cli.run(main)

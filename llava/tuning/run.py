"""A fine-tuning run: load, freeze vision, encode, train, save. `llava.train` is its door."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, TrainingArguments, set_seed
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from egogen.conversations import read_conversations
from egogen.disk import writing
from egogen.errors import UserError
from egogen.files import write_json
from egogen.frames import FrameStore, check_frames, open_frames
from egogen.locks import hold
from egogen.peers import together
from egogen.shards import take_shard
from llava.checkpoints.adapter_folder import is_adapter, whole_of
from llava.checkpoints.adapters import add_adapters, four_bits
from llava.checkpoints.config_json import places
from llava.checkpoints.resharding import clear, other_writers, reshard
from llava.checkpoints.resume import COMPLETE, agreed, newest_checkpoint, step_of
from llava.checkpoints.tokenizer import load_tokenizer
from llava.model import Llava, choose_attention, count_parameters, freeze_vision, load
from llava.tuning.arguments import Arguments, read_arguments
from llava.tuning.conversations import Collate, ConversationDataset, Example, encode_all, say_longer
from llava.tuning.finetuner import AfterResharding, Finetune, FirstRate, MarkComplete, wait_for_all
from llava.tuning.limits import deepspeed_settings
from llava.tuning.plan import plan_run
from llava.tuning.run_settings import checked_settings, note_start

log = logging.getLogger(__name__)


def run(argv: Sequence[str] | None, description: str | None) -> None:
    """Fine-tunes by the command line's settings."""
    skip_compiling()
    args = read_arguments(argv, description)
    if args.rank:
        logging.getLogger().setLevel(logging.WARNING)
    first = args.rank == 0 and not args.data.dry_run
    output = args.output
    try:
        with (
            hold(output, "fine-tuning") if first else nullcontext(),
            writing(output),
            together("--ddp_timeout"),
        ):
            finetune(args)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def finetune(args: Arguments) -> None:
    """Trains and saves: data, model, what is frozen, trainer, fit.

    Raises:
        UserError: the model, a record, an image, a checkpoint or the output folder is not as it must be.
    """
    training, output = args.training, args.output
    is_first, start = args.rank == 0, args.model.model_name_or_path
    if args.lora.lora_enable and is_adapter(start):
        raise UserError(f"{start}: holds adapters already; make it whole by python -m llava.convert first")
    if args.data.dry_run and not is_first:
        return
    # Cheap before dear: texts, images and checkpoints are looked at before the model is loaded.
    frames = open_frames(args.data.image_folder)
    examples = read_examples(args, load_tokenizer(whole_of(start)), frames)
    if args.data.dry_run:
        print(plan_run(args, examples, deepspeed_settings(training)).text())  # noqa: T201 - asked for
        return
    settings = checked_settings(args) if is_first else {}
    if (output / COMPLETE).exists():
        log.info("%s: finished before, left as it is", output)
        return
    start_deepspeed(args)
    checkpoint = agreed(lambda: newest_checkpoint(output))
    source = fit_to_processes(checkpoint, args) if checkpoint else None
    model, tokenizer, processor = load_model(args)
    if is_first:  # one that cannot be loaded claims no folder
        note_start(args, settings)
    say_longer(examples, model.patches, places(model.config))
    trainer = Finetune(
        model=freeze(model, args),
        args=training,
        train_dataset=ConversationDataset(examples, frames, processor),
        data_collator=Collate(model.patches),
        callbacks=[MarkComplete(), FirstRate(), *([AfterResharding()] if source != checkpoint else [])],
        tokenizer=tokenizer,
        image_processor=processor,
    )
    if training.save_strategy != "no":
        trainer.require_room(output)
    if checkpoint is not None:
        log.info("goes on from %s", checkpoint)
    result = trainer.train(resume_from_checkpoint=str(source) if source else None)
    trainer.save_model(str(output))
    trainer.save_state()
    wait_for_all()
    if is_first:
        taken = result.global_step - (step_of(checkpoint) if checkpoint else 0)
        # Not its mean loss: of a run that was resumed the trainer knows a part alone.
        write_json(output / COMPLETE, {"step": result.global_step})
        log.info(
            "%s: %d updates; mean loss of the %d taken now: %.4f",
            output, result.global_step, taken, result.training_loss,
        )  # fmt: skip


def fit_to_processes(checkpoint: Path, args: Arguments) -> Path:
    """What this run goes on from: the checkpoint, or its resharded form where other processes wrote it.

    Raises:
        UserError: not all of its shards are here.
    """

    def source() -> Path:
        clear(args.output)
        before = other_writers(checkpoint, args.processes) if args.training.deepspeed else None
        if before is None:
            return checkpoint
        log.info("%s: of %d processes, made into one for %d", checkpoint, before, args.processes)
        return reshard(checkpoint)

    found = agreed(source)
    if found != checkpoint:
        # What transformers and accelerate read; the file that was named, and claimed, is as it was.
        config = args.training.hf_deepspeed_config.config
        config["checkpoint"] = {**config.get("checkpoint", {}), "load_universal": True}
    return found


def read_examples(args: Arguments, tokenizer: PreTrainedTokenizerBase, frames: FrameStore) -> list[Example]:
    """Encodes the conversations and looks at their images, each process at its share.

    Raises:
        UserError: a record or an image is bad; names it.
    """
    data = args.data
    records = read_conversations(data.data_path)
    skip_bad = data.on_bad_record == "skip"
    examples = encode_all(records, tokenizer, data.model_max_length, data.data_path, skip_bad=skip_bad)
    # A planned run has one process that works.
    share = (1, 1) if data.dry_run else (args.rank + 1, args.processes)
    mine = take_shard(examples, *share)
    check_frames(frames, [example.image for example in mine if example.image])
    log.info("%s: learns from %d of %d conversations", data.data_path, len(examples), len(records))
    return examples


def start_deepspeed(args: Arguments) -> None:
    """Joins the processes if DeepSpeed is used: ZeRO-3 shares weights out while they are loaded."""
    if args.training.deepspeed:
        import deepspeed

        deepspeed.init_distributed(timeout=args.training.ddp_timeout_delta)


def load_model(args: Arguments) -> tuple[Llava, PreTrainedTokenizerBase, CLIPImageProcessorPil]:
    """The model that training starts from.

    In 16 bits where DeepSpeed keeps a master copy of 32, or where weights are frozen; elsewhere steps of
    16-bit weights would be rounded away, and autocast computes in 16 bits from 32.
    """
    training, start = args.training, args.model.model_name_or_path
    has_master = bool(training.deepspeed) or args.lora.lora_enable
    dtype = torch.bfloat16 if training.bf16 and has_master else torch.float32
    log.info("%s: loaded as %s", start, "NF4" if args.lora.bits == 4 else dtype)
    return load(
        start,
        vision_tower=args.model.vision_tower,
        dtype=dtype,
        quantization=four_bits() if args.lora.bits == 4 else None,
        # The trainer moves the model later; the attention must be that of where it goes.
        attention=choose_attention(training.device, torch.bfloat16 if training.bf16 else torch.float32),
    )


def freeze(model: Llava, args: Arguments) -> Llava | PeftModel:
    """Freezes the vision tower, and the language model where adapters learn in its place."""
    freeze_vision(model)
    set_seed(args.training.seed)  # adapters begin at random
    adapted = args.lora.lora_enable
    learner = (
        add_adapters(model, args.lora, args.model.model_name_or_path, trained_type(args.training))
        if adapted
        else model
    )
    trained, frozen = count_parameters(learner)
    log.info(
        "trained: %s parameters (projector, %s); frozen: %s (vision tower%s)",
        f"{trained:,}",
        "adapters" if adapted else "language model",
        f"{frozen:,}",
        ", language model" if adapted else "",
    )
    return learner


def trained_type(training: TrainingArguments) -> torch.dtype:
    """What adapters are trained in: 16 bits where DeepSpeed computes in them and keeps a copy of 32."""
    if training.deepspeed and (training.bf16 or training.fp16):
        return torch.bfloat16 if training.bf16 else torch.float16
    return torch.float32


def skip_compiling() -> None:
    """Keeps DeepSpeed on a CPU from compiling a reduction that serves inference only."""
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

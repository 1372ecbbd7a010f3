"""What a fine-tuning run is going to do and to need, without doing it: `python -m llava.train --dry_run`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from llava.checkpoints.adapters import add_adapters
from llava.checkpoints.config_json import patches_across, places, text_settings, vision_settings
from llava.model import count_parameters, empty, freeze_vision, read_checkpoint
from llava.tuning.arguments import Arguments
from llava.tuning.conversations import Example, say_longer

GIB = 2**30
ADAM_STATES = 2  # first and second moment, of 4 bytes each
# Values of width d that a layer keeps for its own backward pass, beside those of its feed-forward width:
# norms, queries, keys, values, attention output, residuals.
KEPT_OF_WIDTH, KEPT_OF_INNER = 10, 3


class Counts(NamedTuple):
    """Numbers of parameters that get gradients, and that do not."""

    trained: int
    frozen: int


class Shape(NamedTuple):
    """Sizes of the language model that decide the memory for activations."""

    layers: int
    width: int
    inner: int
    vocabulary: int


@dataclass(frozen=True)
class Plan:
    """The plan of a run."""

    counts: Counts
    shape: Shape
    records: int  # that are trained on
    longest: int  # tokens of the longest record, its image expanded
    updates: int  # optimiser steps of the run
    batch: int  # records a process takes at a time
    processes: int
    accumulation: int  # batches to an update
    half: bool  # weights and gradients of 2 bytes (bf16), with a master copy of 4; else all of 4
    frozen_bytes: float  # of one frozen weight
    checkpointing: bool  # activations are computed twice instead of kept
    deepspeed: Mapping[str, object] | None  # its settings, if it is used

    @property
    def effective_batch(self) -> int:
        """Records to an update."""
        return self.batch * self.processes * self.accumulation

    def states(self, stage: int, offload: bool = False) -> float:
        """Bytes a GPU holds for weights, gradients and the optimiser (Rajbhandari et al. 2020, section 3).

        At ZeRO's stage, 0 to 3; with offload, weights and optimiser live in the machine's memory.
        """
        size = 2 if self.half else 4
        weights = size * self.counts.trained + self.frozen_bytes * self.counts.frozen
        gradients = size * self.counts.trained
        optimiser = 4 * (ADAM_STATES + self.half) * self.counts.trained
        if offload:
            return gradients / self.processes
        return (
            weights / (self.processes if stage >= 3 else 1)
            + gradients / (self.processes if stage >= 2 else 1)
            + optimiser / (self.processes if stage >= 1 else 1)
        )

    def activations(self) -> int:
        """Bytes for one batch of longest records: a state a layer, one layer whole (or all), the logits."""
        size, tokens = (2 if self.half else 4), self.batch * self.longest
        width, inner = self.shape.width, self.shape.inner
        layer = tokens * (KEPT_OF_WIDTH * width + KEPT_OF_INNER * inner) * size
        kept = tokens * width * size * self.shape.layers
        inside = layer if self.checkpointing else layer * self.shape.layers
        # In 16 bits, and as 32-bit values with their gradient.
        logits = tokens * self.shape.vocabulary * (size + 4 + 4)
        return kept + inside + logits

    def text(self) -> str:
        """The plan as lines for people."""
        zero = (self.deepspeed or {}).get("zero_optimization", {})
        assert isinstance(zero, dict)
        chosen = (int(zero.get("stage", 0)), bool(zero.get("offload_param")))
        work = self.activations()
        lines = [
            f"trained          {self.counts.trained:>18,} parameters",
            f"frozen           {self.counts.frozen:>18,} parameters",
            f"records          {self.records:>18,}, the longest of {self.longest} tokens with its image",
            f"effective batch  {self.effective_batch:>18,} = {self.batch} x {self.processes} processes "
            f"x {self.accumulation} accumulated",
            f"updates          {self.updates:>18,}",
            "memory of a GPU, estimated (states + activations of the longest records):",
        ]
        for stage, offload in ((0, False), (1, False), (2, False), (3, False), (3, True)):
            held = self.states(stage, offload)
            name = f"ZeRO-{stage}{' with offload' if offload else ''}" if stage else "no ZeRO"
            mark = "  <- this run" if (stage, offload) == chosen else ""
            lines.append(
                f"  {name:<20} {held / GIB:8.1f} + {work / GIB:.1f} = {(held + work) / GIB:.1f} GiB{mark}"
            )
        return "\n".join(lines)


def plan_run(args: Arguments, examples: Sequence[Example], deepspeed: Mapping[str, object] | None) -> Plan:
    """What a run is going to do; the model is built without its weights."""
    training, start = args.training, args.model.model_name_or_path
    config = read_checkpoint(start, args.model.vision_tower).config
    model = empty(config)
    freeze_vision(model)
    learner = add_adapters(model, args.lora, start) if args.lora.lora_enable else model
    text, patches = text_settings(config), patches_across(vision_settings(config)) ** 2
    say_longer(examples, patches, places(config))
    accumulation = training.gradient_accumulation_steps
    batches = math.ceil(len(examples) / args.processes / training.per_device_train_batch_size)
    an_epoch = max(1, math.ceil(batches / accumulation))
    half = bool(training.bf16 or training.fp16)
    updates = training.max_steps if training.max_steps > 0 else training.num_train_epochs * an_epoch
    return Plan(
        counts=Counts(*count_parameters(learner)),
        shape=Shape(text.num_hidden_layers, text.hidden_size, text.intermediate_size, text.vocab_size),
        records=len(examples),
        longest=max(example.length(patches) for example in examples),
        updates=math.ceil(updates),
        batch=training.per_device_train_batch_size,
        processes=args.processes,
        accumulation=accumulation,
        half=half,
        frozen_bytes={4: 0.55, 16: 2.0 if half else 4.0}[args.lora.bits],  # NF4 with its constants
        checkpointing=bool(training.gradient_checkpointing),
        deepspeed=deepspeed,
    )

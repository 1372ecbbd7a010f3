"""Settings of adapters; no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from egogen.errors import UserError


@dataclass(frozen=True)
class LoraArguments:
    """Training adapters instead of all weights (Hu et al. 2021); LLaVA's flag names."""

    lora_enable: bool = field(default=False, metadata={"help": "train adapters and the projector alone"})
    lora_r: int = field(default=64, metadata={"help": "rank of the adapters"})
    lora_alpha: int = field(default=16, metadata={"help": "adapters are scaled by alpha / rank"})
    lora_dropout: float = field(default=0.05, metadata={"help": "dropout in front of the adapters"})
    bits: int = field(
        default=16, metadata={"help": "4: the frozen weights in NF4 (QLoRA; needs bitsandbytes)"}
    )

    def __post_init__(self) -> None:
        if self.lora_r < 1 or self.lora_alpha < 1 or not 0 <= self.lora_dropout < 1:
            raise UserError(
                f"--lora_r {self.lora_r} --lora_alpha {self.lora_alpha} --lora_dropout {self.lora_dropout}: "
                "expected at least 1, at least 1, and 0 or more but below 1"
            )
        if self.bits not in (4, 16):
            raise UserError(f"--bits {self.bits}: expected 16, or 4 for QLoRA")
        if self.bits == 4 and not self.lora_enable:
            raise UserError("--bits 4: weights of 4 bits cannot be trained; add --lora_enable True")

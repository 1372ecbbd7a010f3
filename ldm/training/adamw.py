"""The optimiser of stage 2, its rate, and the length of its gradient."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from importlib.util import find_spec
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from egogen.errors import UserError
from ldm.config.sections import OptimizerConfig

log = logging.getLogger(__name__)


def make_optimizer(parameters: Iterable[nn.Parameter], settings: OptimizerConfig) -> Optimizer:
    """AdamW as the settings say; moments in 8 bits only if asked for and possible.

    Raises:
        UserError: 8 bits are asked for without bitsandbytes.
    """
    values = list(parameters)
    betas = (settings.betas[0], settings.betas[1])
    on_gpu = all(value.is_cuda for value in values)
    if settings.eight_bit != "off":
        if on_gpu and find_spec("bitsandbytes"):
            from bitsandbytes.optim import AdamW8bit  # type: ignore[import-not-found]

            return cast(
                "Optimizer", AdamW8bit(values, settings.lr, betas, settings.eps, settings.weight_decay)
            )
        reason = "bitsandbytes is not installed" if on_gpu else "bitsandbytes needs a GPU"
        if settings.eight_bit == "on":
            raise UserError(
                f"optimizer.eight_bit=on: {reason}; pip install bitsandbytes, or set it to auto or off"
            )
        log.info("optimizer.eight_bit=auto: %s; Adam's moments stay in 32 bits", reason)
    return AdamW(
        values,
        lr=settings.lr,
        betas=betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=True if settings.fused and on_gpu else None,
    )


def rate(settings: OptimizerConfig, step: int, last: int) -> float:
    """Share of the rate at a step, from 0: linear warm-up, then constant or half a cosine to `last`."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    if settings.schedule == "constant":
        return warm
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / last)))


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
    """Length of all gradients together; not finite if one entry is not."""
    gradients = [value.grad for value in parameters if value.grad is not None]
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))

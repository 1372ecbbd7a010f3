"""The optimiser of stage 2, its rate, and the length of its gradient."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from egogen.errors import UserError
from ldm.config.sections import OptimizerConfig

log = logging.getLogger(__name__)


class Apart(NamedTuple):
    """Parameters that learn at a rate of their own: so many times `optimizer.lr`."""

    parameters: list[nn.Parameter]
    factor: float


def make_optimizer(
    parameters: Iterable[nn.Parameter], settings: OptimizerConfig, apart: Sequence[Apart] = ()
) -> Optimizer:
    """AdamW as the settings say; moments in 8 bits only if asked for and possible.

    Args:
        parameters: those that learn at the settings' rate.
        settings: rate, moments, decay.
        apart: others, a group each.

    Raises:
        UserError: 8 bits are asked for without bitsandbytes.
    """
    values = list(parameters)
    groups: list[dict[str, Any]] = [{"params": values}]
    groups += [{"params": each.parameters, "lr": each.factor * settings.lr} for each in apart]
    betas = (settings.betas[0], settings.betas[1])
    on_gpu = all(value.is_cuda for value in values)
    if settings.eight_bit != "off":
        if can_8_bits(on_gpu):
            from bitsandbytes.optim import AdamW8bit  # type: ignore[import-not-found]

            return cast(
                "Optimizer", AdamW8bit(groups, settings.lr, betas, settings.eps, settings.weight_decay)
            )
        reason = "bitsandbytes is not installed" if on_gpu else "bitsandbytes needs a GPU"
        if settings.eight_bit == "on":
            raise UserError(
                f"optimizer.eight_bit=on: {reason}; pip install bitsandbytes, or set it to auto or off"
            )
        log.info("optimizer.eight_bit=auto: %s; Adam's moments stay in 32 bits", reason)
    return AdamW(
        groups,
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


def renew(
    checkpoint: Mapping[str, Any],
    settings: OptimizerConfig,
    last: int,
    on_gpu: bool,
    factors: Sequence[float] = (),
) -> None:
    """Puts a run's settings in the place of those that a checkpoint's optimiser and schedule were saved with.

    Args:
        checkpoint: Lightning's; changed in place.
        settings: those that are to count.
        last: the run's last step, as for `rate`.
        on_gpu: whether it goes on there.
        factors: of the groups that learn at a rate of their own, see `Apart`.

    Raises:
        UserError: Adam's moments are in 8 bits there and not here, or the other way round.
    """
    in_8_bits = settings.eight_bit == "on" or (settings.eight_bit == "auto" and can_8_bits(on_gpu))
    rates = [settings.lr * factor for factor in (1, *factors)]
    steps = [schedule["last_epoch"] for schedule in checkpoint["lr_schedulers"]]
    for state in checkpoint["optimizer_states"]:
        saved = any("state1" in moments for moments in state["state"].values())
        if state["state"] and saved != in_8_bits:
            raise UserError(
                f"optimizer.eight_bit: the checkpoint to resume has moments in {8 if saved else 32} bits; "
                f"set it to {'on' if saved else 'off'}"
            )
        for group, own in zip(state["param_groups"], rates, strict=True):
            group.update(betas=tuple(settings.betas), eps=settings.eps, weight_decay=settings.weight_decay)
            group.update(lr=own * rate(settings, steps[0], last), initial_lr=own)
            if "fused" in group:
                group["fused"] = True if settings.fused and on_gpu else None
    for schedule in checkpoint["lr_schedulers"]:
        now = rate(settings, schedule["last_epoch"], last)
        schedule["base_lrs"], schedule["_last_lr"] = rates, [own * now for own in rates]


def can_8_bits(on_gpu: bool) -> bool:
    """Whether Adam's moments can be kept in 8 bits."""
    return on_gpu and find_spec("bitsandbytes") is not None


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
    """Length of all gradients together; not finite if one entry is not."""
    gradients = [value.grad for value in parameters if value.grad is not None]
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))

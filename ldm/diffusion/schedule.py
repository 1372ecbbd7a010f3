"""The noise schedule that every network here was trained with, and the weights of its timesteps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ldm.diffusion.choices import TRAINING_STEPS

# The "linear" schedule of latent diffusion: betas are linear in their square root.
BETA_START, BETA_END = 0.00085, 0.012
# The same as options of diffusers' schedulers.
TRAINING_SCHEDULE = {
    "num_train_timesteps": TRAINING_STEPS,
    "beta_start": BETA_START,
    "beta_end": BETA_END,
    "beta_schedule": "scaled_linear",
}
# Buffers of a published file.
SCHEDULE = [
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod",
    "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
]  # fmt: skip


def training_schedule() -> dict[str, Tensor]:
    """The twelve schedule buffers of a published file (Ho et al. 2020, equations 4 and 7), float32 [1000]."""
    betas = np.linspace(BETA_START**0.5, BETA_END**0.5, TRAINING_STEPS) ** 2
    product = np.cumprod(1 - betas)
    before = np.append(1.0, product[:-1])
    variance = betas * (1 - before) / (1 - product)
    values = [
        betas, product, before, np.sqrt(product), np.sqrt(1 - product), np.log(1 - product),
        np.sqrt(1 / product), np.sqrt(1 / product - 1), variance, np.log(np.maximum(variance, 1e-20)),
        betas * np.sqrt(before) / (1 - product), (1 - before) * np.sqrt(1 - betas) / (1 - product),
    ]  # fmt: skip
    return {
        name: torch.tensor(value, dtype=torch.float32) for name, value in zip(SCHEDULE, values, strict=True)
    }


def p2_weight(schedule: Mapping[str, Tensor], k: float, gamma: float) -> Float[Tensor, " steps"]:
    """Weight of each timestep's loss, 1 / (k + SNR)^gamma (Choi et al. 2022, equation 8)."""
    snr = (schedule["sqrt_alphas_cumprod"] / schedule["sqrt_one_minus_alphas_cumprod"]) ** 2
    return (k + snr) ** -gamma

"""Trains the toy's autoencoder: its decoder alone on linear latents, or both halves for sharper frames."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.optim import Adam

from ldm.networks.precision import has_tiles
from ldm.networks.shapes import LATENT_SCALE
from ldm.toy.fitting import encode, optimize

# Latents that are a little wrong, as those that a UNet draws, must not spoil the frame.
LATENT_NOISE = 0.05  # standard deviations of the latents
EDGE_WEIGHT, LENGTH_WEIGHT = 1.0, 1e-3
PEAK_RATE = 2e-3


def train_decoder(
    vae: AutoencoderKL, frames: Float[Tensor, "n 3 r r"], steps: int, keep: Path | None = None
) -> None:
    """Fits the decoder to give frames back from their latents: squared and absolute error."""
    latents = encode(vae, frames)

    def loss(rows: Tensor) -> Tensor:
        decoded = vae.decode(latents[rows]).sample
        return functional.mse_loss(decoded, frames[rows]) + 0.3 * functional.l1_loss(decoded, frames[rows])

    trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    optimize(Adam(trained, PEAK_RATE), loss, len(frames), steps, batch=8, title="decoder", keep=keep)
    vae.requires_grad_(False).eval()


def train_autoencoder(
    vae: AutoencoderKL, frames: Float[Tensor, "n 3 r r"], steps: int, keep: Path | None = None
) -> None:
    """Fits encoder and decoder: squared and absolute error, and that of neighbours' differences, for edges.

    The latents' noise is fixed and their length costs: both keep them from growing without end, as the
    published autoencoder's divergence from a normal distribution does. Where the processor has tiles of
    16 bits it computes in them.
    """
    tiles = has_tiles()
    vae.to(memory_format=torch.channels_last)
    pixels = frames.contiguous(memory_format=torch.channels_last)

    def loss(rows: Tensor) -> Tensor:
        shown = pixels[rows]
        with torch.autocast("cpu", torch.bfloat16, enabled=tiles):
            latents = LATENT_SCALE * vae.encode(shown).latent_dist.mean.float()
            noisy = latents + LATENT_NOISE * torch.randn_like(latents)
            decoded = vae.decode(noisy / LATENT_SCALE).sample
        wrong = decoded.float() - shown
        edges = wrong.diff(dim=2).abs().mean() + wrong.diff(dim=3).abs().mean()
        size = latents.square().mean()
        return wrong.square().mean() + wrong.abs().mean() + EDGE_WEIGHT * edges + LENGTH_WEIGHT * size

    optimize(
        Adam(vae.parameters(), PEAK_RATE),
        loss,
        len(frames),
        steps,
        batch=16,
        title="autoencoder",
        clip=1.0,
        keep=keep,
    )
    vae.to(memory_format=torch.contiguous_format)
    vae.requires_grad_(False).eval()

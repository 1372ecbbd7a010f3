"""The work of `python -m ldm.toy`; the command tells what it is for."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam
from transformers import CLIPTextModel

from ldm.checkpoints.writing import published_state, write
from ldm.conditioner import embed
from ldm.diffusion.schedule import p2_weight, training_schedule
from ldm.networks.architecture import Parts, build
from ldm.networks.shapes import LATENT_CHANNELS, LATENT_SCALE, Architecture, TextShape, UNetShape, VAEShape
from ldm.networks.text import make_tokenizer, tokenize
from ldm.toy.builder_options import StartOptions
from ldm.toy.crops import close_ups
from ldm.toy.fitting import (
    World,
    add_noise,
    draw_prompts,
    encode,
    optimize,
    read_world,
)
from ldm.toy.linear import pass_colours_through, pass_noise_through, standardize_latents

log = logging.getLogger(__name__)

CLOSE_SHARE = 0.5  # of pictures that show one object
# Text-to-image training draws most timesteps from the noisy end: there the text alone tells what to draw.
EARLY, EARLY_SHARE = 600, 0.7
SHAPE = Architecture(
    unet=UNetShape(
        channels=[32, 64, 128],
        attention=[False, True, True],
        blocks=1,
        heads=2,
        groups=8,
        in_channels=LATENT_CHANNELS,
    ),
    vae=VAEShape(channels=[32, 32], blocks=1, groups=8),
    text=TextShape(width=128, layers=2, heads=2, intermediate=512),
    llm_width=128,
    mixer_width=256,
)


def build_start(options: StartOptions) -> None:
    """Trains the networks one after the other and writes them."""
    layout = options.layout
    world = read_world(layout, options.resolution)
    log.info("train on %d frames of %s", len(world.frames), layout.frames("train"))
    torch.manual_seed(options.seed)
    parts = build(SHAPE, conditioner=False)
    pass_colours_through(parts.vae)
    standardize_latents(parts.vae, world.frames)
    train_decoder(parts.vae, world.frames, options.vae_steps)
    pass_noise_through(parts.unet)
    sources, targets = world.frames.chunk(2)
    train_text_encoder(parts.text_encoder, targets - sources, world.texts, options.text_steps)
    close, captions = close_ups(layout, options.resolution, options.seed)
    train_unet(parts, world, close, captions, options.unet_steps)
    write(options.out, published_state(parts, SHAPE), SHAPE)


def train_decoder(vae: AutoencoderKL, frames: Float[Tensor, "n 3 r r"], steps: int) -> None:
    """Fits the decoder to give frames back from their latents: squared and absolute error."""
    latents = encode(vae, frames)

    def loss(rows: Tensor) -> Tensor:
        decoded = vae.decode(latents[rows]).sample
        return functional.mse_loss(decoded, frames[rows]) + 0.3 * functional.l1_loss(decoded, frames[rows])

    trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    optimize(Adam(trained, 2e-3), loss, len(frames), steps, batch=8, title="decoder")
    vae.requires_grad_(False).eval()


def train_text_encoder(
    encoder: CLIPTextModel, changes: Float[Tensor, "n 3 r r"], texts: Sequence[str], steps: int
) -> None:
    """Fits the text encoder to tell, by linear heads that are thrown away, what changes where, and its words.

    It stands in for CLIP's own training on pictures and captions: the tokens' mean learns hands and places.
    Without the second task it forgets the words that matter little to a coarse change, such as colours.
    """
    coarse = functional.avg_pool2d(changes, 4).flatten(1)  # n c
    ids = tokenize(make_tokenizer(), texts)
    used, words = ids.unique(return_inverse=True)
    where = nn.Linear(encoder.config.hidden_size, coarse.shape[1])
    nn.init.zeros_(where.weight)
    what = nn.Linear(encoder.config.hidden_size, len(used))

    def loss(rows: Tensor) -> Tensor:
        states = encoder(ids[rows]).last_hidden_state  # b n d
        surprise = functional.cross_entropy(what(states).flatten(0, 1), words[rows].flatten())
        return functional.mse_loss(where(states.mean(dim=1)), coarse[rows]) / coarse.var() + surprise

    trained = [*encoder.parameters(), *where.parameters(), *what.parameters()]
    optimize(Adam(trained, 1e-3), loss, len(texts), steps, batch=32, title="text encoder")
    encoder.requires_grad_(False).eval()  # from here on as it is, like CLIP


def train_unet(
    parts: Parts, world: World, close: Float[Tensor, "n 3 r r"], captions: Sequence[str], steps: int
) -> None:
    """Fits the UNet to predict the noise in target frames and in close-ups of their objects, from texts.

    Noisy timesteps weigh most: there the text alone tells where hands and objects are.
    """
    targets = world.frames.chunk(2)[1]
    latents = LATENT_SCALE * torch.stack([encode(parts.vae, targets), encode(parts.vae, close)])
    schedule = training_schedule()
    last = len(schedule["betas"])
    # Least 1: SDEdit and ProxEdit, which draw with this model as it is, need clean pictures too.
    weight = p2_weight(schedule, k=0.005, gamma=1.0).clamp(min=1.0)
    tokenizer = make_tokenizer()

    def loss(rows: Tensor) -> Tensor:
        anywhere, noisy_part = torch.randint(0, last, (len(rows),)), torch.randint(EARLY, last, (len(rows),))
        t = torch.where(torch.rand(len(rows)) < EARLY_SHARE, noisy_part, anywhere)
        near = torch.rand(len(rows)) < CLOSE_SHARE
        noisy, noise = add_noise(latents[near.long(), rows], t, schedule)
        prompts = draw_prompts(rows, world, captions, near)
        predicted = parts.unet(noisy, t, embed(parts.text_encoder, tokenizer, prompts)).sample
        return (weight[t] * (predicted - noise).square().mean(dim=(1, 2, 3))).mean()

    optimizer = Adam(parts.unet.parameters(), 1e-3)
    optimize(optimizer, loss, len(targets), steps, batch=16, title="text to image")

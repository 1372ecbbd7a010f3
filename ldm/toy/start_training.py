"""The work of `python -m ldm.toy`; the command tells what it is for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam
from transformers import CLIPTextModel

from ldm.checkpoints.source import load_parts, open_source, sizes_of
from ldm.checkpoints.writing import published_state, write
from ldm.diffusion.schedule import p2_weight, training_schedule
from ldm.networks.architecture import Parts, build
from ldm.networks.shapes import LATENT_CHANNELS, LATENT_SCALE, Architecture
from ldm.networks.text import make_tokenizer, tokenize
from ldm.toy.autoencoder_training import train_autoencoder, train_decoder
from ldm.toy.builder_options import StartOptions
from ldm.toy.crops import close_ups
from ldm.toy.fitting import (
    PromptBook,
    World,
    add_noise,
    draw_prompts,
    encode,
    optimize,
    read_world,
)
from ldm.toy.linear import pass_colours_through, pass_noise_through, standardize_latents
from ldm.toy.toy_shapes import SHAPES

log = logging.getLogger(__name__)

CLOSE_SHARE = 0.5  # of pictures that show one object
# Text-to-image training draws most timesteps from the noisy end: there the text alone tells what to draw.
EARLY, EARLY_SHARE = 600, 0.7


def build_start(options: StartOptions) -> None:
    """Trains the networks one after the other and writes them."""
    layout = options.layout
    world = read_world(layout, options.resolution)
    log.info("train on %d frames of %s", len(world.frames), layout.frames("train"))
    torch.manual_seed(options.seed)
    kept = {part: options.out.with_suffix(f".{part}.training") for part in ("vae", "text", "unet")}
    if options.like:
        parts, shape = frozen_parts(options.like)
    else:
        shape = SHAPES[options.shape]
        parts = build(shape, conditioner=False)
        train_frozen_parts(parts, world, options, kept)
    pass_noise_through(parts.unet)
    close, captions = close_ups(layout, options.resolution, options.seed)
    train_unet(parts, world, close, captions, options.unet_steps, kept["unet"])
    write(options.out, published_state(parts, shape), shape, options.resolution)
    for path in kept.values():
        path.unlink(missing_ok=True)


def frozen_parts(path: Path) -> tuple[Parts, Architecture]:
    """A finished start's autoencoder and text encoder with a new text-to-image UNet, and the sizes of all."""
    source = open_source(path)
    sizes = sizes_of(source)
    shape = replace(sizes, unet=replace(sizes.unet, in_channels=LATENT_CHANNELS))
    found = load_parts(source)
    parts = build(shape, conditioner=False)._replace(vae=found.vae, text_encoder=found.text_encoder)
    for part in (parts.vae, parts.text_encoder):
        part.requires_grad_(False).eval()
    return parts, shape


def train_frozen_parts(parts: Parts, world: World, options: StartOptions, kept: Mapping[str, Path]) -> None:
    """Trains the autoencoder, then the text encoder; both stay as they are from then on."""
    pass_colours_through(parts.vae)
    standardize_latents(parts.vae, world.frames)
    if options.shape == "sharp":
        train_autoencoder(parts.vae, world.frames, options.vae_steps, kept["vae"])
        standardize_latents(parts.vae, world.frames)
    else:
        train_decoder(parts.vae, world.frames, options.vae_steps, kept["vae"])
    sources, targets = world.frames.chunk(2)
    train_text_encoder(parts.text_encoder, targets - sources, world.texts, options.text_steps, kept["text"])


def train_text_encoder(
    encoder: CLIPTextModel,
    changes: Float[Tensor, "n 3 r r"],
    texts: Sequence[str],
    steps: int,
    keep: Path | None = None,
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
    optimize(Adam(trained, 1e-3), loss, len(texts), steps, batch=32, title="text encoder", keep=keep)
    encoder.requires_grad_(False).eval()  # from here on as it is, like CLIP


def train_unet(
    parts: Parts,
    world: World,
    close: Float[Tensor, "n 3 r r"],
    captions: Sequence[str],
    steps: int,
    keep: Path | None = None,
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
    book = PromptBook(parts.text_encoder, world, captions)

    def loss(rows: Tensor) -> Tensor:
        anywhere, noisy_part = torch.randint(0, last, (len(rows),)), torch.randint(EARLY, last, (len(rows),))
        t = torch.where(torch.rand(len(rows)) < EARLY_SHARE, noisy_part, anywhere)
        near = torch.rand(len(rows)) < CLOSE_SHARE
        noisy, noise = add_noise(latents[near.long(), rows], t, schedule)
        prompts = draw_prompts(rows, world, captions, near)
        predicted = parts.unet(noisy, t, book.read(prompts)).sample
        return (weight[t] * (predicted - noise).square().mean(dim=(1, 2, 3))).mean()

    optimizer = Adam(parts.unet.parameters(), 1e-3)
    optimize(optimizer, loss, len(targets), steps, batch=16, title="text to image", keep=keep)

"""The work of `python -m ldm.toy.editor`; the command tells what it is for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.optim import Adam

from ldm.checkpoints.source import load_parts, open_source, sizes_of
from ldm.checkpoints.writing import published_state, write
from ldm.diffusion.schedule import p2_weight, training_schedule
from ldm.networks.architecture import Parts
from ldm.networks.devices import find_device
from ldm.networks.shapes import LATENT_SCALE
from ldm.toy.builder_options import EditorOptions
from ldm.toy.crops import close_ups, objects, zoomed
from ldm.toy.fitting import (
    PromptBook,
    World,
    add_noise,
    draw_prompts,
    encode,
    optimize,
    read_world,
)

SOURCELESS_SHARE = 0.1  # no source frame, for guidance to it
# Of whole frames, of pairs zoomed to where the action ends, and of close-ups without a source frame.
SHARES, CLOSE = (0.6, 0.3, 0.1), 2
# How much more latents count where the action changes them, and where its object is or was. Most of a frame
# is only to be kept, which is soon learnt; the object is a few latents.
CHANGED_CARE, OBJECT_CARE = 5.0, 20.0
CHANGED = 0.25  # mean absolute difference of latents, which have a standard deviation of 1


def build_editor(options: EditorOptions) -> None:
    """Trains the start's UNet further and writes all of it."""
    device = find_device(options.device)
    layout, side, seed = options.layout, options.resolution, options.seed
    torch.manual_seed(seed)
    source = open_source(options.start)
    parts, shape = load_parts(source), sizes_of(source)
    parts.vae.requires_grad_(False).eval()
    parts.text_encoder.requires_grad_(False).eval()
    world = read_world(layout, side)
    close, captions = close_ups(layout, side, seed)
    whole, near = (encode(parts.vae, view) for view in (world.frames, zoomed(layout, side, seed)))
    large = encode(parts.vae, close)
    latents = torch.stack([whole, near, torch.cat([torch.zeros_like(large), large])])
    world = world._replace(frames=world.frames[:0])  # their latents are enough
    kept = options.out.with_suffix(".training")
    where = objects(layout, side // shape.vae.factor)
    train_editor(parts, latents, where, world, captions, options, kept, device)
    write(options.out, published_state(parts, shape), shape, side)
    if not options.hold:
        kept.unlink(missing_ok=True)


def train_editor(
    parts: Parts,
    latents: Float[Tensor, "v n2 4 h w"],
    where: Bool[Tensor, "n 1 h w"],
    world: World,
    captions: Sequence[str],
    options: EditorOptions,
    keep: Path,
    device: torch.device,
) -> None:
    """Fits the UNet to predict the noise in target latents from source latents and text.

    `latents` are of source frames, then target frames: whole, zoomed, and close-ups with their `captions`,
    whose sources are not shown. `where` are those of the whole frames in which the object is or was. The UNet
    computes on the device; every draw is made on the CPU.
    """
    sources, targets = latents.chunk(2, dim=1)
    schedule = training_schedule()
    weight = p2_weight(schedule, k=0.005, gamma=1.0)  # learn layout before texture
    weight /= weight.mean()
    care = cares(LATENT_SCALE * (targets - sources), where)
    book = PromptBook(parts.text_encoder, world, captions)
    nn.Module.to(parts.unet, device)

    def loss(rows: Tensor) -> Tensor:
        t = torch.randint(0, len(weight), (len(rows),))
        view = torch.multinomial(torch.tensor(SHARES), len(rows), replacement=True)
        noisy, noise = add_noise(LATENT_SCALE * targets[view, rows], t, schedule)
        is_shown = (torch.rand(len(rows)) >= SOURCELESS_SHARE) & (view != CLOSE)
        shown = is_shown[:, None, None, None] * sources[view, rows]
        prompts = draw_prompts(rows, world, captions, view == CLOSE)
        state = book.read(prompts).to(device)
        predicted = parts.unet(torch.cat([noisy, shown], dim=1).to(device), t.to(device), state).sample
        weights = weight[t][:, None, None, None] * care[view, rows]
        return (weights.to(device) * (predicted - noise.to(device)).square()).mean()

    optimizer, count = Adam(parts.unet.parameters(), 7e-4), len(where)
    optimize(
        optimizer, loss, count, options.steps,
        batch=32, title="editor", clip=1.0, keep=keep, hold=options.hold,
    )  # fmt: skip
    nn.Module.to(parts.unet, "cpu")


def cares(changes: Float[Tensor, "v n 4 h w"], where: Bool[Tensor, "n 1 h w"]) -> Float[Tensor, "v n 1 h w"]:
    """What each latent's error counts, 1 on the average of a view; in close-ups all count alike."""
    care = 1 + CHANGED_CARE * (changes.abs().mean(dim=2, keepdim=True) > CHANGED)
    care[0] += OBJECT_CARE * where
    care[CLOSE] = 1
    return care / care.mean(dim=(1, 2, 3, 4), keepdim=True)

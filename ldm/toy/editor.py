"""Builds a toy "InstructPix2Pix": tunes the toy Stable Diffusion to change a frame as a text says.

All systems of the toy benchmark start from this training, so that each can do with a short one of its own.
It sees the pairs of the train split with their curated descriptions and, one time in five, their labels: what
a VLLM says, and its features, are left for the systems to learn.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from egogen.cli import parser, run
from egogen.layout import Layout
from ldm.checkpoints.safe_reading import is_made
from ldm.checkpoints.source import load_parts, open_source, sizes_of
from ldm.checkpoints.writing import published_state, write
from ldm.conditioner import embed
from ldm.diffusion.schedule import p2_weight, training_schedule
from ldm.networks.architecture import LATENT_SCALE, Parts
from ldm.networks.devices import HELP, find_device
from ldm.networks.text import make_tokenizer
from ldm.toy.__main__ import add_noise, draw_prompts, encode, optimize, read_labels, read_world
from ldm.toy.crops import close_ups, objects, zoomed

log = logging.getLogger(__name__)

SOURCELESS_SHARE = 0.1  # no source frame, for guidance to it
# Of whole frames, of pairs zoomed to where the action ends, and of close-ups without a source frame.
SHARES, CLOSE = (0.6, 0.3, 0.1), 2
# How much more latents count where the action changes them, and where its object is or was. Most of a frame
# is only to be kept, which is soon learnt; the object is a few latents.
CHANGED_CARE, OBJECT_CARE = 5.0, 20.0
CHANGED = 0.25  # mean absolute difference of latents, which have a standard deviation of 1


def main(argv: Sequence[str] | None = None) -> None:
    """Trains and writes the file; a finished file is left alone, a stopped training goes on."""
    made = parser("python -m ldm.toy.editor", __doc__)
    made.add_argument("--start", type=Path, required=True, help="the .ckpt of python -m ldm.toy")
    made.add_argument("--data-root", type=Path, required=True, help="folder that holds EgoGen/")
    made.add_argument("--out", type=Path, required=True, help="the .ckpt to write")
    made.add_argument("--dataset", default="ego4d", help="ego4d or epickitchen")
    made.add_argument("--resolution", type=int, default=48, help="side of the squashed frames, in pixels")
    made.add_argument("--steps", type=int, default=6000, help="optimiser steps, of 32 pairs each")
    made.add_argument("--seed", type=int, default=0, help="seed of batches and noise")
    made.add_argument("--device", default="cpu", help=f"where the UNet trains: {HELP}")
    args = made.parse_args(argv)
    if is_made(args.out):
        log.info("%s is there already", args.out)
        return
    device = find_device(args.device)
    layout = Layout(args.data_root, args.dataset)
    torch.manual_seed(args.seed)
    source = open_source(args.start)
    parts, shape = load_parts(source), sizes_of(source)
    frames, texts = read_world(layout, args.resolution)
    close, captions = close_ups(layout, args.resolution, args.seed)
    views = [frames, zoomed(layout, args.resolution, args.seed), torch.cat([torch.zeros_like(close), close])]
    kept = args.out.with_suffix(".training")
    where = objects(layout, args.resolution // shape.vae.factor)
    train_editor(parts, views, where, texts, read_labels(layout), captions, args.steps, kept, device)
    write(args.out, published_state(parts, shape), shape)
    kept.unlink(missing_ok=True)
    log.info("wrote %s", args.out)


def train_editor(
    parts: Parts,
    views: Sequence[Float[Tensor, "n2 3 r r"]],
    where: Bool[Tensor, "n 1 h w"],
    texts: Sequence[str],
    labels: Sequence[str],
    captions: Sequence[str],
    steps: int,
    keep: Path | None = None,
    device: torch.device | str = "cpu",
) -> None:
    """Fits the UNet to predict the noise in target latents from source latents and text.

    Args:
        parts: their UNet, with 8 input channels, is trained in place.
        views: source frames, then target frames: whole, zoomed, and close-ups, whose sources are not shown.
        where: latents of the whole frames in which the object is or was.
        texts: descriptions of the pairs.
        labels: labels of the pairs.
        captions: of the close-ups.
        steps: optimiser steps.
        keep: where a training that is stopped is kept.
        device: where UNet and text encoder compute; every draw is made on the CPU.
    """
    parts.vae.requires_grad_(False)
    parts.text_encoder.requires_grad_(False).eval()
    sources, targets = torch.stack([encode(parts.vae, view) for view in views]).split(len(texts), dim=1)
    schedule = training_schedule()
    weight = p2_weight(schedule, k=0.005, gamma=1.0)  # learn layout before texture
    weight /= weight.mean()
    care = cares(LATENT_SCALE * (targets - sources), where)
    tokenizer = make_tokenizer()
    nn.Module.to(parts.text_encoder, device)
    nn.Module.to(parts.unet, device)

    def loss(rows: Tensor) -> Tensor:
        t = torch.randint(0, len(weight), (len(rows),))
        view = torch.multinomial(torch.tensor(SHARES), len(rows), replacement=True)
        noisy, noise = add_noise(LATENT_SCALE * targets[view, rows], t, schedule)
        is_shown = (torch.rand(len(rows)) >= SOURCELESS_SHARE) & (view != CLOSE)
        shown = is_shown[:, None, None, None] * sources[view, rows]
        prompts = draw_prompts(rows, texts, labels, captions, view == CLOSE)
        state = embed(parts.text_encoder, tokenizer, prompts)
        predicted = parts.unet(torch.cat([noisy, shown], dim=1).to(device), t.to(device), state).sample
        weights = weight[t][:, None, None, None] * care[view, rows]
        return (weights.to(device) * (predicted - noise.to(device)).square()).mean()

    trained = [*parts.unet.parameters()]
    optimize(trained, loss, len(texts), steps, batch=32, rate=7e-4, title="editor", clip=1.0, keep=keep)
    nn.Module.to(parts.text_encoder, "cpu")
    nn.Module.to(parts.unet, "cpu")


def cares(changes: Float[Tensor, "v n 4 h w"], where: Bool[Tensor, "n 1 h w"]) -> Float[Tensor, "v n 1 h w"]:
    """What each latent's error counts, 1 on the average of a view; in close-ups all count alike."""
    care = 1 + CHANGED_CARE * (changes.abs().mean(dim=2, keepdim=True) > CHANGED)
    care[0] += OBJECT_CARE * where
    care[CLOSE] = 1
    return care / care.mean(dim=(1, 2, 3, 4), keepdim=True)


if __name__ == "__main__":
    run(main)

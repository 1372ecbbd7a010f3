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
from jaxtyping import Float
from torch import Tensor, nn

from egogen.cli import parser, run
from egogen.layout import Layout
from ldm.architecture import LATENT_SCALE, Parts
from ldm.checkpoint import load_parts, published_state, training_schedule, write
from ldm.folder import architecture_of
from ldm.optim import p2_weight
from ldm.text import embed, make_tokenizer
from ldm.toy.__main__ import add_noise, draw_prompts, encode, optimize, read_labels, read_world
from ldm.toy.crops import close_ups, zoomed

log = logging.getLogger(__name__)

SOURCELESS_SHARE = 0.1  # no source frame, for guidance to it
# Of whole frames, of pairs zoomed to where the action ends, and of close-ups without a source frame.
SHARES, CLOSE = (0.6, 0.3, 0.1), 2


def main(argv: Sequence[str] | None = None) -> None:
    """Trains and writes the file; a finished file is left alone, a stopped training goes on."""
    made = parser("python -m ldm.toy.editor", __doc__)
    made.add_argument("--start", type=Path, required=True, help="the .ckpt of python -m ldm.toy")
    made.add_argument("--data-root", type=Path, required=True, help="folder that holds EgoGen/")
    made.add_argument("--out", type=Path, required=True, help="the .ckpt to write")
    made.add_argument("--dataset", default="ego4d", help="ego4d or epickitchen")
    made.add_argument("--resolution", type=int, default=48, help="side of the squashed frames, in pixels")
    made.add_argument("--steps", type=int, default=6000, help="optimiser steps, of 16 pairs each")
    made.add_argument("--seed", type=int, default=0, help="seed of batches and noise")
    made.add_argument("--device", default="cpu", help="where the UNet trains: cpu or cuda")
    args = made.parse_args(argv)
    if args.out.exists():
        log.info("%s is there already", args.out)
        return
    layout = Layout(args.data_root, args.dataset)
    torch.manual_seed(args.seed)
    parts = load_parts(args.start)
    frames, texts = read_world(layout, args.resolution)
    close, captions = close_ups(layout, args.resolution, args.seed)
    views = [frames, zoomed(layout, args.resolution, args.seed), torch.cat([torch.zeros_like(close), close])]
    kept = args.out.with_suffix(".training")
    train_editor(parts, views, texts, read_labels(layout), captions, args.steps, kept, args.device)
    shape = architecture_of(parts)
    write(args.out, published_state(parts, shape), shape)
    kept.unlink(missing_ok=True)
    log.info("wrote %s", args.out)


def train_editor(
    parts: Parts,
    views: Sequence[Float[Tensor, "n2 3 r r"]],
    texts: Sequence[str],
    labels: Sequence[str],
    captions: Sequence[str],
    steps: int,
    keep: Path | None = None,
    device: str = "cpu",
) -> None:
    """Fits the UNet to predict the noise in target latents from source latents and text.

    Args:
        parts: their UNet, with 8 input channels, is trained in place.
        views: source frames, then target frames: whole, zoomed, and close-ups, whose sources are not shown.
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
    weight = p2_weight(schedule, k=0.1, gamma=0.7)  # as stage 2 of the toy world
    weight /= weight.mean()
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
        return (weight[t].to(device) * (predicted - noise.to(device)).square().mean(dim=(1, 2, 3))).mean()

    optimize(
        [*parts.unet.parameters()], loss, len(texts), steps, batch=16, rate=1e-3, title="editor", keep=keep
    )
    nn.Module.to(parts.text_encoder, "cpu")
    nn.Module.to(parts.unet, "cpu")


if __name__ == "__main__":
    run(main)

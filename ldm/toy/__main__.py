"""Builds a toy "Stable Diffusion" from the toy world, in minutes on a CPU, as a published single file.

An autoencoder whose decoder is trained on the frames; a text encoder that learns its words; a 4-channel UNet,
trained for a short while to draw objects from captions and target frames from their descriptions. `main.py`
starts from it as from Stable Diffusion 1.5.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm
from transformers import CLIPTextModel

from egogen.annotations import Annotations
from egogen.cli import parser, run
from egogen.conversations import read_conversations
from egogen.errors import UserError
from egogen.files import atomic_open
from egogen.frames import read_frame
from egogen.layout import Layout
from egogen.locks import hold
from ldm.checkpoints.safe_reading import is_made
from ldm.checkpoints.writing import published_state, write
from ldm.conditioner import embed
from ldm.diffusion.schedule import p2_weight, training_schedule
from ldm.networks.architecture import (
    LATENT_CHANNELS,
    LATENT_SCALE,
    Architecture,
    Parts,
    TextShape,
    UNetShape,
    VAEShape,
    build,
)
from ldm.networks.pixels import to_model
from ldm.networks.text import make_tokenizer, tokenize
from ldm.toy.crops import close_ups, target_of
from ldm.toy.linear import pass_colours_through, pass_noise_through, standardize_latents

log = logging.getLogger(__name__)

# How often the text-to-image model is given the bare label, which says less: baselines are asked by it.
LABEL_SHARE = 0.2
EMPTY_SHARE = 0.1  # no text, for classifier-free guidance
CLOSE_SHARE = 0.5  # of pictures that show one object
# Text-to-image training draws most timesteps from the noisy end: there the text alone tells what to draw.
EARLY, EARLY_SHARE = 600, 0.7
KEEP_EVERY = 250  # steps
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


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the frames, trains the two networks, writes the file; a finished file is left alone."""
    made = parser("python -m ldm.toy", __doc__)
    made.add_argument("--data-root", type=Path, required=True, help="folder that holds EgoGen/")
    made.add_argument("--out", type=Path, required=True, help="the .ckpt to write")
    made.add_argument("--dataset", default="ego4d", help="ego4d or epickitchen")
    made.add_argument("--resolution", type=int, default=48, help="side of the squashed frames, in pixels")
    made.add_argument("--vae-steps", type=int, default=350, help="optimiser steps of the autoencoder")
    made.add_argument("--text-steps", type=int, default=500, help="optimiser steps of the text encoder alone")
    made.add_argument(
        "--unet-steps", type=int, default=300, help="optimiser steps of the text-to-image model"
    )
    made.add_argument("--seed", type=int, default=0, help="seed of weights and batches")
    args = made.parse_args(argv)
    with hold(args.out, "building", wait=True):
        if is_made(args.out):
            log.info("%s is there already", args.out)
            return
        layout = Layout(args.data_root, args.dataset)
        frames, texts = read_world(layout, args.resolution)
        labels = read_labels(layout)
        log.info("train on %d frames of %s", 2 * len(texts), layout.frames("train"))
        torch.manual_seed(args.seed)
        parts = build(SHAPE, conditioner=False)
        pass_colours_through(parts.vae)
        standardize_latents(parts.vae, frames)
        train_decoder(parts.vae, frames, args.vae_steps)
        pass_noise_through(parts.unet)
        sources, targets = frames.split(len(texts))
        train_text_encoder(parts.text_encoder, targets - sources, texts, args.text_steps)
        close, captions = close_ups(layout, args.resolution, args.seed)
        train_unet(parts, targets, texts, labels, close, captions, args.unet_steps)
        write(args.out, published_state(parts, SHAPE), SHAPE)
        log.info("wrote %s", args.out)


def read_world(layout: Layout, resolution: int) -> tuple[Float[Tensor, "n2 3 r r"], list[str]]:
    """Source frames, then target frames, of the curated conversations; and their descriptions.

    Raises:
        UserError: there are no conversations, or a frame is missing.
    """
    records = read_conversations(layout.conversations)
    if not records:
        raise UserError(f"{layout.conversations}: holds no conversations; make a world with more pairs")
    folder = layout.frames("train")
    sources = [folder / (record.image or "") for record in records]
    targets = [folder / target_of(layout, record.image or "") for record in records]
    frames = torch.stack([to_model(read_frame(path), resolution) for path in [*sources, *targets]])
    return frames, [record.conversations[-1].value for record in records]


def read_labels(layout: Layout) -> list[str]:
    """The bare action labels of the curated conversations.

    Raises:
        UserError: a conversation's frame has no annotation.
    """
    items = Annotations.read(layout.annotations("train")).items
    labels = {item.action.image_0: item.action.text("action") or "" for item in items}
    images = [record.image or "" for record in read_conversations(layout.conversations)]
    for image in images:
        if image not in labels:
            raise UserError(f"{layout.annotations('train')}: no action begins with the frame {image!r}")
    return [labels[image] for image in images]


def train_decoder(vae: AutoencoderKL, frames: Float[Tensor, "n 3 r r"], steps: int) -> None:
    """Fits the decoder to give frames back from their latents: squared and absolute error."""
    latents = encode(vae, frames)

    def loss(rows: Tensor) -> Tensor:
        decoded = vae.decode(latents[rows]).sample
        return functional.mse_loss(decoded, frames[rows]) + 0.3 * functional.l1_loss(decoded, frames[rows])

    trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    optimize(trained, loss, len(frames), steps, batch=8, rate=2e-3, title="decoder")
    vae.requires_grad_(False).eval()


@torch.no_grad()
def encode(vae: AutoencoderKL, frames: Float[Tensor, "n 3 r r"]) -> Float[Tensor, "n 4 h w"]:
    """Latents of frames, not scaled."""
    return torch.cat([vae.encode(part).latent_dist.mean for part in frames.split(32)])


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
    optimize(trained, loss, len(texts), steps, batch=32, rate=1e-3, title="text encoder")
    encoder.requires_grad_(False).eval()  # from here on as it is, like CLIP


def train_unet(
    parts: Parts,
    targets: Float[Tensor, "n 3 r r"],
    texts: Sequence[str],
    labels: Sequence[str],
    close: Float[Tensor, "n 3 r r"],
    captions: Sequence[str],
    steps: int,
) -> None:
    """Fits the UNet to predict the noise in target frames and in close-ups of objects from their texts.

    Noisy timesteps weigh most: there the text alone tells where hands and objects are.

    Args:
        parts: their UNet is trained in place.
        targets: target frames.
        texts: descriptions of the actions.
        labels: labels of the actions.
        close: each action's object, large.
        captions: of the close-ups.
        steps: optimiser steps.
    """
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
        prompts = draw_prompts(rows, texts, labels, captions, near)
        predicted = parts.unet(noisy, t, embed(parts.text_encoder, tokenizer, prompts)).sample
        return (weight[t] * (predicted - noise).square().mean(dim=(1, 2, 3))).mean()

    optimize([*parts.unet.parameters()], loss, len(texts), steps, batch=16, rate=1e-3, title="text to image")


def add_noise(
    clean: Float[Tensor, "b 4 h w"], t: Int[Tensor, " b"], schedule: Mapping[str, Tensor]
) -> tuple[Float[Tensor, "b 4 h w"], Float[Tensor, "b 4 h w"]]:
    """Latents at their timesteps, and the noise in them."""
    noise = torch.randn_like(clean)
    keep, rest = schedule["sqrt_alphas_cumprod"][t], schedule["sqrt_one_minus_alphas_cumprod"][t]
    return keep[:, None, None, None] * clean + rest[:, None, None, None] * noise, noise


def draw_prompts(
    rows: Int[Tensor, " b"],
    texts: Sequence[str],
    labels: Sequence[str],
    captions: Sequence[str],
    close: Bool[Tensor, " b"],
) -> list[str]:
    """For each row its description or, now and then, its label; the caption of a close-up; or nothing."""
    prompts = []
    for row, share, is_close in zip(
        rows.tolist(), torch.rand(len(rows)).tolist(), close.tolist(), strict=True
    ):
        whole = labels if share < EMPTY_SHARE + LABEL_SHARE else texts
        prompts.append("" if share < EMPTY_SHARE else captions[row] if is_close else whole[row])
    return prompts


def optimize(
    parameters: Sequence[nn.Parameter],
    loss: Callable[[Tensor], Tensor],
    count: int,
    steps: int,
    *,
    batch: int,
    rate: float,
    title: str,
    clip: float | None = None,
    keep: Path | None = None,
) -> None:
    """AdamW with one cycle of the rate over random rows; shows loss and time.

    Args:
        parameters: what is trained, in place.
        loss: of some rows.
        count: number of rows.
        steps: optimiser steps.
        batch: rows of a step.
        rate: the highest learning rate.
        title: of the progress bar.
        clip: the largest norm of the gradient.
        keep: a file that holds the training every `KEEP_EVERY` steps, from which a stopped one goes on.
    """
    optimizer = AdamW(parameters, lr=rate, weight_decay=0.0)
    schedule = OneCycleLR(optimizer, rate, total_steps=max(steps, 2), pct_start=0.1)
    done = resume(keep, parameters, optimizer, schedule) if keep and is_made(keep) else 0
    began, smooth = time.monotonic(), 0.0
    bar = tqdm(range(done, steps), desc=title, unit="step", initial=done, total=steps)
    for step in bar:
        value = loss(torch.randint(0, count, (batch,)))
        optimizer.zero_grad()
        value.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        schedule.step()
        smooth += (value.item() - smooth) / min(step - done + 1, 50)
        bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
        if keep and (step + 1) % KEEP_EVERY == 0:
            save(keep, parameters, optimizer, schedule, step + 1)
    log.info("%s: loss %.4f after %d steps, %.0f s", title, smooth, steps, time.monotonic() - began)


def save(
    path: Path, parameters: Sequence[nn.Parameter], optimizer: AdamW, schedule: OneCycleLR, done: int
) -> None:
    """Keeps a training after some steps."""
    state = {
        "done": done,
        "parameters": [parameter.data for parameter in parameters],
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "random": torch.get_rng_state(),
    }
    with atomic_open(path) as file:
        torch.save(state, file)


def resume(path: Path, parameters: Sequence[nn.Parameter], optimizer: AdamW, schedule: OneCycleLR) -> int:
    """Takes up a kept training; returns the steps that are done.

    Raises:
        UserError: the file is of a training of another length or shape.
    """
    state = torch.load(path, weights_only=True)
    shapes = [value.shape for value in state["parameters"]]
    if (
        shapes != [own.shape for own in parameters]
        or state["schedule"]["total_steps"] != schedule.total_steps
    ):
        raise UserError(f"{path}: kept by a training with other settings; delete it to begin anew")
    for own, value in zip(parameters, state["parameters"], strict=True):
        own.data.copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    torch.set_rng_state(state["random"])
    log.info("%s: goes on after %d steps", path, state["done"])
    return int(state["done"])


if __name__ == "__main__":
    run(main)

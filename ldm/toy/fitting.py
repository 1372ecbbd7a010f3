"""What the toy's builders share: the curated pairs, and a training that can be stopped."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from diffusers import AutoencoderKL
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from transformers import CLIPTextModel

from egogen.annotations import Annotations
from egogen.conversations import read_conversations
from egogen.errors import UserError
from egogen.files import atomic_open
from egogen.frames import read_frame
from egogen.layout import Layout
from egogen.locks import hold
from egogen.progress import Progress
from ldm.checkpoints.safe_reading import is_made
from ldm.conditioner import embed
from ldm.networks.pixels import to_model
from ldm.networks.text import make_tokenizer
from ldm.toy.builder_options import BuilderOptions
from ldm.toy.crops import target_of

log = logging.getLogger(__name__)

# How often the text-to-image model is given the bare label, which says less: baselines are asked by it.
LABEL_SHARE = 0.2
EMPTY_SHARE = 0.1  # no text, for classifier-free guidance
KEEP_EVERY = 250  # steps

Options = TypeVar("Options", bound=BuilderOptions)


def build_once(options: Options, build: Callable[[Options], None]) -> None:
    """Lets one process at a time build a file; a finished one is left alone, a damaged one made anew."""
    with hold(options.out, "building", wait=True):
        if is_made(options.out):
            log.info("%s is there already", options.out)
            return
        build(options)
        log.info("wrote %s", options.out)


class World(NamedTuple):
    """The curated pairs: source frames, then target frames; what is done, in many words and in few."""

    frames: Float[Tensor, "n2 3 r r"]
    texts: list[str]
    labels: list[str]


def read_world(layout: Layout, resolution: int) -> World:
    """Reads the curated conversations, their frames and their labels.

    Raises:
        UserError: there are no conversations, or one's frame is missing or has no annotation.
    """
    records = read_conversations(layout.conversations)
    if not records:
        raise UserError(f"{layout.conversations}: holds no conversations; make a world with more pairs")
    items = Annotations.read(layout.annotations("train")).items
    labels = {item.action.image_0: item.action.text("action") or "" for item in items}
    images, folder = [record.image or "" for record in records], layout.frames("train")
    for image in images:
        if image not in labels:
            raise UserError(f"{layout.annotations('train')}: no action begins with the frame {image!r}")
    names = [*images, *(target_of(layout, image) for image in images)]
    frames = torch.stack([to_model(read_frame(folder / name), resolution) for name in names])
    texts = [record.conversations[-1].value for record in records]
    return World(frames, texts, [labels[image] for image in images])


@torch.no_grad()
def encode(vae: AutoencoderKL, frames: Float[Tensor, "n 3 r r"]) -> Float[Tensor, "n 4 h w"]:
    """Latents of frames, not scaled."""
    return torch.cat([vae.encode(part).latent_dist.mean for part in frames.split(32)])


def add_noise(
    clean: Float[Tensor, "b 4 h w"], t: Int[Tensor, " b"], schedule: Mapping[str, Tensor]
) -> tuple[Float[Tensor, "b 4 h w"], Float[Tensor, "b 4 h w"]]:
    """Latents at their timesteps, and the noise in them."""
    noise = torch.randn_like(clean)
    keep, rest = schedule["sqrt_alphas_cumprod"][t], schedule["sqrt_one_minus_alphas_cumprod"][t]
    return keep[:, None, None, None] * clean + rest[:, None, None, None] * noise, noise


def draw_prompts(
    rows: Int[Tensor, " b"], world: World, captions: Sequence[str], close: Bool[Tensor, " b"]
) -> list[str]:
    """For each row its description or, now and then, its label; the caption of a close-up; or nothing."""
    prompts = []
    for row, share, is_close in zip(
        rows.tolist(), torch.rand(len(rows)).tolist(), close.tolist(), strict=True
    ):
        whole = world.labels if share < EMPTY_SHARE + LABEL_SHARE else world.texts
        prompts.append("" if share < EMPTY_SHARE else captions[row] if is_close else whole[row])
    return prompts


class PromptBook:
    """What a frozen text encoder makes of every prompt that a training may draw, computed once.

    Args:
        encoder: the text encoder, on the CPU.
        world: whose texts and labels may be asked for, and the empty one.
        captions: further ones.
    """

    def __init__(self, encoder: CLIPTextModel, world: World, captions: Sequence[str]) -> None:
        known = sorted({"", *world.texts, *world.labels, *captions})
        tokenizer = make_tokenizer()
        self.places = {text: place for place, text in enumerate(known)}
        parts = [known[first : first + 64] for first in range(0, len(known), 64)]
        with torch.no_grad():
            self.states = torch.cat([embed(encoder, tokenizer, part) for part in parts])  # n 77 ctx

    def read(self, prompts: Sequence[str]) -> Float[Tensor, "b 77 ctx"]:
        """The prompts' embeddings."""
        return self.states[[self.places[prompt] for prompt in prompts]]


def optimize(
    optimizer: Adam,
    loss: Callable[[Tensor], Tensor],
    count: int,
    steps: int,
    *,
    batch: int,
    title: str,
    warmup: float = 0.1,
    clip: float | None = None,
    keep: Path | None = None,
    hold: bool = False,
) -> None:
    """Runs an optimiser with one cycle of its rate, or one that can be made longer; shows loss and time.

    A step has the loss of `batch` of `count` rows, at random. The rate rises for a share of the steps,
    `warmup`. `clip` is the largest norm of the gradient. A file `keep` holds the training every `KEEP_EVERY`
    steps and at its end; one that is stopped goes on from it. With `hold` the rate stays at its height until
    the last fifth, which the file does not follow: a training with more steps goes on from there.
    """
    (group,) = optimizer.param_groups
    schedule: LRScheduler = (
        LambdaLR(optimizer, partial(held_rate, steps=steps))
        if hold
        else OneCycleLR(optimizer, group["lr"], total_steps=max(steps, 2), pct_start=warmup)
    )
    done = resume(keep, optimizer, schedule, steps) if keep and is_made(keep) else 0
    last_kept = held_until(steps) if hold else steps
    began, smooth = time.monotonic(), 0.0
    bar = Progress(range(done, steps), desc=title, unit="step", initial=done, total=steps)
    for step in bar:
        value = loss(torch.randint(0, count, (batch,)))
        optimizer.zero_grad()
        value.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(group["params"], clip)
        optimizer.step()
        schedule.step()
        smooth += (value.item() - smooth) / min(step - done + 1, 50)
        bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
        if keep and step < last_kept and ((step + 1) % KEEP_EVERY == 0 or step + 1 == last_kept):
            save(keep, optimizer, schedule, step + 1)
    log.info("%s: loss %.4f after %d steps, %.0f s", title, smooth, steps, time.monotonic() - began)


def held_until(steps: int) -> int:
    """The step from which a held rate falls."""
    return steps - steps // 5


def held_rate(step: int, steps: int) -> float:
    """Share of the peak rate: it rises over 300 steps, stays, and falls to nothing over the last fifth."""
    until = held_until(steps)
    return min(1.0, (step + 1) / 300) * min(1.0, (steps - step) / max(steps - until, 1))


def save(path: Path, optimizer: Adam, schedule: LRScheduler, done: int) -> None:
    """Keeps a training after some steps."""
    state = {
        "done": done,
        "parameters": [parameter.data for parameter in optimizer.param_groups[0]["params"]],
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "random": torch.get_rng_state(),
    }
    with atomic_open(path) as file:
        torch.save(state, file)


def resume(path: Path, optimizer: Adam, schedule: LRScheduler, steps: int) -> int:
    """Takes up a kept training, of `steps` in all; returns the steps that are done.

    Raises:
        UserError: the file is of a training of another length or shape.
    """
    state, parameters = torch.load(path, weights_only=True), optimizer.param_groups[0]["params"]
    same = [value.shape for value in state["parameters"]] == [own.shape for own in parameters]
    length = getattr(schedule, "total_steps", None)  # None: a rate that is held
    fits = length is not None or state["done"] <= held_until(steps)
    if not same or not fits or state["schedule"].get("total_steps") != length:
        raise UserError(f"{path}: kept by a training with other settings; delete it to begin anew")
    for own, value in zip(parameters, state["parameters"], strict=True):
        own.data.copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    torch.set_rng_state(state["random"])
    log.info("%s: goes on after %d steps", path, state["done"])
    return int(state["done"])

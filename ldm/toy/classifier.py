"""Trains a small classifier of toy frames, whose features `toy_fid` and `toy_similarity` compare frames in.

It tells verb, acting hand, object and colour of the event from the target frame alone, minutes on a CPU. Its
features know nothing but the toy world: their distances are no FID and no CLIP similarity.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from egogen.annotations import Annotations, ClipMetadata, read_metadata
from egogen.cli import parser, run
from egogen.errors import UserError
from egogen.files import atomic_open
from egogen.frames import read_frame
from egogen.layout import Layout, Split
from ldm.checkpoints.safe_reading import is_made
from ldm.metrics.networks.toy_classifier import FACTS, SIDE, ToyClassifier
from ldm.networks.devices import HELP, find_device
from ldm.networks.pixels import to_model

log = logging.getLogger(__name__)

BATCH, RATE, SHIFT = 32, 2e-3, 3


def main(argv: Sequence[str] | None = None) -> None:
    """Reads target frames and metadata, trains, writes the file; a finished file is left alone."""
    made = parser("python -m ldm.toy.classifier", __doc__)
    made.add_argument("--data-root", type=Path, required=True, help="folder that holds EgoGen/")
    made.add_argument("--out", type=Path, required=True, help="the .safetensors to write")
    made.add_argument("--dataset", default="ego4d", help="ego4d or epickitchen")
    made.add_argument("--steps", type=int, default=3000, help="optimiser steps")
    made.add_argument("--seed", type=int, default=0, help="seed of weights and batches")
    made.add_argument("--device", default="auto", help=HELP)
    args = made.parse_args(argv)
    if is_made(args.out):
        log.info("%s is there already", args.out)
        return
    device = find_device(args.device)
    layout = Layout(args.data_root, args.dataset)
    metadata = read_metadata(layout.metadata)
    names = {
        fact: sorted({str(facts_of(clip, layout)[fact]) for clip in metadata.values()}) for fact in FACTS
    }
    torch.manual_seed(args.seed)
    network = ToyClassifier({fact: len(values) for fact, values in names.items()}).to(device)
    train(network, *read_split(layout, "train", metadata, names), args.steps)
    network.eval()
    right = accuracy(network, *read_split(layout, "val", metadata, names))
    log.info("right in val: %s", ", ".join(f"{fact} {share:.1%}" for fact, share in right.items()))
    with atomic_open(args.out) as file:
        file.write(safetensors.torch.save(network.state_dict()))
    log.info("wrote %s", args.out)


def facts_of(clip: ClipMetadata, layout: Layout) -> Mapping[str, Any]:
    """What the metadata say of a clip.

    Raises:
        UserError: it is no toy clip.
    """
    facts = clip.model_extra or {}
    if any(fact not in facts for fact in FACTS):
        raise UserError(f"{layout.metadata}: clips without {', '.join(FACTS)}; the data are no toy world")
    return facts


def read_split(
    layout: Layout, split: Split, metadata: Mapping[str, ClipMetadata], names: Mapping[str, list[str]]
) -> tuple[Float[Tensor, "n 3 s s"], dict[str, Int[Tensor, " n"]]]:
    """Target frames in [0, 1], squashed, and the number of each fact's value."""
    items = Annotations.read(layout.annotations(split)).items
    folder = layout.frames(split)
    frames = torch.stack([to_model(read_frame(folder / item.action.image_1), SIDE) for item in items])
    facts = [facts_of(metadata[item.clip], layout) for item in items]
    labels = {
        fact: torch.tensor([values.index(str(each[fact])) for each in facts])
        for fact, values in names.items()
    }
    return (frames + 1) / 2, labels


def loss_of(
    logits: Mapping[str, Float[Tensor, "b n"]], labels: Mapping[str, Int[Tensor, " b"]]
) -> Float[Tensor, ""]:
    """Sum of the facts' cross-entropies."""
    losses = [functional.cross_entropy(logits[fact], labels[fact]) for fact in labels]
    return torch.stack(losses).sum()


def train(
    network: ToyClassifier,
    frames: Float[Tensor, "n 3 s s"],
    labels: Mapping[str, Int[Tensor, " n"]],
    steps: int,
) -> None:
    """Fits the classifier to frames that are shifted by a few pixels at random."""
    device = next(network.parameters()).device
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=max(steps, 2))
    began, value = time.monotonic(), torch.zeros(())
    for _ in tqdm(range(steps), desc="classifier", unit="step"):
        rows = torch.randint(0, len(frames), (BATCH,))
        down, right = torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist()
        batch = frames[rows].roll((down, right), (2, 3)).to(device)
        value = loss_of(network(batch), {fact: numbers[rows].to(device) for fact, numbers in labels.items()})
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    log.info("classifier: loss %.3f after %d steps, %.0f s", value.item(), steps, time.monotonic() - began)


@torch.no_grad()
def accuracy(
    network: ToyClassifier, frames: Float[Tensor, "n 3 s s"], labels: Mapping[str, Int[Tensor, " n"]]
) -> dict[str, float]:
    """Share of frames in which each fact is told rightly."""
    device = next(network.parameters()).device
    found = [network(part.to(device)) for part in frames.split(128)]
    return {
        fact: float(torch.cat([logits[fact].argmax(1).cpu() for logits in found]).eq(numbers).float().mean())
        for fact, numbers in labels.items()
    }


if __name__ == "__main__":
    run(main)

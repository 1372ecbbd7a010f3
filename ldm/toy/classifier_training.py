"""The work of `python -m ldm.toy.classifier`; the command tells what it is for."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import safetensors.torch
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from torch.optim import AdamW

from egogen.annotations import Annotations, ClipMetadata, read_metadata
from egogen.errors import UserError
from egogen.files import atomic_open
from egogen.frames import read_frame
from egogen.layout import Layout, Split
from ldm.metrics.networks.toy_classifier import FACTS, SIDE, ToyClassifier
from ldm.networks.devices import find_device
from ldm.networks.pixels import to_model
from ldm.toy.builder_options import ClassifierOptions
from ldm.toy.fitting import optimize

log = logging.getLogger(__name__)

SHIFT = 3  # pixels


def build_classifier(options: ClassifierOptions) -> None:
    """Trains on the train split, tells how much of val it gets right, and writes."""
    device, layout = find_device(options.device), options.layout
    metadata = read_metadata(layout.metadata)
    names = {
        fact: sorted({str(facts_of(clip, layout)[fact]) for clip in metadata.values()}) for fact in FACTS
    }
    torch.manual_seed(options.seed)
    network = ToyClassifier({fact: len(values) for fact, values in names.items()}).to(device)
    train(network, *read_split(layout, "train", metadata, names), options.steps)
    network.eval()
    right = accuracy(network, *read_split(layout, "val", metadata, names))
    log.info("right in val: %s", ", ".join(f"{fact} {share:.1%}" for fact, share in right.items()))
    with atomic_open(options.out) as file:
        file.write(safetensors.torch.save(network.state_dict()))


def facts_of(clip: ClipMetadata, layout: Layout) -> Mapping[str, object]:
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


def train(
    network: ToyClassifier,
    frames: Float[Tensor, "n 3 s s"],
    labels: Mapping[str, Int[Tensor, " n"]],
    steps: int,
) -> None:
    """Fits the classifier to frames that are shifted by a few pixels at random."""
    device = next(network.parameters()).device

    def loss(rows: Tensor) -> Tensor:
        down, right = torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist()
        logits = network(frames[rows].roll((down, right), (2, 3)).to(device))
        losses = [
            functional.cross_entropy(logits[fact], numbers[rows].to(device))
            for fact, numbers in labels.items()
        ]
        return torch.stack(losses).sum()

    optimizer = AdamW(network.parameters(), 2e-3, weight_decay=0.01)
    optimize(optimizer, loss, len(frames), steps, batch=32, title="classifier", warmup=0.3)


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

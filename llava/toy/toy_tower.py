"""Pre-trains the toy CLIP: each patch learns to tell in words what it shows, in which colour and where.

CLIP's own pre-training needs millions of captions; dense labels of drawn scenes do in half a minute.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from egogen.clip_pixels import FEATURE_LAYER
from llava.checkpoints.config_json import patches_across
from llava.toy.toy_frames import SIDES, SUBJECTS, Targets

log = logging.getLogger(__name__)

BATCH = 32
PEAK_RATE = 2e-3
KIND_WEIGHT = 3.0
LENGTH_WEIGHT = 0.02
SHARPNESS = 8.0  # of words' scores: embeddings have length 1


def toy_vision_config() -> CLIPVisionConfig:
    """64 x 64 pixels, 256 patches of 4 x 4."""
    return CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=64,
        patch_size=4,
        projection_dim=64,
    )


def place_waves(across: int, width: int) -> Float[Tensor, "p width"]:
    """Sines and cosines of a patch's row and column: nearness need not be learnt."""
    frequencies = torch.pi * torch.logspace(0, 3, width // 4, base=2)
    angles = torch.linspace(-0.5, 0.5, across)[:, None] * frequencies  # [across, width / 4]
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1)  # [across, width / 2]
    rows, columns = waves.repeat_interleave(across, dim=0), waves.repeat(across, 1)
    return torch.cat([rows, columns], dim=-1)


class PatchReader(nn.Module):
    """Reads what each patch shows from CLIP's last layer but one, as words: this aligns CLIP with LLaMA.

    A patch's projected feature scores a word by its dot product with the word's embedding. Projector and
    embeddings are where LLaVA's training starts from. `words` are token ids, for each group of facts.
    """

    def __init__(
        self, vision: CLIPVisionModel, words: Sequence[Sequence[int]], vocabulary: int, width: int
    ) -> None:
        super().__init__()
        self.vision = vision
        self.words = [torch.tensor(group) for group in words]
        self.projector = nn.Linear(vision.config.hidden_size, width)
        self.embeddings = nn.Embedding(vocabulary, width)
        # Features must not be longer than words are, or LLaMA sees little but their common part.
        nn.init.normal_(self.embeddings.weight, std=width**-0.5)
        nn.init.normal_(self.projector.weight, std=0.01)
        self.sides = nn.Linear(vision.config.hidden_size, len(SIDES))
        places = vision.embeddings.position_embedding.weight
        with torch.no_grad():
            places[1:] = 0.1 * place_waves(patches_across(vision.config), places.shape[1])

    def forward(
        self, pixels: Float[Tensor, "b 3 h w"]
    ) -> tuple[list[Float[Tensor, "b p _"]], Float[Tensor, ""]]:
        """Logits of each group of facts (its absence scores 0), and the features' mean square length.

        The last group is the nearest hand. "left" and "right" are words of columns already: it is read apart.
        """
        states = self.vision(pixels, output_hidden_states=True).hidden_states[FEATURE_LAYER][:, 1:]
        projected = self.projector(states)  # [b, p, width]
        none = projected.new_zeros(*projected.shape[:2], 1)
        scores = [SHARPNESS * projected @ self.embeddings.weight[ids].T for ids in self.words]
        read = [torch.cat([none, score], dim=-1) for score in scores]
        return [*read, self.sides(states)], projected.square().sum(dim=-1).mean()


def schedule(seconds: float, steps: int) -> Iterator[float]:
    """Rates relative to the peak (short warm-up, then cosine to a tenth) until time or steps are over."""
    start, step, done = time.monotonic(), 0, 0.0
    while done < 1:
        yield min(1.0, (step + 1) / 20) * (0.55 + 0.45 * math.cos(math.pi * done))
        step += 1
        done = max(step / steps, (time.monotonic() - start) / seconds)


def train_vision(
    reader: PatchReader, pixels: Float[Tensor, "n 3 h w"], targets: Targets, seconds: float, steps: int
) -> None:
    """Trains tower, projector and embeddings in place, for so long or so many batches at most."""
    optimizer = torch.optim.AdamW(reader.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    # Kinds are told by shape, which is learnt last; most patches show nothing.
    balance = torch.tensor([0.3] + [3.0] * (len(SUBJECTS) - 1))
    for step, rate in enumerate(schedule(seconds, steps)):
        optimizer.param_groups[0]["lr"] = PEAK_RATE * rate
        chosen = torch.randint(len(pixels), (BATCH,))
        logits, length = reader(pixels[chosen])
        truths = [truth[chosen].flatten() for truth in targets]
        kinds, *others = [part.flatten(0, 1) for part in logits]
        loss = LENGTH_WEIGHT * length + KIND_WEIGHT * nn.functional.cross_entropy(
            kinds, truths[0], weight=balance
        )
        for part, truth in zip(others, truths[1:], strict=True):
            loss = loss + nn.functional.cross_entropy(part, truth)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            log.info("toy CLIP: step %d, loss %.3f, %s", step, loss.item(), accuracy(logits, targets, chosen))


def accuracy(logits: Sequence[Float[Tensor, "b p _"]], targets: Targets, chosen: Tensor) -> str:
    """The share of patches that show something and are read rightly, for the log."""
    seen = targets.subject[chosen] > 0
    shares = [
        f"{name} {(part.argmax(-1) == truth[chosen])[seen].float().mean().item():.0%}"
        for name, part, truth in zip(targets._fields, logits, targets, strict=True)
    ]
    return f"right: {', '.join(shares)}"

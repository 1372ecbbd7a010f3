"""Weight files in the published formats, whose values follow from their names as in the recorded networks."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ldm.metrics.networks import metric_weights as files

ORACLE = Path(__file__).parents[2] / "oracle" / "metrics"
EMBEDDINGS = (
    "pos_embed", "temporal_embed", "cls_token", "positional_embedding", "class_embedding",
    "position_embeddings.weight", "word_embeddings.weight", "token_type_embeddings.weight",
    "token_embedding.weight",
)  # fmt: skip
VOCABULARY = 30522


def normal(name: str, shape: list[int] | tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers that follow from a name."""
    draws = np.random.default_rng([zlib.crc32(name.encode()), 0]).standard_normal(shape)
    return draws.astype(np.float32)


def weight(name: str, shape: list[int]) -> Tensor:
    """A weight by the recorded recipe."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith("position_ids"):
        return torch.arange(shape[-1]).expand(shape).clone()
    x = normal(name, shape)
    if name.endswith("running_var"):
        x = 1 + 0.2 * np.abs(x)
    elif name.endswith("running_mean"):
        x = 0.1 * x
    elif name.endswith(EMBEDDINGS):
        x = 0.5 * x
    elif len(shape) <= 1:
        x = 1 + 0.1 * x if name.endswith("weight") else 0.05 * x
    else:
        x = x * np.float32(((2.0 if len(shape) == 4 else 1.0) / int(np.prod(shape[1:]))) ** 0.5)
    return torch.from_numpy(np.asarray(x, np.float32))


def shapes(network: str, size: str = "tiny") -> dict[str, list[int]]:
    """Names and shapes of a network's weights."""
    found = json.loads(gzip.decompress((ORACLE / f"{size}_keys.json.gz").read_bytes()))[network]
    return dict(found)


def state(network: str) -> dict[str, Tensor]:
    """The weights of a recorded network."""
    return {name: weight(name, shape) for name, shape in shapes(network).items()}


def egovlp(positions: int = 16) -> dict[str, Tensor]:
    """EgoVLP with as many positions in time, in a file's form."""
    found = state("egovlp")
    name = "video_model.temporal_embed"
    found[name] = weight(name, [1, positions, found[name].shape[2]])
    return {f"module.{name}": value for name, value in found.items()}


def blip(vocabulary: int | None = None) -> dict[str, Tensor]:
    """BLIP, whose output layer is tied and favours the end token as recorded.

    Args:
        vocabulary: number of words; the recorded one has those of BERT and two more.
    """
    made = shapes("blip")
    words = "text_decoder.bert.embeddings.word_embeddings.weight"
    if vocabulary is not None:
        made = {
            name: [vocabulary if length == VOCABULARY + 2 else length for length in shape]
            for name, shape in made.items()
        }
    found = {name: weight(name, shape) for name, shape in made.items()}
    raised = json.loads((ORACLE / "blip_tiny.json").read_text())["sep_bias_added"]
    bias = found["text_decoder.cls.predictions.bias"]
    bias[102] += raised
    found["text_decoder.cls.predictions.decoder.bias"] = bias
    found["text_decoder.cls.predictions.decoder.weight"] = found[words]
    return found


def write_vocabulary(path: Path, size: int = VOCABULARY, words: dict[str, int] | None = None) -> Path:
    """Writes a vocabulary with BERT's ids for some words, and fillers."""
    lines = [f"[filler{index}]" for index in range(size)]
    for word, index in (words or json.loads((ORACLE / "words.json").read_text())).items():
        if index < size:
            lines[index] = word
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def small_vocabulary() -> dict[str, int]:
    """Words with ids below 2,048, which is all that the recorded text tower knows."""
    special = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
    words = [
        "a",
        "picture",
        "of",
        "up",
        "the",
        "pick",
        "cut",
        "open",
        "hand",
        "box",
        "carrot",
        "knife",
        "table",
        "#",
    ]
    return special | {word: 1000 + index for index, word in enumerate(words)}


def write_all(root: Path) -> Path:
    """Writes every file that the metrics of the table need, at toy size, in a folder."""
    root.mkdir(parents=True, exist_ok=True)
    for file in files.EGOVLP.values():
        torch.save({"state_dict": egovlp(), "epoch": 1}, root / file.name)
    torch.save(state("clip"), root / files.CLIP.name)
    torch.save(state("inception"), root / files.INCEPTION.name)
    backbones = {"squeeze": "squeezenet1_1", "vgg": "vgg16", "alex": "alexnet"}
    for net, network in backbones.items():
        torch.save({**state(network), "classifier.1.weight": torch.zeros(2)}, root / files.LPIPS[net].name)
    for file in files.BLIP.values():
        torch.save({"model": blip(2050)}, root / file.name)
    write_vocabulary(root / "distilbert-base-uncased" / files.VOCABULARY.name, 2048, small_vocabulary())
    return root

"""The flags of `python -m llava.describe`; the first ten are the reference's."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from egogen.cli import flag
from egogen.errors import shorten
from egogen.features.store_names import ROW_TYPES, STORES, RowType, Store
from egogen.layout import DESCRIPTION_KEY
from egogen.seeds import read_seed
from egogen.shards import SHARD, parse_auto
from llava.question.labels import CUTS, QUESTION, Cut, check_query
from llava.question.lemmas import LEMMAS, Lemmas

Setting = Literal["forecast", "description"]


def batch_size(text: str) -> int | None:
    """Reads `--batch-size`; None stands for `auto`."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"found {text}, expected at least 1, or auto")
    return int(text)


MOST = 1_000_000  # tokens of an answer, chunks: beyond it a number is a slip


@dataclass(frozen=True)
class DescribeOptions:
    """What is described, by which model and in which words; where texts and features go; how it is drawn."""

    model_path: Path = flag("checkpoint folder, published or Hugging Face format", type=Path, required=True)
    image_dir: Path = flag(
        "folder that image_0 and image_1 are relative to, or of tar files (egogen.pack)", type=Path,
        required=True,
    )  # fmt: skip
    action_label: Path = flag("annotation file with the actions", type=Path, required=True)
    query: str = flag("the question; {} stands for the action", default=QUESTION)
    save_path: Path = flag("folder for the descriptions", type=Path, required=True)
    save_image_feature_path: Path = flag("folder for image features", type=Path, required=True)
    save_text_feature_path: Path = flag("folder for text features", type=Path, required=True)
    feature_store: Store = flag(
        "npy: a file a feature, as published; compact: CLIP's patches and text rows in shards; "
        "online: text rows, and what computes image features from frames", choices=STORES, default="npy",
    )  # fmt: skip
    text_type: RowType = flag("of text rows in shards", choices=ROW_TYPES, default="float16")
    texts: Path | None = flag(
        "features of these texts, one for each action, by one pass; nothing is generated. An annotation file "
        f"with {DESCRIPTION_KEY}, or JSON clip -> action -> text or description", type=Path,
    )  # fmt: skip
    seed: int = flag("draws depend on it and on the action's id", type=read_seed, default=42)
    seeds: Path | None = flag(
        "JSON clip -> action -> the whole seed of its draws, in place of --seed and the action's id",
        type=Path,
    )
    num_chunks: int = flag("the published split of clips into contiguous chunks", type=int, default=1)
    chunk_idx: int = flag("which chunk, counted from 1", type=int, default=1)
    shard: str | None = flag(f"instead of chunks, {SHARD}", metavar="I/N|auto")
    batch_size: int | None = flag(
        "frames at a time; changes no result [auto: what fits the GPU; 64 on a CPU]", type=batch_size,
        metavar="N|auto",
    )  # fmt: skip
    setting: Setting = flag("describe image_0 or image_1", choices=get_args(Setting), default="forecast")
    dataset: str | None = flag("label style; default: from the file's name", choices=["ego4d", "epickitchen"])
    label_cut: Cut = flag(
        "Ego4D labels: drop the first characters as published, or a tag and the wearer's letter",
        choices=CUTS, default="published",
    )  # fmt: skip
    lemmas: Lemmas = flag("Ego4D labels: whose base forms of verbs", choices=LEMMAS, default="lemminflect")
    temperature: float = flag("of the draws, above 0", type=float, default=0.2)
    top_k: int = flag("tokens drawn from", type=int, default=50)
    greedy: bool = flag("take the likeliest token instead of drawing", action="store_true")
    max_new_tokens: int = flag("longest answer", type=int, default=1024)
    vision_tower: Path | None = flag("CLIP folder to use instead of the checkpoint's", type=Path)
    device: str = flag("auto, cpu, cuda or cuda:N", default="auto")
    dtype: str | None = flag(
        "of weights and features; auto: bfloat16 where the GPU or, by AMX, the CPU has it, else float32 "
        "[float16 on a GPU, float32 on the CPU]", choices=["auto", "float16", "bfloat16", "float32"],
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "top_k", "num_chunks"):
            if not 1 <= getattr(self, name) <= MOST:
                raise ArgumentTypeError(
                    f"--{name.replace('_', '-')}: found {shorten(getattr(self, name))}, expected at least 1 "
                    f"and at most {MOST}"
                )
        if parse_auto(self.shard) is not None and self.num_chunks > 1:
            raise ArgumentTypeError("--shard auto: not with --num-chunks; its shards are of the whole split")
        if not 0 < self.temperature < math.inf:
            raise ArgumentTypeError(
                f"--temperature: found {self.temperature}, expected a number above 0; --greedy draws nothing"
            )
        usual = type(self).__dataclass_fields__
        for name in ("temperature", "top_k"):
            if self.greedy and getattr(self, name) != usual[name].default_factory():  # type: ignore[operator]
                raise ArgumentTypeError(
                    f"--{name.replace('_', '-')}: not used with --greedy, which draws nothing"
                )
        check_query(self.query)

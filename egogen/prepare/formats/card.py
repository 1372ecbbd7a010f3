"""The dataset card (README.md) of a folder of exports: what the hub and `load_dataset` read first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Any

from huggingface_hub import DatasetCardData

from egogen.files import atomic_open
from egogen.layout import FOLDERS, sample_index
from egogen.prepare.formats.parquet_rows import rows_of
from egogen.published import SPLITS
from egogen.sample_shards import SampleShards

# The hub's size classes: up to this many samples.
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
IMAGES = ("input_image", "edited_image")
COLUMNS = ("input_image", "edit_prompt", "edited_image", "clip_id", "action_id", "action", "description")
PARQUET_WORDS = """| column | type | what |
|---|---|---|
| `input_image` | image | the frame before the action |
| `edit_prompt` | string | what to draw: the description or the label |
| `edited_image` | image | the frame of the action |
| `clip_id`, `action_id` | string | which action it is |
| `action` | string | the label: `#C C cuts the carrot` in Ego4D, `cut carrot` in EPIC-KITCHENS |
| `description` | string or null | a language model's description |

```python
from datasets import load_dataset

pairs = load_dataset("path/to/this/folder", "$first", split="$split")
print(pairs[0]["edit_prompt"], pairs[0]["input_image"].size, pairs[0]["edited_image"].size)
```

diffusers' InstructPix2Pix training reads these columns by default. The JSON files in `EgoGen/` are for
`python -m egogen.prepare from-hf`, which makes the EgoGen layout of this folder again."""
SHARDS_WORDS = """| member | type | what |
|---|---|---|
| `KEY.input.jpg` | image | the frame before the action |
| `KEY.target.jpg` | image | the frame of the action |
| `KEY.json` | object | the action's entry in the annotations, and `clip_id`, `action_id`, `description` |

```python
import webdataset

shard = "path/to/this/folder/$first-$split-000000.tar"
pair = next(iter(webdataset.WebDataset(shard, shardshuffle=False).decode("pil")))
print(pair["json"]["action"], pair["input.jpg"].size, pair["target.jpg"].size)
```

The tar files are not compressed; `$first-$split.index.json` lists them with their SHA-256. Stage 2 trains
from them where they are: `python main.py ... data.webdataset=path/to/this/folder`."""
CARD = Template("""---
$front
---

# EgoGen: egocentric action frames

Pairs of frames of first-person videos: the view before an action and the frame of that action, with the
action's label and, where there is one, a description of how it is done. The layout is that of *LEGO: Learning
EGOcentric Action Frame Generation via Visual Instruction Tuning*
(ECCV 2024, [arXiv 2312.03849](https://arxiv.org/abs/2312.03849)).

| subset | split | actions | clips | frames |
|---|---|---|---|---|
$rows

$words

## Licence

Frames have the licence of the videos that they are from: Ego4D needs a
[signed agreement](https://ego4ddataset.com/ego4d-license/), EPIC-KITCHENS-100 is
[CC BY-NC 4.0](https://creativecommons.org/licenses/by-nc/4.0/). Do not share this folder with people who
have not accepted them.
""")


@dataclass
class Counted:
    """A split in the folder: its files, and how much they hold."""

    dataset: str
    split: str
    files: str  # a pattern
    actions: int = 0
    size: int = 0
    clips: set[str] = field(default_factory=set)
    frames: set[str] = field(default_factory=set)

    def add(self, clips: Iterable[str], frames: Iterable[str]) -> None:
        """Counts further actions."""
        self.clips.update(clips)
        self.frames.update(frames)

    @property
    def row(self) -> str:
        """Its line of the card's table."""
        counts = self.actions, len(self.clips), len(self.frames)
        return f"| {self.dataset} | {self.split} | {' | '.join(map(str, counts))} |"


def write_card(out: Path) -> None:
    """Writes the card of all splits that a folder holds, as Parquet or else as WebDataset."""
    parquet = list(parquet_splits(out))
    splits = parquet or list(shard_splits(out))
    words = Template(PARQUET_WORDS if parquet else SHARDS_WORDS)
    first = splits[0]
    text = CARD.substitute(
        front=front(splits, columns=bool(parquet)).to_yaml(),
        rows="\n".join(split.row for split in splits),
        words=words.substitute(first=first.dataset, split=first.split),
    )
    with atomic_open(out / "README.md") as file:
        file.write(text.encode())


def parquet_splits(out: Path) -> Iterator[Counted]:
    """What the Parquet files in `out/data` hold."""
    for dataset, split in places():
        paths = sorted((out / "data").glob(f"{dataset}-{split}-*.parquet"))
        found = Counted(dataset, split, f"data/{dataset}-{split}-*.parquet")
        for path in paths:
            found.size += path.stat().st_size
            for row in rows_of(path, ["clip_id", *(f"{name}.path" for name in IMAGES)]):
                found.actions += 1
                found.add([row["clip_id"]], [row[name]["path"] for name in IMAGES])
        if paths:
            yield found


def shard_splits(out: Path) -> Iterator[Counted]:
    """What the tar files in `out` hold."""
    for dataset, split in places():
        if sample_index(out, dataset, split).exists():
            shards = SampleShards(out, dataset, split)
            size = sum(shard.bytes for shard in shards.index.shards)
            found = Counted(dataset, split, f"{dataset}-{split}-*.tar", len(shards.annotations), size)
            found.add(shards.annotations.raw, shards.names)
            yield found


def places() -> Iterator[tuple[str, str]]:
    """The splits of all data sets, in order."""
    return ((dataset, split) for dataset in FOLDERS for split in SPLITS)


def front(splits: list[Counted], columns: bool) -> DatasetCardData:
    """The card's head; `columns` says that the files are tables, whose columns and sizes are told too."""
    subsets = {name: list(members) for name, members in groupby(splits, lambda each: each.dataset)}
    total = sum(split.actions for split in splits)
    first = splits[0].dataset
    configs = [
        {
            "config_name": name,
            "data_files": [{"split": each.split, "path": each.files} for each in members],
            **({"default": True} if name == first else {}),
        }
        for name, members in subsets.items()
    ]
    tables: dict[str, Any] = (
        {"dataset_info": [table_info(*each) for each in subsets.items()]} if columns else {}
    )
    return DatasetCardData(
        pretty_name="EgoGen",
        license="other",
        license_name="ego4d-and-epic-kitchens-100",
        license_link="https://ego4ddataset.com/ego4d-license/",
        language=["en"],
        task_categories=["image-to-image", "text-to-image"],
        tags=["egocentric", "action-frame-generation", "instruct-pix2pix"],
        size_categories=[next((name for size, name in SIZES.items() if total <= size), "1M<n<10M")],
        configs=configs,
        **tables,
    )


def table_info(name: str, splits: list[Counted]) -> dict[str, Any]:
    """Columns and sizes of a subset, as `datasets` writes and checks them."""
    size = sum(each.size for each in splits)
    return {
        "config_name": name,
        "features": [
            {"name": column, "dtype": "image" if column in IMAGES else "string"} for column in COLUMNS
        ],
        "splits": [
            {"name": each.split, "num_bytes": each.size, "num_examples": each.actions} for each in splits
        ],
        "download_size": size,
        "dataset_size": size,
    }

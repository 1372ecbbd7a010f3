"""The dataset card (README.md) of a folder of Parquet files: what the hub and `load_dataset` read first."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from string import Template

import pyarrow.parquet as pq
import yaml

from egogen.files import atomic_open

# The hub's size classes: up to this many samples.
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}

CARD = Template("""---
$front---

# EgoGen: egocentric action frames

Pairs of frames of first-person videos: the view before an action and the frame of that action, with the
action's label and, where there is one, a description of how it is done. The layout is that of *LEGO: Learning
EGOcentric Action Frame Generation via Visual Instruction Tuning*
(ECCV 2024, [arXiv 2312.03849](https://arxiv.org/abs/2312.03849)).

| subset | split | samples |
|---|---|---|
$rows

| column | what |
|---|---|
| `input_image` | the frame before the action |
| `edit_prompt` | what to draw: the description or the label |
| `edited_image` | the frame of the action |
| `clip_id`, `action_id` | which action it is |
| `action` | the label: `#C C cuts the carrot` in Ego4D, `cut carrot` in EPIC-KITCHENS |
| `description` | a language model's description, or null |

```python
from datasets import load_dataset

pairs = load_dataset("path/to/this/folder", "$first")
```

diffusers' InstructPix2Pix training reads these columns by default. The JSON files in `EgoGen/` are for
`python -m egogen.prepare from-hf`, which makes the EgoGen layout of this folder again.

## Licence

Frames have the licence of the videos that they are from: Ego4D needs a
[signed agreement](https://ego4ddataset.com/ego4d-license/), EPIC-KITCHENS-100 is
[CC BY-NC 4.0](https://creativecommons.org/licenses/by-nc/4.0/). Do not share this folder with people who
have not accepted them.
""")


def write_card(out: Path) -> None:
    """Writes the card of all Parquet files in `out/data`."""
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for path in sorted((out / "data").glob("*-*-*.parquet")):
        dataset, split, _ = path.name.split("-", 2)
        counts[dataset][split] = counts[dataset].get(split, 0) + pq.read_metadata(path).num_rows
    parts = [(dataset, split, n) for dataset, splits in counts.items() for split, n in splits.items()]
    rows = [f"| {dataset} | {split} | {n} |" for dataset, split, n in parts]
    total = sum(n for *_, n in parts)
    front = {
        "pretty_name": "EgoGen",
        "license": "other",
        "license_name": "ego4d-and-epic-kitchens-100",
        "license_link": "https://ego4ddataset.com/ego4d-license/",
        "language": ["en"],
        "task_categories": ["image-to-image", "text-to-image"],
        "tags": ["egocentric", "action-frame-generation", "instruct-pix2pix"],
        "size_categories": [next((name for size, name in SIZES.items() if total <= size), "1M<n<10M")],
        "configs": [
            {
                "config_name": dataset,
                "data_files": [
                    {"split": split, "path": f"data/{dataset}-{split}-*.parquet"} for split in splits
                ],
                **({"default": True} if dataset == next(iter(counts)) else {}),
            }
            for dataset, splits in counts.items()
        ],
    }
    text = CARD.substitute(
        front=yaml.safe_dump(front, sort_keys=False), rows="\n".join(rows), first=next(iter(counts))
    )
    with atomic_open(out / "README.md") as file:
        file.write(text.encode())

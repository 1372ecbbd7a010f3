"""Tells shell scripts where things are: a line NAME=path for each path of a split, by `egogen.layout`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from egogen import cli
from egogen.cli import flag
from egogen.layout import (
    Layout,
    Split,
    data_root,
    descriptions,
    features_root,
    merged_annotations,
    run_features,
    tuned_vllm,
)


@dataclass(frozen=True)
class Asked:
    """Whose paths."""

    dataset: str = flag("ego4d or epickitchen", positional=True)
    split: Split = flag("of the frames", positional=True, choices=get_args(Split))


def paths(dataset: str, split: Split) -> dict[str, Path]:
    """All that a script may need, below `DATA_ROOT` and `RUN_ROOT`.

    Raises:
        UserError: the data set has another name.
    """
    layout = Layout(data_root(), dataset)
    return {
        "FRAMES": layout.frames(split),
        "ANNOTATIONS": layout.annotations(split),
        "METADATA": layout.metadata,
        "METRIC_TARGETS": layout.metric_targets,
        "CONVERSATIONS": layout.conversations,
        "VLLM": tuned_vllm(dataset),
        "DESCRIPTIONS": descriptions(dataset, split),
        "DESCRIBED": merged_annotations(dataset, split),
        "IMAGE_FEATURES": features_root(run_features(), dataset, split, "llava_image"),
        "TEXT_FEATURES": features_root(run_features(), dataset, split, "llava_text"),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the lines, quoted for a shell."""
    asked = cli.options(Asked, argv, "python -m egogen.paths", __doc__)
    for name, path in paths(asked.dataset, asked.split).items():
        sys.stdout.write(f"{name}={shlex.quote(str(path))}\n")


if __name__ == "__main__":
    cli.run(main)

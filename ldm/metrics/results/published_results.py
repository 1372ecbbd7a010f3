"""The paper's numbers, to stand beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from egogen.errors import UserError
from egogen.files import read_yaml
from ldm.metrics.registry import METRICS

FILE = Path(__file__).parents[3] / "configs" / "published_results.yaml"
# The parts of the file that hold tables.
TABLES = {"main": "Published", "ablation": "Published ablation: what LEGO is conditioned on"}


def published_results(dataset: str, table: str = "main") -> dict[str, dict[str, float]]:
    """A table of a data set: system -> metric name -> value, in the units that we compute.

    Args:
        dataset: `ego4d` or `epickitchen`.
        table: `main` or `ablation`; the paper has no ablation on epickitchen.

    Raises:
        UserError: the paper has no such data set.
    """
    known = read()
    if dataset not in known["items"]:
        raise UserError(f"published results of {dataset!r}: allowed are {', '.join(known['items'])}")
    return {
        system: {name: value / METRICS[name].times for name, value in values.items() if name in METRICS}
        for system, values in known[table].get(dataset, {}).items()
    }


def published_items(dataset: str) -> int:
    """How many items the paper measured."""
    count: int = read()["items"][dataset]
    return count


def read() -> dict[str, Any]:
    """The file."""
    content: dict[str, Any] = read_yaml(FILE)
    return content

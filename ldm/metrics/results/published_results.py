"""The paper's numbers, to stand beside ours."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from egogen.annotations import validate
from egogen.errors import UserError
from egogen.files import read_yaml
from egogen.shipped import CONFIGS
from ldm.metrics.registry import METRICS

FILE = CONFIGS / "published_results.yaml"
TableName = Literal["main", "ablation"]
TABLES: dict[TableName, str] = {
    "main": "Published", "ablation": "Published ablation: what LEGO is conditioned on",
}  # fmt: skip
Systems = dict[str, dict[str, float]]  # system -> metric name -> value


class PublishedResults(BaseModel):
    """The file: items of each test set, and the tables of each data set."""

    items: dict[str, int]
    main: dict[str, Systems]
    ablation: dict[str, Systems]


def published_results(dataset: str, table: TableName = "main") -> Systems:
    """A table of a data set, in the units that we compute; the paper has no ablation on epickitchen.

    Raises:
        UserError: the paper has no such data set.
    """
    known = read_published()
    if dataset not in known.items:
        raise UserError(f"published results of {dataset!r}: allowed are {', '.join(known.items)}")
    systems = {"main": known.main, "ablation": known.ablation}[table].get(dataset, {})
    return {
        system: {name: value / METRICS[name].scale.times for name, value in values.items() if name in METRICS}
        for system, values in systems.items()
    }


def read_published() -> PublishedResults:
    """The file."""
    return validate(PublishedResults, read_yaml(FILE), f"{FILE}")

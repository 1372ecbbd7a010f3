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
    """The file: items of each test set, sources by their key, and the tables of each data set by source."""

    items: dict[str, int]
    sources: dict[str, str]
    main: dict[str, dict[str, Systems]]
    ablation: dict[str, dict[str, Systems]]


def published_by_source(dataset: str, table: TableName = "main") -> dict[str, Systems]:
    """A table of a data set by where its rows are known from, in the units that we compute.

    The paper has no ablation on epickitchen.

    Raises:
        UserError: the paper has no such data set.
    """
    known = read_published()
    if dataset not in known.items:
        raise UserError(f"published results of {dataset!r}: allowed are {', '.join(known.items)}")
    table_of = {"main": known.main, "ablation": known.ablation}[table].get(dataset, {})
    return {
        known.sources[source]: {
            system: {
                name: value / METRICS[name].scale.times for name, value in values.items() if name in METRICS
            }
            for system, values in systems.items()
        }
        for source, systems in table_of.items()
    }


def published_results(dataset: str, table: TableName = "main") -> Systems:
    """The same whatever the source.

    Raises:
        UserError: the paper has no such data set.
    """
    found: Systems = {}
    for systems in published_by_source(dataset, table).values():
        for system, values in systems.items():
            found.setdefault(system, {}).update(values)
    return found


def is_published_split(dataset: str, count: int) -> bool:
    """Whether so many pairs are the test set of the paper's numbers: there is no other sign of it."""
    return read_published().items.get(dataset) == count


def read_published() -> PublishedResults:
    """The file."""
    return validate(PublishedResults, read_yaml(FILE), f"{FILE}")

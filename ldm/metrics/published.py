"""The paper's numbers, to stand beside ours."""

from __future__ import annotations

from importlib.resources import files

import yaml

from egogen.errors import UserError


def published_results(dataset: str) -> dict[str, dict[str, float]]:
    """The main table of a data set: system -> metric name -> value, in the units that we compute.

    Raises:
        UserError: the paper has no such data set.
    """
    known = yaml.safe_load(
        files("ldm.metrics").joinpath("published_results.yaml").read_text(encoding="utf-8")
    )
    if dataset not in known["main"]:
        raise UserError(f"published results of {dataset!r}: allowed are {', '.join(known['main'])}")
    return {
        system: {metric: value / known["scale"][metric] for metric, value in values.items()}
        for system, values in known["main"][dataset].items()
    }

"""Measured values for a model's card, and no more about them than the files beside them say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from egogen.annotations import JsonObject, check_object
from egogen.errors import UserError
from egogen.files import read_json
from egogen.layout import FOLDERS, METRIC_TARGETS
from egogen.manifest import HASH, NAME, checkpoint_hash

FOUND = "metric.json"  # measured values, in a model's folder or where ldm.evaluate wrote them
# What ldm.evaluate writes beside them, in this folder of a run.
DETAILS, FOLDER = "details.json", "metric"


@dataclass(frozen=True)
class Results:
    """Measured values and what is known of them.

    Args:
        values: by the metrics' names.
        said: a sentence: of which pairs and which checkpoint they are.
        pairs: of which pairs they are, for the card's head.
        foreign: whether another checkpoint than this is known to have drawn what was measured.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    said: str = "As stated by whoever gives this model away."
    pairs: str = "not stated"
    foreign: bool = False


def read_results(path: Path, model: Path) -> Results:
    """What `ldm.evaluate` wrote as `metric.json`, and what its run says of it.

    Args:
        path: the file. `details.json` beside it tells the pairs, the run's `manifest.json` the checkpoint.
        model: the folder that the card is of.

    Raises:
        UserError: it holds no such values, or no checkpoint drew what was measured.
    """
    values = read_metrics(path)
    details = vouching(path.with_name(DETAILS), values)
    pairs = "not stated"
    said = f"From a `{FOUND}` that does not say of which pairs it is"
    if details:
        split = ", val split" if Path(f"{details.get('gt_path')}").name == METRIC_TARGETS else ""
        pairs = f"EgoGen, {details['dataset']}{split}"
        said = f"On {details['n']} pairs of {pairs}, by `python -m ldm.evaluate`"
    drawn_by = checkpoint_of(path)
    if drawn_by is None:
        return Results(values, f"{said}; with which checkpoint is not known.", pairs)
    if drawn_by == checkpoint_hash(model):
        return Results(values, f"{said}, with this checkpoint.", pairs)
    other = f"another file than these (SHA-256 {drawn_by}): what this was converted from, or another model"
    return Results(values, f"{said}; the checkpoint was {other}.", pairs, foreign=True)


def read_metrics(path: Path) -> dict[str, float]:
    """The values of a `metric.json`.

    Raises:
        UserError: it is none.
    """
    found = check_object(read_json(path, finite=False), f"{path}", "values by the metrics' names")
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(
                f"{path}: {name} is {value!r}; expected numbers, as python -m ldm.evaluate writes"
            )
    return {name: float(value) for name, value in found.items()}


def vouching(path: Path, values: Mapping[str, float]) -> JsonObject:
    """`details.json` where it is of these very values, else nothing."""
    if not path.is_file():
        return {}
    details = check_object(read_json(path), f"{path}", "an evaluation")
    entries = check_object(details.get("metrics", {}), f"{path}", "metrics by name").values()
    means = {each.get("key"): each.get("mean") for each in entries if isinstance(each, dict)}
    same = means == {name: value if math.isfinite(value) else None for name, value in values.items()}
    return details if same and details.get("dataset") in FOLDERS and type(details.get("n")) is int else {}


def checkpoint_of(path: Path) -> str | None:
    """Hash of the checkpoint that drew what was measured, where the run says so.

    Raises:
        UserError: the run says that none did.
    """
    manifest = path.resolve().parent.parent / NAME
    if path.resolve().parent.name != FOLDER or not manifest.is_file():
        return None
    said = check_object(read_json(manifest), f"{manifest}", "settings by name").get("checkpoint")
    if not isinstance(said, str) or not HASH.fullmatch(said):
        raise UserError(f"{manifest}: names no checkpoint; {path} is no model's, give another metric.json")
    return said

"""A model's card, README.md of its folder: written when the folder is saved, completed when it is sent."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from egogen.errors import UserError, reason
from egogen.files import atomic_open
from egogen.sharing.results import Results

CARD = "README.md"
TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.j2"
NOT_MEASURED = "Not measured, or not told."
RESULTS = re.compile(r"(?<=\n## Results\n\n).*?(?=\n\n## )", re.DOTALL)
# Where usage finds the model: in the folder itself, and from the hub.
HERE = 'HERE = "."  # this folder'
FROM_HUB = "from huggingface_hub import snapshot_download\n\nHERE = snapshot_download({repo!r})"
# Our package loads it, and no library for which the hub shows a snippet: that would not run.
LIBRARY = "lego-egogen"
TAGS = ("egocentric", "action-frame-generation", "lego")
PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")


@dataclass(frozen=True)
class Licence:
    """A licence as the hub knows it, or `other` with a name of its own."""

    id: str = "other"
    name: str | None = "not-stated"
    link: str | None = None


@dataclass(frozen=True)
class ModelWords:
    """What a person may say of a model; empty is what its stage says of it, or nothing.

    Args:
        title: its name.
        about: a sentence or two.
        data: what it was trained on.
        datasets: ids of data sets on the hub.
        base_model: ids of models on the hub that it derives from.
        licence: of its weights.
        metrics: values by name, as `metric.json` has them.

    Raises:
        UserError: an id is none of the hub's.
    """

    title: str = ""
    about: str = ""
    data: str = ""
    datasets: Sequence[str] = ()
    base_model: Sequence[str] = ()
    licence: Licence | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (*self.datasets, *self.base_model):
            check_repo(name)


@dataclass(frozen=True)
class StageWords:
    """What a stage says of its models.

    Args:
        title: what they are called.
        what: a sentence.
        facts: of this one, by name.
        usage: Python that runs in its folder, with `HERE` for it.
        limits: what it cannot do.
        licences: of what it derives from, in words.
        licence: of its weights where nobody says another.
        base_model: ids of models on the hub that it derives from.
        task: the hub's tag of what it does.
    """

    title: str
    what: str
    facts: Mapping[str, object]
    usage: str
    limits: str
    licences: str
    licence: Licence
    base_model: Sequence[str]
    task: str


def write_model_card(folder: Path, stage: StageWords, words: ModelWords | None = None) -> None:
    """Writes README.md; every text of a person's is escaped, and stands for itself."""
    words = words or ModelWords()
    title = plain(words.title) or stage.title
    card = ModelCard.from_template(
        card_data(stage, words),
        template_path=str(TEMPLATE),
        title=title,
        what=stage.what,
        about=plain(words.about),
        facts=list(stage.facts.items()),
        usage=stage.usage.strip(),
        data=plain(words.data) or "Not stated.",
        results=results_table(Results(words.metrics)),
        limits=stage.limits,
        licences=stage.licences,
    )
    with atomic_open(folder / CARD) as file:
        file.write(f"{card}".encode())


def card_data(stage: StageWords, words: ModelWords) -> ModelCardData:
    """The card's head, which the hub reads."""
    licence = words.licence or stage.licence
    data = ModelCardData(
        license=one_line(licence.id),
        license_name=one_line(licence.name or "") or None if licence.id == "other" else None,
        license_link=one_line(licence.link or "") or None,
        base_model=list(words.base_model or stage.base_model) or None,
        pipeline_tag=stage.task,
        library_name=LIBRARY,
        language="en",
        tags=list(TAGS),
        datasets=list(words.datasets) or None,
        model_name=one_line(words.title) or stage.title,
    )
    state_metrics(data, Results(words.metrics))
    return data


def state_metrics(data: ModelCardData, results: Results) -> None:
    """Puts measured values into a card's head, unless another checkpoint's; none leaves it as it is."""
    if not results.values:
        return
    values = {} if results.foreign else results.values
    data.metrics = list(map(one_line, values)) or None
    data.eval_results = [
        EvalResult(
            task_type=data.pipeline_tag or "other",
            dataset_type="egogen",
            dataset_name=results.pairs,
            metric_type=one_line(name),
            metric_value=value if math.isfinite(value) else f"{value}",
        )
        for name, value in values.items()
    ] or None


def results_table(results: Results) -> str:
    """Measured values as a table."""
    rows = [f"| {plain(name)} | {value:.4g} |" for name, value in results.values.items()]
    head = [results.said, "", "| metric | value |", "|---|---|"]
    return "\n".join([*head, *rows]) if rows else NOT_MEASURED


def for_hub(text: str, where: Path, repo: str, results: Results) -> str:
    """A card as it is sent: its usage fetches the model from the hub, measured values are in it.

    Raises:
        UserError: its head is none that the hub reads.
    """
    try:
        card = ModelCard(text)
    except (ValueError, TypeError, LookupError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"{where}: the head between its --- lines cannot be read ({reason(error)})") from None
    if not card.data.to_dict():
        raise UserError(f"{where}: has no head between --- lines, which says licence and task on the hub")
    if results.values:
        data = cast("ModelCardData", card.data)
        data.model_name = data.model_name or repo.rpartition("/")[2]
        state_metrics(data, results)
        card.text = RESULTS.sub(lambda _: results_table(results), card.text)
    return f"{card}".replace(HERE, FROM_HUB.format(repo=repo))


def plain(text: str) -> str:
    """A person's text in one line that Markdown, HTML and tables take as it is: no markup, no links."""
    return PUNCTUATION.sub(r"\\\1", one_line(text))


def one_line(text: str) -> str:
    """A text without line breaks and what else is not seen: in a head, a line `---` would end it."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def check_repo(name: str) -> str:
    """Returns the name of a repository on the hub.

    Raises:
        UserError: it is none.
    """
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise UserError(f"{name!r}: no name of a repository on the hub; expected OWNER/NAME") from None
    return name

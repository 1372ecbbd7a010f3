"""What people preferred: how often each system's frame was picked, how sure that is, how far people agree.

An answer picks one of the frames that were shown, or says that there is no difference. A system's win rate is
the share of answers that pick it among those that pick any; answers without a pick are counted beside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from egogen.errors import UserError
from egogen.table import text_table
from ldm.report.shares import Share, share_of
from ldm.study.answers import Answer, read_answers


class Preferences(NamedTuple):
    """The outcome of a study.

    `wins`: win rates with 95 % intervals (Wilson 1927), the most picked first. `ties`: answers without pick.
    `alpha`: Krippendorff's for categories, 1 for full agreement, 0 for chance; None where no item has answers
    of two people.
    """

    wins: list[Share]
    picks: dict[str, int]
    answers: int
    ties: int
    raters: int
    items: int
    alpha: float | None

    @property
    def chance(self) -> float:
        """The win rate of systems among which nobody sees a difference, in percent."""
        return 100 / len(self.wins)


def read_preferences(path: Path) -> Preferences:
    """Reads the answers of `python -m ldm.study`; of a person's several answers to an item the last counts.

    Raises:
        UserError: the file has none, or those of several studies.
    """
    answers = list(read_answers(path).values())
    if not answers:
        raise UserError(f"{path}: no answers yet; open the page that python -m ldm.study serves")
    systems = sorted(answers[0].order)
    if other := next((each for each in answers if sorted(each.order) != systems), None):
        raise UserError(
            f"{path}: {other.item} was shown of {', '.join(sorted(other.order))}, others of "
            f"{', '.join(systems)}; give each study a file of its own"
        )
    counts = Counter(each.choice for each in answers)
    picks = {name: counts[name] for name in sorted(systems, key=lambda name: (-counts[name], name))}
    picked = sum(picks.values())
    return Preferences(
        [share_of(name, count, picked) for name, count in picks.items()],
        picks,
        len(answers),
        len(answers) - picked,
        len({each.rater for each in answers}),
        len({each.item for each in answers}),
        agreement(answers),
    )


def agreement(answers: Collection[Answer]) -> float | None:
    """Krippendorff's alpha of the picks, for which no difference is a category too (Krippendorff 1980)."""
    by_item = Counter(each.item for each in answers)
    if max(by_item.values()) < 2:
        return None
    # Takes seconds to import.
    from nltk.metrics.agreement import AnnotationTask

    return float(AnnotationTask([(each.rater, each.item, each.choice or "") for each in answers]).alpha())


def text(found: Preferences) -> str:
    """The outcome for a terminal."""
    rows = [
        [share.name, count, share.text, share.range]
        for share, count in zip(found.wins, found.picks.values(), strict=True)
    ]
    return text_table(["preferred", "picks", "win rate", "95 % interval"], rows) + summary(found) + "\n"


def summary(found: Preferences) -> str:
    """What the rates are of, in a sentence or two."""
    agreed = "" if found.alpha is None else f" Krippendorff's alpha: {found.alpha:.2f}."
    return (
        f"{found.answers} answers of {found.raters} people to {found.items} items; {found.ties} saw no "
        f"difference. By chance each system would win {found.chance:.0f} %.{agreed}"
    )


def as_json(found: Preferences) -> dict[str, object]:
    """The outcome as JSON values."""
    wins = {
        share.name: {
            "picks": found.picks[share.name],
            "win_rate": share.percent / 100,
            "interval_95": None if share.interval is None else [end / 100 for end in share.interval],
        }
        for share in found.wins
    }
    counts = {"answers": found.answers, "ties": found.ties, "raters": found.raters, "items": found.items}
    return {**counts, "alpha": found.alpha, "systems": wins}

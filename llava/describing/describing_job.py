"""What one run of `llava.describe` is asked to do: its actions, their frames, words and features' names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from egogen.annotations import Item
from egogen.errors import UserError
from egogen.layout import feature_name, text_feature_names
from llava.describing.decode import Sampling
from llava.question.labels import Cut, action_words
from llava.question.lemmas import Lemmas

Setting = Literal["forecast", "description"]


@dataclass(frozen=True)
class Job:
    """One command's work, as its flags name it."""

    items: list[Item]  # of the whole annotation file
    image_dir: Path
    image_features: Path
    text_features: Path
    dataset: str
    setting: Setting
    query: str
    seed: int
    sampling: Sampling
    cut: Cut = "published"
    lemmas: Lemmas = "lemminflect"

    def image(self, item: Item) -> str:
        """The frame that is described, relative to the image folder."""
        return item.action.image_0 if self.setting == "forecast" else item.action.image_1

    def words(self, item: Item) -> str:
        """The action's words in the question."""
        return action_words(item.action.action, self.dataset, cut=self.cut, lemmas=self.lemmas)

    def feature_names(self, item: Item) -> tuple[str, str]:
        """Names of an action's image and text feature."""
        return feature_name(self.image(item)), feature_name(self.text_names[item.clip, item.id])

    @cached_property
    def text_names(self) -> dict[tuple[str, str], str]:
        """Names of the text features; actions that share a frame have one each (F-S1-10)."""
        frame = "image_0" if self.setting == "forecast" else "image_1"
        return text_feature_names(self.items, lambda action: getattr(action, frame))

    def check_names(self) -> None:
        """Feature files are named by the frame without its suffix: two frames must not share one.

        Raises:
            UserError: two frames would write the same image feature.
        """
        owners: dict[str, str] = {}
        for item in self.items:
            image = self.image(item)
            other = owners.setdefault(self.feature_names(item)[0], image)
            if other != image:
                raise UserError(
                    f"{image} (clip {item.clip!r}, action {item.id!r}) and {other} would write the same "
                    "image feature; rename one of the two frames"
                )

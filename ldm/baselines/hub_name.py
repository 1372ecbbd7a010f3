"""A pipeline's name on the Hugging Face hub; no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


class HubName(NamedTuple):
    """An id on the hub (`owner/name`), and a branch, tag or commit; None is the newest."""

    repository: str
    revision: str | None

    @property
    def download(self) -> str:
        """The command that fetches it."""
        return f"hf download {self.repository}" + (f" --revision {self.revision}" if self.revision else "")


def hub_name(path: Path) -> HubName | None:
    """What `owner/name` or `owner/name@revision` names; None for what can only be a path."""
    found = NAME.fullmatch(path.as_posix())
    return HubName(found[1], found[2]) if found else None

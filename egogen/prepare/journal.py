"""What is done so far: a JSON line a pair, appended when its frames are on disk; a restart reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from egogen.disk import writing
from egogen.errors import UserError

Key = tuple[str, str]


class Journal:
    """The lines of one source, or of one kind of scores.

    Args:
        path: the `.jsonl` file; it need not exist. What a killed run left of a line is cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[Key, dict[str, Any]] = {}
        if path.exists():
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if len(whole) < len(content):
                os.truncate(path, len(whole))
            self.rows = {(row["clip"], row["id"]): row for row in self.parse(whole)}

    def parse(self, content: bytes) -> Iterator[dict[str, Any]]:
        """The rows; of several of one pair the last one counts.

        Raises:
            UserError: a line is no row.
        """
        for number, line in enumerate(content.splitlines(), start=1):
            try:
                row = json.loads(line)
                row["clip"], row["id"]
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    f"{self.path}: line {number} is damaged; delete the line, and its pair is made anew"
                ) from None
            yield row

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Appends rows."""
        self.rows.update({(row["clip"], row["id"]): row for row in rows})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

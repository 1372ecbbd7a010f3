"""What has been fetched, so that a finished file is neither read nor fetched again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from egogen.annotations import check_object
from egogen.download.remote import Remote
from egogen.files import read_json, write_json

FOLDER = ".download"


@dataclass
class Ledger:
    """The finished files of one source.

    Args:
        folder: holds the ledger and, until they are unpacked, archives.
        done: the version of each finished file by its name.
        complete: whether everything was finished once.
    """

    folder: Path
    done: dict[str, str] = field(default_factory=dict)
    complete: bool = False

    @classmethod
    def open(cls, root: Path, name: str) -> Ledger:
        """The ledger of a source, below the root that its files go to."""
        ledger = cls(root / FOLDER / name)
        if ledger.path.exists():
            raw = check_object(read_json(ledger.path), f"{ledger.path}", "finished files")
            ledger.done, ledger.complete = dict(raw.get("done", {})), bool(raw.get("complete"))
        return ledger

    @property
    def path(self) -> Path:
        """The ledger's file."""
        return self.folder.with_suffix(".json")

    def has(self, file: Remote) -> bool:
        """Whether this version of a file is finished."""
        return self.done.get(file.name) == file.identity

    def add(self, *files: Remote) -> None:
        """Notes files as finished."""
        self.done |= {file.name: file.identity for file in files}
        self.write()

    def close(self) -> None:
        """Notes that everything is finished."""
        self.complete = True
        self.write()

    def write(self) -> None:
        """Writes the ledger."""
        write_json(self.path, {"complete": self.complete, "done": self.done})

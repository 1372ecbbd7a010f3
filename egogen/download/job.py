"""One source on its way to its place: what is missing, how much room it needs, fetching, unpacking."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from egogen.archives.split_zip import group_archives
from egogen.archives.unpack import Place, unpack
from egogen.download.catalogue import Group, Source
from egogen.download.fetch import fault_of, fetch, part_path
from egogen.download.ledger import Ledger
from egogen.download.remote import Remote, kept_part
from egogen.errors import UserError
from egogen.published import dataset_place, feature_place

log = logging.getLogger(__name__)

# Frames and float16 features shrink little in an archive; its directory tells exactly once it is here.
UNPACKED_SHARE = 1.1


@dataclass(frozen=True)
class Archive:
    """Files that are unpacked together, in reading order."""

    name: str
    parts: list[Remote]

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.size or 0 for part in self.parts)


class Job:
    """Fetches one source.

    Args:
        name: its name in the catalogue.
        source: what it is.
        group: the group it belongs to.
        root: where it goes.
        files: what the server has.
    """

    def __init__(self, name: str, source: Source, group: Group, root: Path, files: list[Remote]) -> None:
        self.name, self.source, self.group, self.root = name, source, group, root
        self.ledger = Ledger.open(root, name)
        grouped = [] if group.contents == "weights" else group_archives(file.name for file in files)
        by_name = {file.name: file for file in files}
        self.archives = [Archive(name, [by_name[part] for part in parts]) for name, parts in grouped]
        packed = {part for _, parts in grouped for part in parts}
        goals = {file: self.place(file.name) for file in files if file.name not in packed}
        self.loose = {file: goal for file, goal in goals.items() if goal is not None}
        if not (self.archives or self.loose):
            raise UserError(
                f"{source.repo}: holds no {group.contents}; found {', '.join(sorted(by_name)[:10])}"
            )

    def place(self, name: str) -> Path | None:
        """Where a single file goes; None if it is not needed."""
        if self.group.contents == "weights":
            return self.root / self.source.folder / (kept_part(name, self.source.files) or name)
        return self.inside("")(PurePosixPath(name))

    def inside(self, archive: str) -> Place:
        """Where the files of an archive go."""
        if self.group.contents == "dataset":
            return partial(dataset_place, self.root)
        return partial(feature_place, self.root, self.source.dataset, archive)

    def staged(self, part: Remote) -> Path:
        """Where a part of an archive waits to be unpacked; it is there only if it is whole."""
        return self.ledger.folder / part.version / part.name

    @property
    def missing_archives(self) -> list[Archive]:
        """The archives that are not unpacked yet."""
        return [archive for archive in self.archives if not all(map(self.ledger.has, archive.parts))]

    @property
    def missing_files(self) -> dict[Remote, Path]:
        """The single files that are not there yet, and their places."""
        return {
            file: goal for file, goal in self.loose.items() if not (self.ledger.has(file) and goal.is_file())
        }

    def downloads(self) -> dict[Remote, Path]:
        """All files that are to be fetched, and where to."""
        parts = (part for archive in self.missing_archives for part in archive.parts)
        return {**{part: self.staged(part) for part in parts}, **self.missing_files}

    def needed(self) -> int:
        """Bytes of room that are still needed: every archive, unpacked, and one of them as it is.

        Those that wait here whole do not count: unpacking asks for exactly what it lacks.
        """
        single = sum(self.remaining(file, goal) for file, goal in self.missing_files.items())
        fetched = {
            archive.name: sum(self.remaining(part, self.staged(part)) for part in archive.parts)
            for archive in self.missing_archives
        }
        unpacked = sum(archive.size for archive in self.missing_archives if fetched[archive.name])
        return single + round(UNPACKED_SHARE * unpacked) + max(fetched.values(), default=0)

    def remaining(self, file: Remote, goal: Path) -> int:
        """Bytes that are still to be fetched of a file."""
        size = file.size if file.size is not None else self.source.size
        part = part_path(file, goal)
        return 0 if goal.exists() else max(0, size - (part.stat().st_size if part.exists() else 0))

    def run(self) -> None:
        """Fetches and unpacks what is missing.

        Raises:
            UserError: something cannot be fetched or unpacked, or another file is in the way.
        """
        for file, goal in self.missing_files.items():
            if not goal.exists():
                fetch(file, goal)
            elif fault := fault_of(goal, file):
                raise UserError(f"{goal}: is not the published file: it {fault}; move it away")
            self.ledger.add(file)
        for archive in self.missing_archives:
            self.install(archive)
        shutil.rmtree(self.ledger.folder, ignore_errors=True)
        self.ledger.close()

    def install(self, archive: Archive) -> None:
        """Fetches and unpacks an archive, then deletes it."""
        paths = [self.staged(part) for part in archive.parts]
        for part, path in zip(archive.parts, paths, strict=True):
            if not path.exists():
                fetch(part, path)
        done = unpack(paths, self.root, self.inside(archive.name))
        log.info("%s: %d files unpacked, %d were there, %d left out", archive.name, *done)
        self.ledger.add(*archive.parts)
        for path in paths:
            path.unlink()

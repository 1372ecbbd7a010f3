"""One source on its way to its place: what is missing, how much room it needs, fetching, unpacking."""

from __future__ import annotations

import logging
import shutil
from functools import partial
from pathlib import Path, PurePosixPath

from egogen.annotations import check_object
from egogen.archives.split_zip import group_archives
from egogen.archives.unpack import Place, unpack
from egogen.disk import readable
from egogen.download.catalogue import UNPACKED_SHARE, Group, Source
from egogen.download.fetch import fault_of, fetch_all, part_path, size_of
from egogen.download.remote import Remote, kept_part
from egogen.errors import UserError
from egogen.files import clean_parts, read_json, write_json
from egogen.published import dataset_place, feature_place
from egogen.table import text_table

log = logging.getLogger(__name__)

FOLDER = ".download"  # below the root: a ledger of finished files, and archives until they are unpacked
Parts = list[Remote]  # of an archive, in reading order


def is_complete(root: Path, name: str) -> bool:
    """Whether all of a source was finished once."""
    return bool(read_ledger(root / FOLDER / f"{name}.json").get("complete"))


def read_ledger(path: Path) -> dict[str, object]:
    """What is finished: `done` has the version of each file by its name."""
    return check_object(read_json(path), f"{path}", "finished files") if path.exists() else {}


def is_whole(goal: Path, file: Remote) -> bool:
    """Whether a file is there, as long as its server says."""
    return goal.is_file() and file.size in (None, goal.stat().st_size)


class Download:
    """Fetches one source.

    Args:
        name: its name in the catalogue.
        source: what it is.
        group: the group it belongs to.
        root: where it goes.
        files: what the server has, or some of it.
        whole: whether these are all of its files.
    """

    def __init__(
        self, name: str, source: Source, group: Group, root: Path, files: list[Remote], whole: bool = True
    ) -> None:
        self.name, self.source, self.group, self.root = name, source, group, root
        self.folder = root / FOLDER / name
        self.whole = whole or is_complete(root, name)
        self.done = check_object(read_ledger(self.ledger).get("done", {}), f"{self.ledger}", "finished files")
        grouped = [] if group.contents == "weights" else group_archives(file.name for file in files)
        by_name = {file.name: file for file in files}
        self.archives = {stem: [by_name[part] for part in parts] for stem, parts in grouped}
        packed = {part for parts in self.archives.values() for part in parts}
        goals = {file: self.place(file.name) for file in files if file not in packed}
        self.loose = {file: goal for file, goal in goals.items() if goal is not None}
        if not (self.archives or self.loose):
            found = ", ".join(sorted(by_name)[:10])
            raise UserError(f"{source.repo}: holds no {group.contents}; found {found}")

    @property
    def ledger(self) -> Path:
        """The file that keeps what is finished, so that it is neither read nor fetched again."""
        return self.folder.with_suffix(".json")

    def note(self, *files: Remote, complete: bool = False) -> None:
        """Writes down that files are finished, or everything."""
        self.done |= {file.name: file.identity for file in files}
        write_json(self.ledger, {"complete": complete, "done": dict(sorted(self.done.items()))})

    def has(self, file: Remote) -> bool:
        """Whether this version of a file is finished."""
        return self.done.get(file.name) == file.identity

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

    def staged(self, parts: Parts) -> dict[Remote, Path]:
        """Where the parts of an archive wait to be unpacked; they are there only if they are whole."""
        return {part: self.folder / part.version / part.name for part in parts}

    @property
    def missing_archives(self) -> dict[str, Parts]:
        """The archives that are not unpacked yet."""
        return {stem: parts for stem, parts in self.archives.items() if not all(map(self.has, parts))}

    @property
    def missing_files(self) -> dict[Remote, Path]:
        """The single files that are not there yet, and their places."""
        return {
            file: goal for file, goal in self.loose.items() if not (self.has(file) and is_whole(goal, file))
        }

    def downloads(self) -> dict[Remote, Path]:
        """All files that are to be fetched, and where to."""
        packed = [part for parts in self.missing_archives.values() for part in parts]
        return self.staged(packed) | self.missing_files

    @property
    def announced(self) -> int:
        """Bytes of all files that the server has, whatever is here."""
        packed = [part for parts in self.archives.values() for part in parts]
        return sum(map(self.size, [*self.loose, *packed]))

    def size(self, file: Remote) -> int:
        """Bytes of a file; roughly, where its server does not say."""
        return self.source.size if file.size is None else file.size

    def needed(self) -> int:
        """Bytes of room that are still needed: every archive, unpacked, and one of them as it is.

        Those that wait here whole do not count: unpacking asks for exactly what it lacks.
        """
        unpacked, fetched = 0, [0]
        for parts in self.missing_archives.values():
            if remaining := self.remaining(self.staged(parts)):
                unpacked += sum(part.size or 0 for part in parts)
                fetched.append(remaining)
        return self.remaining(self.missing_files) + round(UNPACKED_SHARE * unpacked) + max(fetched)

    def remaining(self, files: dict[Remote, Path]) -> int:
        """Bytes that are still to be fetched of some files."""
        lacking = {file: part_path(file, goal) for file, goal in files.items() if not goal.exists()}
        return sum(max(0, self.size(file) - size_of(part)) for file, part in lacking.items())

    def run(self) -> None:
        """Fetches and unpacks what is missing.

        Raises:
            UserError: something cannot be fetched or unpacked, or another file is in the way.
        """
        clean_parts(self.ledger.parent, f".{self.ledger.name}.*.part")
        there = {file: goal for file, goal in self.missing_files.items() if goal.exists()}
        for file, goal in there.items():
            if fault := fault_of(goal, file):
                raise UserError(f"{goal}: is not the published file: it {fault}; move it away")
            self.note(file)
        for file in fetch_all(self.missing_files):
            self.note(file)
        for stem, parts in self.missing_archives.items():
            paths = self.staged(parts)
            for _ in fetch_all({part: path for part, path in paths.items() if not path.exists()}):
                pass
            counts = unpack(list(paths.values()), self.root, self.inside(stem))
            log.info("%s: %d files unpacked, %d were there, %d left out", stem, *counts)
            self.note(*parts)
            for path in paths.values():
                path.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.note(complete=self.whole)


def listing(download: Download) -> str:
    """A table of what would be fetched."""
    source, files = download.source, download.downloads()
    head = f"{download.name}: {source.what}\n  from {source.repo or source.url} (licence: {source.licence})\n"
    rows = [
        ("about " * (file.size is None) + readable(download.size(file)), file.name, f"{goal}")
        for file, goal in files.items()
    ]
    total = sum(map(download.size, files))
    table = text_table(("size", "file", "to"), rows) if rows else "  complete\n"
    return f"{head}{table}total {readable(total)}, room needed {readable(download.needed())}\n"

"""What a download is asked for: the flags, and the sources that they mean. Before any server is asked."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, get_args

from egogen.cli import flag
from egogen.download.catalogue import CATALOGUE, RepoType, Source
from egogen.errors import UserError

if TYPE_CHECKING:
    from egogen.download.installing import Download

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DownloadOptions:
    """The flags; those that were not given are None."""

    group: str = flag("what is published together", positional=True, choices=list(CATALOGUE))
    what: str | None = flag(
        "a part of the group; else all of it. "
        + "; ".join(f"{name}: {', '.join(group.sources)}" for name, group in CATALOGUE.items()),
        metavar="NAME[,NAME]",
    )
    only: str | None = flag(
        "of repositories, the files whose paths end so; * stands for anything within a name",
        metavar="FILE[,FILE]",
    )
    dest: Path | None = flag("instead of the group's own folder", type=Path, metavar="DIR")
    dry_run: bool = flag("list files and sizes, fetch nothing", action="store_true")
    repo_type: RepoType | None = flag("instead of the catalogue's", choices=get_args(RepoType))
    revision: str | None = flag("branch, tag or commit of the repositories; else main")
    mirror: str | None = flag("folder on another server for what is no repository", metavar="URL")

    @property
    def root(self) -> Path:
        """Where everything goes."""
        return self.dest or CATALOGUE[self.group].root()


def choose(wanted: DownloadOptions) -> dict[str, Source]:
    """The sources that the flags name, as the flags change them.

    Raises:
        UserError: an unknown name.
    """
    group = CATALOGUE[wanted.group]
    names = list(group.sources) if wanted.what is None else wanted.what.split(",")
    chosen = {}
    for name in names:
        if name not in group.sources:
            raise UserError(f"--what {name!r}: allowed are {', '.join(group.sources)}")
        source = group.sources[name]
        if wanted.mirror and source.url:
            source = replace(source, url=f"{wanted.mirror.rstrip('/')}/{PurePosixPath(source.url).name}")
        chosen[name] = replace(source, repo_type=wanted.repo_type or source.repo_type)
    return chosen


def ask_all(wanted: DownloadOptions) -> list[Download]:
    """Asks the servers of all that the flags name; offline, what was finished once is not asked for again.

    Raises:
        UserError: an unknown name, no good answer, or none of the wanted files is there.
    """
    from huggingface_hub import constants

    from egogen.download.installing import is_complete

    asked = []
    for name, source in choose(wanted).items():
        if constants.HF_HUB_OFFLINE and not wanted.dry_run and is_complete(wanted.root, name):
            log.info("%s: complete; not compared with the server (HF_HUB_OFFLINE)", name)
        else:
            asked.append(ask(name, source, wanted))
    return asked


def ask(name: str, source: Source, wanted: DownloadOptions) -> Download:
    """Asks the server of a source what it has, and looks what of that is here.

    Raises:
        UserError: no good answer, or none of the wanted files is there.
    """
    from egogen.download.installing import Download
    from egogen.download.remote import list_files

    files = list_files(source, wanted.revision)
    ends = wanted.only.split(",") if wanted.only and source.repo else []
    chosen = [file for file in files if not ends or any(PurePosixPath(file.name).match(end) for end in ends)]
    if not chosen:
        found = ", ".join(
            sorted((file.name for file in files), key=lambda name: (name.count("/"), name))[:10]
        )
        raise UserError(f"{source.repo}: --only {wanted.only}: no such file; it has {found}")
    return Download(
        name, source, CATALOGUE[wanted.group], wanted.root, chosen, whole=len(chosen) == len(files)
    )

"""Fetches what was published: the data set, the authors' features, weights, and the weights of metrics.

An interrupted download goes on when the same command is given again. Sizes and sums are checked; archives are
unpacked and then deleted. HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE are honoured.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import get_args

from egogen.cli import flag, options, run
from egogen.disk import require_space
from egogen.download.catalogue import CATALOGUE, Group, RepoType, Source
from egogen.errors import UserError

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
    dest: Path | None = flag("instead of the group's own folder", type=Path, metavar="DIR")
    dry_run: bool = flag("list files and sizes, fetch nothing", action="store_true")
    repo_type: RepoType | None = flag("instead of the catalogue's", choices=get_args(RepoType))
    revision: str | None = flag("branch, tag or commit of the repositories; else main")
    mirror: str | None = flag("folder on another server for what is no repository", metavar="URL")


def main(argv: Sequence[str] | None = None) -> None:
    """Lists, then looks for room on the disk, then fetches."""
    wanted = options(DownloadOptions, argv, "python -m egogen.download", __doc__)
    group = CATALOGUE[wanted.group]
    chosen = choose(group, wanted)
    from huggingface_hub import constants
    from huggingface_hub.utils import logging as hub_logging

    from egogen.download.installing import Download, is_complete, listing
    from egogen.download.remote import list_files
    from egogen.locks import hold

    hub_logging.disable_propagation()  # it shows its warnings itself
    root = wanted.dest or group.root()
    downloads = []
    for name, source in chosen.items():
        if constants.HF_HUB_OFFLINE and not wanted.dry_run and is_complete(root, name):
            log.info("%s: complete; not compared with the server (HF_HUB_OFFLINE)", name)
        else:
            downloads.append(Download(name, source, group, root, list_files(source, wanted.revision)))
    if wanted.dry_run:
        sys.stdout.write("\n".join(map(listing, downloads)))
        return
    require_space(root, sum(download.needed() for download in downloads), "the download")
    for download in downloads:
        with hold(root / download.name, "the download"):
            download.run()
        log.info("%s: complete in %s (licence: %s)", download.name, root, download.source.licence)
    if group.contents == "dataset":
        log.info("check it: python -m egogen.validate %s", root)


def choose(group: Group, wanted: DownloadOptions) -> dict[str, Source]:
    """The sources that the flags name, as the flags change them.

    Raises:
        UserError: an unknown name.
    """
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


if __name__ == "__main__":
    run(main)

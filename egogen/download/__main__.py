"""Fetches what was published: the data set, the authors' features, weights, and the weights of metrics.

An interrupted download goes on when the same command is given again. Sizes and sums are checked; archives are
unpacked and then deleted. HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE are honoured.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath

from huggingface_hub import constants
from huggingface_hub.utils import logging as hub_logging

from egogen.cli import parser, run
from egogen.disk import readable, require_space
from egogen.download.catalogue import CATALOGUE, Group, RepoType, Source
from egogen.download.installing import Download, is_complete
from egogen.download.remote import list_files
from egogen.errors import UserError
from egogen.locks import hold
from egogen.table import text_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What a user asks for; flags that were not given are None."""

    group: str
    what: str | None
    dest: Path | None
    dry_run: bool
    repo_type: RepoType | None
    revision: str | None
    mirror: str | None


def arguments(argv: Sequence[str] | None) -> Wanted:
    """Parses the command line."""
    made = parser("python -m egogen.download", __doc__)
    names = "; ".join(f"{name}: {', '.join(group.sources)}" for name, group in CATALOGUE.items())
    made.add_argument("group", choices=list(CATALOGUE))
    made.add_argument("--what", metavar="NAME[,NAME]", help=f"a part of the group; else all of it. {names}")
    made.add_argument("--dest", type=Path, metavar="DIR", help="instead of the group's own folder")
    made.add_argument("--dry-run", action="store_true", help="list files and sizes, fetch nothing")
    made.add_argument("--repo-type", choices=["model", "dataset"], help="instead of the catalogue's")
    made.add_argument("--revision", help="branch, tag or commit of the repositories; else main")
    made.add_argument("--mirror", metavar="URL", help="folder on another server for what is no repository")
    found = made.parse_args(argv)
    return Wanted(**{field.name: getattr(found, field.name) for field in fields(Wanted)})


def main(argv: Sequence[str] | None = None) -> None:
    """Lists, then looks for room on the disk, then fetches."""
    wanted = arguments(argv)
    hub_logging.disable_propagation()  # it shows its warnings itself
    group = CATALOGUE[wanted.group]
    root = wanted.dest or group.root()
    downloads = []
    for name, source in choose(group, wanted).items():
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


def choose(group: Group, wanted: Wanted) -> dict[str, Source]:
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


if __name__ == "__main__":
    run(main)

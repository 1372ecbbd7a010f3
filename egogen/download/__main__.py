"""Fetches what was published: the data set, the authors' features, weights, and the weights of metrics.

An interrupted download goes on when the same command is given again. Sizes and sums are checked; archives are
unpacked and then deleted. HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE are honoured.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from huggingface_hub import constants
from huggingface_hub.utils import logging as hub_logging

from egogen.cli import parser, run
from egogen.disk import readable, require_space
from egogen.download.catalogue import CATALOGUE, Group, Source
from egogen.download.job import Job
from egogen.download.ledger import Ledger
from egogen.download.remote import list_files
from egogen.errors import UserError
from egogen.locks import hold
from egogen.table import text_table

log = logging.getLogger(__name__)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
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
    return made.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Lists, then looks for room on the disk, then fetches."""
    args = arguments(argv)
    hub_logging.disable_propagation()  # it shows its warnings itself
    group = CATALOGUE[args.group]
    root = args.dest or group.root()
    jobs = []
    for name, source in choose(group, args).items():
        if constants.HF_HUB_OFFLINE and not args.dry_run and Ledger.open(root, name).complete:
            log.info("%s: complete; not compared with the server (HF_HUB_OFFLINE)", name)
        else:
            jobs.append(Job(name, source, group, root, list_files(source, args.revision)))
    if args.dry_run:
        sys.stdout.write("\n".join(map(listing, jobs)))
        return
    require_space(root, sum(job.needed() for job in jobs), "the download")
    for job in jobs:
        with hold(root / job.name, "the download"):
            job.run()
        log.info("%s: complete in %s (licence: %s)", job.name, root, job.source.licence)
    if group.contents == "dataset":
        log.info("check it: python -m egogen.validate %s", root)


def choose(group: Group, args: argparse.Namespace) -> dict[str, Source]:
    """The sources that the flags name, as the flags change them.

    Raises:
        UserError: an unknown name.
    """
    names = list(dict.fromkeys(args.what.split(","))) if args.what is not None else list(group.sources)
    for name in names:
        if name not in group.sources:
            raise UserError(f"--what {name!r}: allowed are {', '.join(group.sources)}")
    chosen = {}
    for name in names:
        source = group.sources[name]
        if args.repo_type:
            source = replace(source, repo_type=args.repo_type)
        if args.mirror and source.url:
            source = replace(source, url=f"{args.mirror.rstrip('/')}/{PurePosixPath(source.url).name}")
        chosen[name] = source
    return chosen


def listing(job: Job) -> str:
    """A table of what would be fetched."""
    source = job.source
    head = f"{job.name}: {source.what}\n  from {source.repo or source.url} (licence: {source.licence})\n"
    downloads = job.downloads()
    rows = [
        ("about " + readable(source.size) if file.size is None else readable(file.size), file.name, f"{goal}")
        for file, goal in downloads.items()
    ]
    total = sum(source.size if file.size is None else file.size for file in downloads)
    table = text_table(("size", "file", "to"), rows) if rows else "  complete\n"
    return f"{head}{table}total {readable(total)}, room needed {readable(job.needed())}\n"


if __name__ == "__main__":
    run(main)

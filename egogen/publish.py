"""Sends a model or exported data to the Hugging Face hub; shows what goes, and refuses what must not.

FOLDER is what stage 2 saves (`python -m ldm.convert compvis2diffusers`), what stage 1 saves (`python -m
llava.train`, `python -m llava.convert llava2hf`), or an export of `python -m egogen.prepare`. The token is
that of `hf auth login` or HF_TOKEN; HF_ENDPOINT is honoured.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egogen import cli
from egogen.cli import flag

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishOptions:
    """The command's arguments."""

    folder: Path = flag("a saved model or exported data", positional=True, type=Path, metavar="FOLDER")
    repo: str = flag("where it goes; made if it is not there", positional=True, metavar="OWNER/NAME")
    private: bool = flag("a new repository is seen by its owners alone", action="store_true")
    dry_run: bool = flag("list files and sizes, send nothing; needs no token", action="store_true")
    metrics: Path | None = flag(
        "what ldm.evaluate wrote, for a model's card; else metric.json in the folder", type=Path,
        metavar="METRIC_JSON",
    )  # fmt: skip
    message: str = flag("of the commit; else the folder's name", default="")
    frames_may_be_shared: bool = flag(
        "send data without --private, or to a public repository: everybody may have these frames (those of "
        "Ego4D and EPIC-KITCHENS only people who have accepted their terms)", action="store_true",
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Lists, then sends."""
    options = cli.options(PublishOptions, argv, "python -m egogen.publish", __doc__)
    from huggingface_hub import get_token
    from huggingface_hub.utils import logging as hub_logging

    from egogen.sharing.parcel import pack
    from egogen.sharing.pushing import check_frames, check_place, check_token, found_results, send
    from egogen.sharing.results import read_results

    hub_logging.disable_propagation()  # it shows its warnings itself
    check_place(options.repo)
    token = get_token()
    parcel = pack(options.folder, token)
    folder, private, shared = options.folder, options.private or None, options.frames_may_be_shared
    results = read_results(options.metrics, folder) if options.metrics else found_results(folder)
    sys.stdout.write(parcel.listing())
    if options.dry_run:
        check_frames(parcel, private, shared)
        return
    token = check_token(token)
    log.info("%s", send(parcel, options.repo, private, token, results, options.message, shared))


if __name__ == "__main__":
    cli.run(main)

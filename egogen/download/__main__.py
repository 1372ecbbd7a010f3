"""Fetches what was published: the data set, the authors' features, weights, and the weights of metrics.

An interrupted download goes on when the same command is given again. Sizes and sums are checked; archives are
unpacked and then deleted. HF_TOKEN, HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE are honoured.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from egogen.cli import options, run
from egogen.disk import require_space
from egogen.download.catalogue import CATALOGUE
from egogen.download.wanted import DownloadOptions, ask_all, choose

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Lists, then looks for room on the disk, then fetches."""
    wanted = options(DownloadOptions, argv, "python -m egogen.download", __doc__)
    choose(wanted)  # names wrong ones at once
    from huggingface_hub.utils import logging as hub_logging

    from egogen.download.installing import listing
    from egogen.locks import hold

    hub_logging.disable_propagation()  # it shows its warnings itself
    root, downloads = wanted.root, ask_all(wanted)
    if wanted.dry_run:
        sys.stdout.write("\n".join(map(listing, downloads)))
        return
    require_space(root, sum(download.needed() for download in downloads), "the download")
    for download in downloads:
        with hold(root / download.name, "the download"):
            download.run()
        log.info("%s: complete in %s (licence: %s)", download.name, root, download.source.licence)
    if CATALOGUE[wanted.group].contents == "dataset":
        log.info("check it: python -m egogen.validate %s", root)


if __name__ == "__main__":
    run(main)

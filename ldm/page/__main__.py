"""Serves a web page that draws action frames, to one person or to many, and the same over HTTP.

Without --ckpt it takes the newest result of the demo, else the toy LEGO that ships. It listens on this
machine alone unless --host says otherwise, and loads nothing from the network.
"""

from __future__ import annotations

from collections.abc import Sequence

from egogen import cli
from ldm.page.page_options import PageOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Parses, loads, serves."""
    options = cli.options(PageOptions, argv, "python app.py", __doc__)
    from ldm.page.running import serve

    serve(options)


if __name__ == "__main__":
    cli.run(main)

"""Makes an EgoGen data set, which both stages read, from Ego4D, EPIC-KITCHENS-100 or your own images."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from egogen.cli import parser, run

# Each module has `main(argv)`.
COMMANDS = {
    "ego4d": "egogen.prepare.ego4d",
    "epic": "egogen.prepare.epic",
    "folder": "egogen.prepare.folder",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Hands the arguments on to a subcommand."""
    words = list(sys.argv[1:] if argv is None else argv)
    made = parser("python -m egogen.prepare", __doc__)
    made.add_argument("command", choices=list(COMMANDS), help="COMMAND --help tells more")
    args = made.parse_args(words[:1])
    import_module(COMMANDS[args.command]).main(words[1:])


if __name__ == "__main__":
    run(main)

"""Makes an EgoGen data set from raw data or a download, and the formats of other tools from one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from egogen.cli import parser, run
from egogen.commands import first_line

# Each module has `main(argv)`.
COMMANDS = {
    "ego4d": "egogen.prepare.ego4d.ego4d_pairs",
    "epic": "egogen.prepare.epic.epic_pairs",
    "folder": "egogen.prepare.formats.image_table",
    "from-hf": "egogen.prepare.formats.hub",
    "to-parquet": "egogen.prepare.formats.parquet",
    "to-webdataset": "egogen.prepare.formats.webdataset",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Hands the arguments on to a subcommand."""
    words = list(sys.argv[1:] if argv is None else argv)
    made = parser("python -m egogen.prepare", f"{__doc__}\n\n{overview()}")
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("command", choices=list(COMMANDS), help="COMMAND --help tells more")
    args = made.parse_args(words[:1])
    import_module(COMMANDS[args.command]).main(words[1:])


def overview() -> str:
    """The subcommands, a line each."""
    return "\n".join(f"  {name:15}{first_line(module)}" for name, module in COMMANDS.items())


if __name__ == "__main__":
    run(main)

"""Makes an EgoGen data set from raw data or a download, and the formats of other tools from one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from egogen import cli
from egogen.commands import docstring, first_line
from egogen.prepare.options import (
    EXIT_CODES,
    Ego4DOptions,
    EpicOptions,
    ExportOptions,
    FolderOptions,
    HubOptions,
    ParquetOptions,
    PrepareOptions,
)

PROG = "python -m egogen.prepare"
# The flags of each subcommand, and the module whose `prepare` takes them; it is imported once they are read.
COMMANDS: dict[str, tuple[type, str]] = {
    "ego4d": (Ego4DOptions, "egogen.prepare.ego4d.ego4d_pairs"),
    "epic": (EpicOptions, "egogen.prepare.epic.epic_pairs"),
    "folder": (FolderOptions, "egogen.prepare.formats.image_table"),
    "from-hf": (HubOptions, "egogen.prepare.formats.hub"),
    "to-parquet": (ParquetOptions, "egogen.prepare.formats.parquet"),
    "to-webdataset": (ExportOptions, "egogen.prepare.formats.webdataset"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the flags of a subcommand, then runs it."""
    words = list(sys.argv[1:] if argv is None else argv)
    made = cli.parser(PROG, f"{__doc__}\n\n{overview()}")
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("command", choices=list(COMMANDS), help="COMMAND --help tells more")
    command: str = made.parse_args(words[:1]).command
    kind, module = COMMANDS[command]
    epilog = EXIT_CODES if issubclass(kind, PrepareOptions) else None
    options: object = cli.options(kind, words[1:], f"{PROG} {command}", docstring(module), epilog)
    import_module(module).prepare(options)


def overview() -> str:
    """The subcommands, a line each."""
    return "\n".join(f"  {name:15}{first_line(module)}" for name, (_, module) in COMMANDS.items())


if __name__ == "__main__":
    cli.run(main)

"""Makes EgoGen data sets from published files, and the formats of other tools from EgoGen data sets."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from egogen.cli import parser, run

COMMANDS = {
    "from-hf": "egogen.prepare.hub",
    "to-parquet": "egogen.prepare.parquet",
    "to-webdataset": "egogen.prepare.webdataset",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one of the commands."""
    made = parser("python -m egogen.prepare", __doc__)
    commands = made.add_subparsers(metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        command = import_module(module)
        lines = (command.__doc__ or "").strip()
        own = commands.add_parser(
            name, help=lines.splitlines()[0], description=lines, formatter_class=made.formatter_class
        )
        command.add_arguments(own)
        own.set_defaults(run=command.run)
    args = made.parse_args(argv)
    args.run(args)


if __name__ == "__main__":
    run(main)

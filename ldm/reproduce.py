"""The plan of scripts/reproduce.sh: from nothing to the paper's row, its commands, disk, memory and hours.

Without --dry-run it asks the servers for sizes and says whether the disks have room. It fetches nothing.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from egogen import cli
from ldm.reproduction.computing import Computing
from ldm.reproduction.fetching import downloads
from ldm.reproduction.needs import free, table
from ldm.reproduction.reproduce_options import ReproduceOptions


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the plan for people or, a part of it, for the shell."""
    options = cli.options(ReproduceOptions, argv, "python -m ldm.reproduce", __doc__)
    if options.steps == "fetch":
        sys.stdout.write(in_shell(options, [each.in_shell() for each in downloads(options)]))
        return
    from ldm.reproduction import room

    pairs = room.count_pairs(options)
    if options.steps == "work":
        sys.stdout.write(in_shell(options, [each.in_shell() for each in Computing(options, pairs).steps()]))
        return
    fetched = list(downloads(options))
    if not options.dry_run:
        fetched, share = room.ask_servers(room.left(options, fetched))
        pairs = max(1, round(share * pairs))
    steps = [*fetched, *Computing(options, pairs).steps()]
    if not options.dry_run:
        steps = room.left(options, steps)
    sys.stdout.write(f"{options.settings}; {pairs:,} pairs, {options.who} -> {options.work}\n\n")
    sys.stdout.write(table([(step.name, step.why, step.need) for step in steps]))
    sys.stdout.write(f"\n{free([step.need for step in steps])}")
    if options.dry_run:
        sys.stdout.write("\n" + "".join(f"{step.typed()}\n" for step in steps))
    room.warn_without_gpu(options, pairs)
    if not options.dry_run:
        room.check_room(steps)


def in_shell(options: ReproduceOptions, steps: list[str]) -> str:
    """Lines that scripts/reproduce.sh evaluates."""
    facts = [f"WORK={shlex.quote(f'{options.work}')}", f"SETTINGS={shlex.quote(options.settings)}"]
    return "\n".join([*facts, "plan() {", *steps, "}", ""])


if __name__ == "__main__":
    cli.run(main)

"""Compares with the safety net, or records it anew: `python -m tests.safety_net PART [--record WHY]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from datetime import date
from importlib import import_module
from pathlib import Path

from tests.safety_net.record import FOLDER, Net, differences

PARTS = {"data": "data.DataNet", "stage1": "stage_one.StageOneNet", "stage2": "stage_two.StageTwoNet"}


def make(part: str, root: Path) -> Net:
    """The net of a part; imports the packages of that part alone."""
    module, _, name = PARTS[part].partition(".")
    made: Net = getattr(import_module(f"tests.safety_net.{module}"), name)(root)
    return made


def main() -> int:
    """Prints what differs; with `--record` writes the new values and names the change."""
    parser = argparse.ArgumentParser(prog="python -m tests.safety_net", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--record", metavar="WHY", help="record anew; WHY goes to the README's list")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        net = make(args.part, Path(folder))
        found = {}
        for section in net.sections:
            begin = time.process_time()
            found[section] = net.measure(section)
            sys.stderr.write(f"== {section}: {time.process_time() - begin:.1f} s of CPU\n")
    first = not (FOLDER / f"{net.name}.json").exists()
    before = {} if first else net.recorded()["sections"]
    changed = list(differences(before, found, net.name, exact=True))
    sys.stdout.write("".join(f"{line[:200]}\n" for line in changed) or "all equal\n")
    if not args.record:
        return bool(changed)
    net.write(found)
    sections = sorted({line.split("/")[1].split(":")[0] for line in changed}) or ["nothing"]
    with (FOLDER / "README.md").open("a") as file:
        file.write(f"- {date.today()}, {net.name}: {args.record} ({', '.join(sections)})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

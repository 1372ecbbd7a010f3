"""Compares with the safety net, or records it anew.

python -m tests.safety_net PART [--only SECTION ...] [--record WHY]
"""

from __future__ import annotations

import argparse
import re
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
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="these sections alone")
    parser.add_argument("--record", metavar="WHY", help="record anew; WHY goes to the README's list")
    args = parser.parse_args()
    changed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        net = make(args.part, Path(folder))
        known = net.recorded()["sections"] if (FOLDER / f"{net.name}.json").exists() else {}
        for section in args.only or net.sections:
            begin = time.process_time()
            found = {section: net.measure(section)}
            sys.stderr.write(f"{section}: {time.process_time() - begin:.1f} s of CPU\n")
            before = {section: known[section]} if section in known else {}
            changed += differences(before, found, net.name, exact=True)
            known |= found
            if args.record:
                net.write({name: known[name] for name in net.sections if name in known})
    sys.stdout.write("".join(f"{line[:200]}\n" for line in changed) or "all equal\n")
    if args.record:
        sections = list(dict.fromkeys(re.split(r"[/:]", line)[1] for line in changed)) or ["nothing"]
        with (FOLDER / "README.md").open("a") as file:
            file.write(f"- {date.today()}, {net.name}: {args.record} ({', '.join(sections)})\n")
    return 0 if args.record else int(bool(changed))


if __name__ == "__main__":
    sys.exit(main())

"""Which versions of a lock have known vulnerabilities, by a list on disk: OSV's export of PyPI, a zip file.

`python scripts/known_faults.py LIST.zip LOCK...`: a line each; code 1 if there are any. Needs no network.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

PIN = re.compile(r"^([\w.-]+)==([^\s;]+)", re.MULTILINE)


def pins(lock: Path) -> set[tuple[str, str]]:
    """Names and versions of a lock."""
    return {
        (canonicalize_name(name), version) for name, version in PIN.findall(lock.read_text(encoding="utf-8"))
    }


def is_hit(affected: Mapping[str, Any], version: str) -> bool:
    """Whether a version is among those that an entry names, or within its ranges (OSV schema, version 1)."""
    if version in affected.get("versions", ()):
        return True
    for each in affected.get("ranges", ()):
        inside = False
        for event in each.get("events", ()) if each.get("type") == "ECOSYSTEM" else ():
            for kind, at in event.items():
                reached = at == "0" or Version(at) <= Version(version)
                passed = reached and (kind != "last_affected" or Version(at) < Version(version))
                inside = (inside or reached) if kind == "introduced" else inside and not passed
        if inside:
            return True
    return False


def known(listed: Path, wanted: set[tuple[str, str]]) -> Iterator[str]:
    """A line for each entry that a pinned version is in; ends with code 2 where nothing of PyPI is listed."""
    by_name = {name: {version for other, version in wanted if other == name} for name, _ in wanted}
    is_list = False
    with zipfile.ZipFile(listed) as file:
        for member in file.namelist():
            entry = json.loads(file.read(member))
            for affected in entry.get("affected", ()):
                package = affected.get("package", {})
                if package.get("ecosystem") != "PyPI":  # an entry may be of packages of several
                    continue
                is_list, name = True, canonicalize_name(package.get("name", ""))
                for version in () if entry.get("withdrawn") else sorted(by_name.get(name, ())):
                    try:
                        hit = is_hit(affected, version)
                    except InvalidVersion:
                        hit = True  # look at it yourself
                    if hit:
                        yield f"{name} {version}: {entry['id']} {entry.get('summary', '')}".rstrip()
    if not is_list:
        sys.stderr.write(f"error: {listed}: lists no vulnerability of PyPI; expected OSV's export of it\n")
        raise SystemExit(2)


def main() -> None:
    """Reads the words, looks, tells."""
    listed, *locks = map(Path, sys.argv[1:])
    wanted = set().union(*map(pins, locks))
    found = sorted(set(known(listed, wanted)))
    sys.stdout.write("".join(f"{line}\n" for line in found))
    sys.stdout.write(f"{len(wanted)} versions looked up in {listed}: {len(found)} known faults\n")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()

"""Locks against a list of known vulnerabilities on disk. Witness: entries in OSV's schema, by hand."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.workbench import ROOT

LOCK = "# by uv\nPillow==10.1.0\ntorch==2.15.0 ; python_full_version >= '3.11'\n    # via x\nzipp==4.1.2\n"


def look(folder: Path, *entries: dict[str, object]) -> subprocess.CompletedProcess[str]:
    (folder / "x.lock").write_text(LOCK)
    with zipfile.ZipFile(folder / "all.zip", "w") as file:
        for number, entry in enumerate(entries):
            file.writestr(f"{number}.json", json.dumps({"id": f"PYSEC-{number}", **entry}))
    words = [str(ROOT / "scripts/known_faults.py"), str(folder / "all.zip"), str(folder / "x.lock")]
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


def affected(name: str, *events: dict[str, str], versions: tuple[str, ...] = ()) -> dict[str, object]:
    ranges = [{"type": "ECOSYSTEM", "events": list(events)}] if events else []
    package = {"ecosystem": "PyPI", "name": name}
    return {"affected": [{"package": package, "ranges": ranges, "versions": list(versions)}]}


@pytest.mark.parametrize(
    ("entry", "hit"),
    [
        (affected("pillow", versions=("10.1.0",)), True),
        (affected("pillow", versions=("10.1",)), False),
        (affected("pillow", {"introduced": "0"}, {"fixed": "10.1.1"}), True),
        (affected("pillow", {"introduced": "0"}, {"fixed": "10.1.0"}), False),
        (affected("Pillow", {"introduced": "0"}, {"last_affected": "10.1.0"}), True),
        (affected("pillow", {"introduced": "0"}, {"last_affected": "10.0.9"}), False),
        (affected("pillow", {"introduced": "9"}, {"fixed": "10"}, {"introduced": "10.1"}), True),
        (affected("pillow", {"introduced": "10.2"}), False),
        (affected("zipp2", {"introduced": "0"}), False),
        ({**affected("zipp", {"introduced": "0"}), "withdrawn": "2026-01-01T00:00:00Z"}, False),
    ],
)
def test_a_version_is_in_an_entry_or_not(entry: dict[str, object], hit: bool, tmp_path: Path) -> None:
    ended = look(tmp_path, entry)
    assert ended.returncode == hit, ended.stderr
    assert ("10.1.0: PYSEC-0" in ended.stdout) == hit
    assert f"3 versions looked up in {tmp_path / 'all.zip'}: {int(hit)} known faults" in ended.stdout


def test_other_ecosystems_share_names_and_their_lists_are_none(tmp_path: Path) -> None:
    foreign = {"package": {"ecosystem": "npm", "name": "pillow"}, "versions": ["10.1.0"]}
    ours: dict[str, object] = affected("pillow", versions=("9",))
    (own,) = ours["affected"]  # type: ignore[misc]
    assert look(tmp_path, {"affected": [own, foreign]}).returncode == 0
    for entries in ([{"affected": [foreign]}], []):
        ended = look(tmp_path, *entries)
        assert ended.returncode == 2
        assert ended.stderr.endswith("lists no vulnerability of PyPI; expected OSV's export of it\n")

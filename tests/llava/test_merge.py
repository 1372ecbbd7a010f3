import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from egogen import cli
from egogen.files import write_json
from llava.describing.merging import shard_files
from llava.merge import main

ROOT = Path(__file__).parents[2]
EDITS: dict[str, Any] = {
    "a": {"0": {"image_0": "a/0.jpg", "image_1": "a/1.jpg", "action": "#C C walks", "extra": 1}},
    "b": {"7": {"image_0": "b/0.jpg", "image_1": "b/1.jpg", "action": "#C C sits"}},
}


def entry(label: str, text: str = "He does.") -> dict[str, str]:
    return {"original action": label, "action": "x", "description": text}


def prepare(folder: Path, shards: dict[str, Any], manifest: dict[str, str] | None = None) -> list[str]:
    write_json(folder / "ego4d_val.json", EDITS)
    for name, content in shards.items():
        write_json(folder / "texts" / name, content)
    if manifest:
        write_json(folder / "texts" / "manifest.json", manifest)
    return [
        "--save-path",
        str(folder / "texts"),
        "--edits",
        str(folder / "ego4d_val.json"),
        "--out",
        str(folder / "o.json"),
    ]


GOOD = {
    "shard_1_of_2.json": {"a": {"0": entry("#C C walks", "A \u00e9")}},
    "shard_2_of_2.json": {"b": {"7": entry("#C C sits")}},
}
TWO_SHARDS = {"split_by": "shard", "parts": "2"}


def test_what_macos_puts_beside_descriptions_is_none(tmp_path: Path) -> None:
    (tmp_path / "shard_1_of_1.json").write_text("{}")
    (tmp_path / "._shard_1_of_1.json").write_bytes(b"\0\5\x16\7")
    assert shard_files(tmp_path) == [tmp_path / "shard_1_of_1.json"]


@pytest.mark.parametrize("manifest", [None, TWO_SHARDS])
def test_shards_are_joined_and_nothing_else_changes(tmp_path: Path, manifest: dict[str, str] | None) -> None:
    main(prepare(tmp_path, GOOD, manifest))
    made = json.loads((tmp_path / "o.json").read_text())
    assert made["a"]["0"].pop("llava_forecast_finetune") == "A \u00e9"
    assert made["b"]["7"].pop("llava_forecast_finetune") == "He does."
    assert made == EDITS


@pytest.mark.parametrize(
    ("shards", "manifest", "message"),
    [
        ({}, None, "no descriptions here"),
        (
            {"shard_1_of_2.json": GOOD["shard_1_of_2.json"]},
            TWO_SHARDS,
            "1 parts are missing, such as shard_2_of_2.json",
        ),
        ({"shard_1_of_2.json": GOOD["shard_1_of_2.json"]}, None, "1 of 2 actions"),
        ({**GOOD, "x.json": GOOD["shard_1_of_2.json"]}, None, "is in shard_1_of_2.json as well"),
        ({**GOOD, "chunk_1_of_1.json": {}}, TWO_SHARDS, "not made by the run"),
        ({**GOOD, "x.json": {"c": {"0": entry("#C C runs")}}}, None, "is not in"),
        (
            {**GOOD, "shard_2_of_2.json": {"b": {"7": entry("#C C runs")}}},
            None,
            "was described as '#C C runs'",
        ),
        ({"x.json": {"a": {"0": {"description": 5, "original action": "x"}}}}, None, "field 'description'"),
        ({"x.json": []}, None, "found list"),
    ],
)
def test_gaps_duplicates_and_strangers_are_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    shards: dict[str, Any],
    manifest: dict[str, str] | None,
    message: str,
) -> None:
    argv = prepare(tmp_path, shards, manifest)
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: main(argv))
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o.json").exists()


@pytest.mark.slow
def test_a_killed_merge_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    actions = {str(index): {**EDITS["a"]["0"], "pad": "x" * 200} for index in range(10000)}
    texts = {"a": {index: entry("#C C walks", f"He does {index}.") for index in actions}}
    argv = prepare(tmp_path, {"one.json": texts})
    write_json(tmp_path / "ego4d_val.json", {"a": actions})
    out = tmp_path / "o.json"
    old = b'{"a": {}}'
    out.write_bytes(old)
    endings = set()
    for delay in (0.2, 0.4, 0.6, 0.8):
        with subprocess.Popen([sys.executable, "-m", "llava.merge", *argv], cwd=ROOT) as process:
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        endings.add(out.read_bytes() == old or len(json.loads(out.read_bytes())["a"]) == len(actions))
    assert endings == {True}
    main(argv)
    merged = json.loads(out.read_bytes())["a"]
    assert merged["9999"]["llava_forecast_finetune"] == "He does 9999."

"""Exports: WebDataset tars and Parquet that their readers read; the way back gives the same data set."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from egogen.errors import UserError
from egogen.layout import Layout
from egogen.manifest import file_hash
from egogen.prepare.__main__ import COMMANDS, main
from egogen.prepare.formats.hub import install
from tests.egogen.split_archive import split_archive, whole_archive

PARQUET = ["to-parquet", "{root}", "--dataset", "ego4d", "--out", "{out}", "--samples-per-shard", "2"]
TARS = ["to-webdataset", "{root}", "--dataset", "ego4d", "--out", "{out}", "--samples-per-shard", "2"]


def export(command: list[str], root: Path, out: Path, *more: str) -> None:
    main([word.format(root=root, out=out) for word in command] + list(more))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def actions(root: Path, split: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Layout(root, "ego4d").annotations(split).read_text())  # type: ignore[arg-type]
    return found


def add_descriptions(root: Path) -> Path:
    value = actions(root, "val")
    for number, clip in enumerate(value):
        value[clip]["0"]["llava_forecast_finetune"] = f"text {number}"
    path = root / "described.json"
    path.write_text(json.dumps(value))
    return path


def test_webdataset(root: Path, tmp_path: Path) -> None:
    described, out = add_descriptions(root), tmp_path / "out"
    export(TARS, root, out, "--split", "val", "--annotations", str(described))
    members: dict[str, bytes] = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            assert all((member.mtime, member.uid, member.uname) == (0, 0, "") for member in tar)
            members |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert [name.partition(".")[2] for name in members] == ["input.jpg", "target.jpg", "json"] * 3
    frames = Layout(root, "ego4d").frames("val")
    for number, (clip, entry) in enumerate(json.loads(described.read_text()).items()):
        key = f"{number:09d}"
        assert members[f"{key}.input.jpg"] == (frames / entry["0"]["image_0"]).read_bytes()
        assert members[f"{key}.target.jpg"] == (frames / entry["0"]["image_1"]).read_bytes()
        facts = json.loads(members[f"{key}.json"])
        assert facts.items() >= {"clip_id": clip, "action_id": "0", "description": f"text {number}"}.items()
        assert facts.items() >= entry["0"].items()
    index = json.loads((out / "ego4d-val.index.json").read_text())
    assert index["samples"] == 3
    assert [(shard["file"], shard["samples"]) for shard in index["shards"]] == [
        ("ego4d-val-000000.tar", 2),
        ("ego4d-val-000001.tar", 1),
    ]
    assert all(shard["sha256"] == file_hash(out / shard["file"]) for shard in index["shards"])


@pytest.mark.parametrize("command", [TARS, PARQUET], ids=["tars", "parquet"])
def test_the_same_bytes_again_and_after_a_break(root: Path, tmp_path: Path, command: list[str]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for split in ("train", "val"):
        export(command, root, one, "--split", split)
        export(command, root, two, "--split", split)
    assert contents(one) == contents(two)
    shards = sorted(path for path in two.rglob("*") if path.suffix in (".tar", ".parquet"))
    kept = shards[0].stat().st_mtime_ns
    for size in (None, 0, 100, shards[1].stat().st_size // 2):
        shards[1].unlink() if size is None else os.truncate(shards[1], size)
        export(command, root, two, "--split", "train")
        assert contents(one) == contents(two)
    assert shards[0].stat().st_mtime_ns == kept
    with pytest.raises(UserError, match="was made with samples_per_shard = 2, this run has 3"):
        export(command, root, two, "--split", "train", "--samples-per-shard", "3")


def test_parquet_is_read_by_datasets(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    out = tmp_path / "out"
    for split in ("train", "val"):
        for dataset in ("ego4d", "epickitchen"):
            export(PARQUET, root, out, "--split", split, "--dataset", dataset)
    cache = {"cache_dir": str(tmp_path / "cache")}
    whole = datasets.load_dataset(str(out), **cache)
    assert {split: len(rows) for split, rows in whole.items()} == {"train": 5, "val": 3}
    assert len(datasets.load_dataset(str(out), "epickitchen", split="val", **cache)) == 3
    files = str(out / "data/ego4d-val-*.parquet")
    for rows in (whole["val"], datasets.load_dataset("parquet", data_files=files, split="train", **cache)):
        assert rows.column_names == [
            *("input_image", "edit_prompt", "edited_image", "clip_id", "action_id", "action", "description"),
        ]
        for row, (clip, entry) in zip(rows, actions(root, "val").items(), strict=True):
            action = entry["0"]
            for column, key in (("input_image", "image_0"), ("edited_image", "image_1")):
                with Image.open(Layout(root, "ego4d").frames("val") / action[key]) as frame:
                    assert isinstance(row[column], Image.Image)
                    assert row[column].tobytes() == frame.tobytes()
            assert (row["clip_id"], row["action_id"], row["description"]) == (clip, "0", None)
            assert row["edit_prompt"] == row["action"] == action["action"]


def test_the_card(root: Path, tmp_path: Path) -> None:
    export(PARQUET, root, tmp_path, "--split", "val")
    export(PARQUET, root, tmp_path, "--split", "train")
    _, front, text = (tmp_path / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    assert card["license"] == "other"
    (config,) = card["configs"]
    assert config["config_name"] == "ego4d"
    assert [each["split"] for each in config["data_files"]] == ["train", "val"]
    assert "| ego4d | val | 3 |" in text


def test_prompts(root: Path, tmp_path: Path) -> None:
    described = str(add_descriptions(root))
    export(PARQUET, root, tmp_path / "a", "--split", "val", "--annotations", described)
    export(PARQUET, root, tmp_path / "b", "--split", "val", "--annotations", described, "--prompt", "action")
    prompts = [
        pq.read_table(tmp_path / folder / "data", columns=["edit_prompt", "description"]).to_pylist()
        for folder in ("a", "b")
    ]
    assert [row["edit_prompt"] for row in prompts[0]] == [f"text {number}" for number in range(3)]
    assert all(row["edit_prompt"].startswith("#C C ") for row in prompts[1])
    assert [row["description"] for row in prompts[1]] == [f"text {number}" for number in range(3)]
    with pytest.raises(UserError, match=r"3 of 3 actions have no llava_forecast_finetune.*--prompt action"):
        export(PARQUET, root, tmp_path / "c", "--split", "val", "--prompt", "description")


def test_parquet_and_back(root: Path, tmp_path: Path) -> None:
    for dataset in ("ego4d", "epickitchen"):
        for split in ("train", "val"):
            export(PARQUET, root, tmp_path / "out", "--split", split, "--dataset", dataset)
    main(["from-hf", str(tmp_path / "out"), "--out", str(tmp_path / "back")])
    before = contents(root)
    del before["EgoGen/manifest.json"]
    assert contents(tmp_path / "back") == before
    main(["from-hf", str(tmp_path / "out"), "--out", str(tmp_path / "back")])  # finds everything there
    assert contents(tmp_path / "back") == before


def download(root: Path, out: Path, inside: bool, part_size: int | None) -> None:
    """A download of the published repository: JSON files at the top or in EgoGen/, frames in an archive."""
    out.mkdir()
    shutil.rmtree(root / "EgoGen/ego4d.fho/val_gt_for_metric")
    found = contents(root)
    del found["EgoGen/manifest.json"]
    frames = {name: content for name, content in found.items() if name.endswith(".jpg")}
    for name, content in found.items():
        if name not in frames:
            path = out / (name if inside else name.removeprefix("EgoGen/"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    *first, last = split_archive(frames, part_size) if part_size else [whole_archive(frames)]
    for number, part in enumerate(first, 1):
        (out / f"EgoGen.z{number:02d}").write_bytes(part)
    (out / "EgoGen.zip").write_bytes(last)
    (out / ".cache").mkdir()
    (out / ".cache/ego4d_val.json").write_text("{}")


@pytest.mark.parametrize("inside", [False, True], ids=["at the top", "in EgoGen"])
@pytest.mark.parametrize("part_size", [None, 20_000], ids=["whole", "split"])
def test_the_published_download(
    root: Path, world: Path, tmp_path: Path, inside: bool, part_size: int | None
) -> None:
    download(root, tmp_path / "src", inside, part_size)
    before = contents(tmp_path / "src")
    main(["from-hf", str(tmp_path / "src"), "--out", str(tmp_path / "data")])
    assert contents(tmp_path / "src") == before
    expected = contents(world)
    del expected["EgoGen/manifest.json"]
    assert contents(tmp_path / "data") == expected


def test_a_download_that_leads_out_of_itself_is_refused(root: Path, tmp_path: Path) -> None:
    """Nor is what it links to copied, but for the blobs of the hub's cache."""
    cache, secret = tmp_path / "models--lego--egogen", tmp_path / "secret.jpg"
    snapshot, blob = cache / "snapshots/0123", cache / "blobs/abcd"
    for folder in (snapshot, blob):
        folder.parent.mkdir(parents=True)
    shutil.move(root, snapshot)
    frame = next(snapshot.rglob("*45.jpg"))
    shutil.move(frame, blob)
    frame.symlink_to(blob)
    main(["from-hf", str(snapshot), "--out", str(tmp_path / "data")])
    shutil.copy(blob, secret)
    for goal, message in ((secret, "outside of the download; refused"), (cache / "blobs/gone", "to nothing")):
        frame.unlink()
        frame.symlink_to(goal)
        with pytest.raises(UserError, match=rf"{frame.name}: .*{message}"):
            main(["from-hf", str(snapshot), "--out", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()


def test_an_unpacked_download(root: Path, world: Path, tmp_path: Path) -> None:
    shutil.move(root / "EgoGen/curation_from_gpt", root)
    main(["from-hf", str(root), "--out", str(tmp_path / "data")])
    expected = contents(world)
    del expected["EgoGen/manifest.json"]
    assert contents(tmp_path / "data") == expected


def test_a_download_where_it_is_to_be_used(root: Path, world: Path, tmp_path: Path) -> None:
    download(root, tmp_path / "data", inside=False, part_size=None)
    main(["from-hf", str(tmp_path / "data"), "--out", str(tmp_path / "data")])
    expected = contents(world)
    del expected["EgoGen/manifest.json"]
    assert contents(tmp_path / "data").items() >= expected.items()


def test_faults_end_with_code_1(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next((root / "EgoGen/ego4d.fho/train").rglob("*.jpg")).unlink()
    with pytest.raises(SystemExit) as ended:
        main(["from-hf", str(root), "--out", str(tmp_path / "data")])
    assert ended.value.code == 1
    assert "no such frame" in capsys.readouterr().out


def test_other_files_are_never_overwritten(root: Path, tmp_path: Path) -> None:
    mine = tmp_path / "data/EgoGen/ego4d_val.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match=r"ego4d_val\.json: there already, with other bytes"):
        main(["from-hf", str(root), "--out", str(tmp_path / "data")])
    assert mine.read_text() == "mine"
    mine.write_bytes(Layout(root, "ego4d").annotations("val").read_bytes()[:20])
    install(root, tmp_path / "data")  # cut off: a crash left it so
    assert mine.read_bytes() == Layout(root, "ego4d").annotations("val").read_bytes()


def test_parquet_of_others(root: Path, tmp_path: Path) -> None:
    export(PARQUET, root, tmp_path / "src", "--split", "val")
    path = next((tmp_path / "src/data").iterdir())
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["input_image"]["path"] = "../../../evil.jpg"
    pq.write_table(type(table).from_pylist(rows, table.schema), path)
    with pytest.raises(UserError, match=r"'../../../evil.jpg' contains '\.\.'"):
        main(["from-hf", str(tmp_path / "src"), "--out", str(tmp_path / "a")])
    assert not list(tmp_path.rglob("evil.jpg"))
    bad = {**table.schema.metadata, b"egogen": b'{"dataset": "ego4d", "split": "../../x"}'}
    pq.write_table(table.replace_schema_metadata(bad), path)
    with pytest.raises(UserError, match="its split is unknown"):
        main(["from-hf", str(tmp_path / "src"), "--out", str(tmp_path / "d")])
    pq.write_table(table.replace_schema_metadata({}), path)
    with pytest.raises(UserError, match="its split is unknown"):
        main(["from-hf", str(tmp_path / "src"), "--out", str(tmp_path / "b")])
    for metadata in (b"[1]", b"{", b"[" * 99_999):
        pq.write_table(table.replace_schema_metadata({b"egogen": metadata}), path)
        with pytest.raises(UserError, match=r"\.parquet: (the metadata egogen: found|not)"):
            main(["from-hf", str(tmp_path / "src"), "--out", str(tmp_path / "e")])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="not a readable Parquet file"):
        main(["from-hf", str(tmp_path / "src"), "--out", str(tmp_path / "c")])


def break_frame(root: Path) -> None:
    path = next((root / "EgoGen/ego4d.fho/val").rglob("*30.jpg"))
    path.write_bytes(path.read_bytes()[:-100])


def lose_frame(root: Path) -> None:
    next((root / "EgoGen/ego4d.fho/val").rglob("*30.jpg")).unlink()


def empty(root: Path) -> None:
    Layout(root, "ego4d").annotations("val").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            break_frame,
            r"frame_0000000030\.jpg: (is cut off|not a readable image).*egogen\.validate names all",
        ),
        (lose_frame, r"frame_0000000030\.jpg: cannot be read \(No such file or directory\)"),
        (empty, r"ego4d_val\.json: holds no action"),
    ],
)
@pytest.mark.parametrize("command", [TARS, PARQUET], ids=["tars", "parquet"])
def test_what_cannot_be_exported(
    root: Path, tmp_path: Path, command: list[str], damage: Callable[[Path], None], message: str
) -> None:
    damage(root)
    with pytest.raises(UserError, match=message):
        export(command, root, tmp_path / "out", "--split", "val", "--samples-per-shard", "5")
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".tar", ".parquet", ".part")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["from-hf", "nowhere", "--out", "x"], "nowhere: no such folder"),
        (["from-hf", "{empty}", "--out", "x"], "no EgoGen data here; expected EgoGen.zip"),
        ([*TARS, "--split", "val", "--samples-per-shard", "0"], "--samples-per-shard 0: expected 1 or more"),
        ([*TARS[:-4], "--split", "val", "--out", "{root}/EgoGen/ego4d.fho/val"], "which holds the data"),
        (["to-parquet", "nowhere", "--dataset", "ego4d", "--split", "val", "--out", "x"], "no such file"),
    ],
)
def test_wrong_arguments(root: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").touch()
    with pytest.raises(UserError, match=message):
        main([word.format(root=root, out=tmp_path / "out", empty=tmp_path / "empty") for word in arguments])


def test_commands_say_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)
    with pytest.raises(SystemExit):
        main(["to-parquet", "--help"])
    assert "--prompt" in capsys.readouterr().out


def test_png_frames_keep_their_kind(root: Path, tmp_path: Path) -> None:
    layout = Layout(root, "ego4d")
    value = actions(root, "val")
    action = value["toy_val_000000"]["0"]
    stream = io.BytesIO()
    Image.new("RGB", (71, 40)).save(stream, "PNG")
    action["image_0"] = action["image_0"].replace(".jpg", ".PNG")
    (layout.frames("val") / action["image_0"]).write_bytes(stream.getvalue())
    layout.annotations("val").write_text(json.dumps(value))
    export(TARS, root, tmp_path / "out", "--split", "val")
    with tarfile.open(tmp_path / "out/ego4d-val-000000.tar") as tar:
        assert tar.getnames()[:3] == ["000000000.input.png", "000000000.target.jpg", "000000000.json"]

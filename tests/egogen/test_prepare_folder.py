"""Anybody's own images: three forms of the table, what is kept of it, and what is wrong with it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import ExifTags, Image
from pyarrow import parquet

from egogen.annotations import Annotations, read_metadata
from egogen.csv_rows import read_csv
from egogen.errors import UserError
from egogen.layout import DESCRIPTION_KEY, Layout
from egogen.prepare.__main__ import main
from egogen.prepare.formats.image_table import read_rows, share_out
from tests.egogen.raw_data import drawn, number_in
from tests.samples import PAIRS, needs

Rows = list[dict[str, Any]]


def images(folder: Path, count: int = 6) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        drawn(number, 160, 96).save(folder / f"{number}.png")


def write_table(path: Path, rows: Rows) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def prepare(table: Path, out: Path, *more: str) -> Layout:
    main(["folder", "--pairs", str(table), "--out", str(out), "--size", "48", "--workers", "1", *more])
    return Layout(out, "epickitchen")


ROWS: Rows = [
    {"image_0": "images/0.png", "image_1": "images/1.png", "action": "cut carrot", "clip": "mine", "id": "a",
     "split": "train", "description": "The left hand cuts.", "verb": "cut"},
    {"image_0": "images/2.png", "image_1": "images/3.png", "action": "open, then close, the jar",
     "clip": "mine", "id": "b", "split": "train", "description": None, "verb": None},
    {"image_0": "images/4.png", "image_1": "images/5.png", "action": "wash cup", "clip": "yours", "id": "a",
     "split": "val", "description": None, "verb": "wash"},
]  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_three_forms_of_the_table(tmp_path: Path, suffix: str) -> None:
    images(tmp_path / "images")
    layout = prepare(write_table(tmp_path / f"pairs.{suffix}", ROWS), tmp_path / "out")
    train, val = (list(Annotations.read(layout.annotations(split))) for split in ("train", "val"))
    assert [(item.clip, item.id, item.action.action) for item in [*train, *val]] == [
        ("mine", "a", "cut carrot"),
        ("mine", "b", "open, then close, the jar"),
        ("yours", "a", "wash cup"),
    ]
    assert train[0].action.text(DESCRIPTION_KEY) == "The left hand cuts."
    assert train[0].action.text("verb") == "cut"
    assert train[1].action.text(DESCRIPTION_KEY) is None
    frames = [layout.frames("val") / name for name in (val[0].action.image_0, val[0].action.image_1)]
    assert [number_in(path) for path in frames] == [4, 5]
    assert sorted(frames[0].parent.iterdir()) == frames
    clip = read_metadata(layout.metadata)["mine"]
    assert (clip.height, clip.width, clip.fps) == (96, 160, None)


def test_only_three_columns_are_needed(tmp_path: Path) -> None:
    images(tmp_path / "images")
    rows = [{name: row[name] for name in ("image_0", "image_1", "action")} for row in ROWS]
    layout = prepare(write_table(tmp_path / "pairs.csv", rows), tmp_path / "out", "--dataset", "ego4d")
    items = list(Annotations.read(Layout(tmp_path / "out", "ego4d").annotations("train")))
    assert [item.clip for item in items] == ["pairs_000000", "pairs_000001", "pairs_000002"]
    assert {item.id for item in items} == {"0"}
    assert not layout.annotations("val").exists()


@pytest.mark.parametrize(("mode", "suffix"), [("RGB", "jpg"), ("CMYK", "jpg"), ("RGBA", "png")])
def test_photos_are_turned_as_their_camera_noted(tmp_path: Path, mode: str, suffix: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned by a quarter, clockwise
    for number in (0, 1):
        turned = drawn(number, 96, 160).transpose(Image.Transpose.ROTATE_90)
        turned.convert(mode).save(tmp_path / f"{number}.{suffix}", exif=exif)
    rows: Rows = [{"image_0": f"0.{suffix}", "image_1": f"1.{suffix}", "action": "cut"}]
    layout = prepare(write_table(tmp_path / "pairs.jsonl", rows), tmp_path / "out")
    (item,) = Annotations.read(layout.annotations("train"))
    for number, name in enumerate((item.action.image_0, item.action.image_1)):
        assert Image.open(layout.frames("train") / name).size == (29, 48)
        assert number_in(layout.frames("train") / name) == number


def test_a_photo_with_broken_exif_is_taken_as_it_is(tmp_path: Path) -> None:
    for number in (0, 1):
        drawn(number, 160, 96).save(tmp_path / f"{number}.jpg", exif=b"Exif\0\0nonsense")
    rows: Rows = [{"image_0": "0.jpg", "image_1": "1.jpg", "action": "cut"}]
    layout = prepare(write_table(tmp_path / "pairs.jsonl", rows), tmp_path / "out")
    assert len(Annotations.read(layout.annotations("train"))) == 1


def test_sixteen_bits_of_grey_keep_their_shades(tmp_path: Path) -> None:
    images(tmp_path / "images")
    deep = np.linspace(0, 65535, 96 * 160).reshape(96, 160).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "images" / "0.png")
    layout = prepare(write_table(tmp_path / "pairs.csv", [ROWS[0]]), tmp_path / "out")
    (item,) = Annotations.read(layout.annotations("train")).items
    with Image.open(layout.frames("train") / item.action.image_0) as frame:
        assert abs(np.asarray(frame).mean() - 127.5) < 2


def test_numbers_step_around_ids_that_are_given(tmp_path: Path) -> None:
    images(tmp_path / "images")
    ids = ("1", None, None)
    rows = [{**row, "clip": "mine", "split": "train", "id": ids[index]} for index, row in enumerate(ROWS)]
    layout = prepare(write_table(tmp_path / "pairs.csv", rows), tmp_path / "out")
    assert sorted(item.id for item in Annotations.read(layout.annotations("train")).items) == ["1", "2", "3"]


def test_a_clip_is_in_one_split(tmp_path: Path) -> None:
    images(tmp_path / "images")
    rows = [ROWS[0], {**ROWS[2], "clip": "mine"}]
    with pytest.raises(UserError, match=r"pairs\.csv: line 3: clip 'mine' is in the split 'train' too"):
        prepare(write_table(tmp_path / "pairs.csv", rows), tmp_path / "out")


def test_empty_lines_count_for_nothing(tmp_path: Path) -> None:
    images(tmp_path / "images")
    table = write_table(tmp_path / "pairs.jsonl", ROWS)
    table.write_text(table.read_text().replace("\n", "\n\n"))
    assert len(Annotations.read(prepare(table, tmp_path / "out").annotations("train"))) == 2


def test_images_that_make_no_pair(tmp_path: Path) -> None:
    images(tmp_path / "images")
    for name in ("square", "other"):
        drawn(7, 96, 96).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    names = [("0", "none"), ("0", "broken"), ("0", "square"), ("square", "other"), ("0", "1")]
    rows: Rows = [
        {"image_0": f"images/{first}.png", "image_1": f"images/{second}.png", "action": "cut", "clip": "c"}
        for first, second in reversed(names)
    ]
    with pytest.raises(SystemExit) as stop:
        prepare(write_table(tmp_path / "pairs.jsonl", rows), tmp_path / "out")
    assert stop.value.code == 12
    (manifest,) = (tmp_path / "out").rglob("manifest.jsonl")
    decisions = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [row["reason"] for row in decisions] == [
        None,
        "another size than its clip's",
        "frames of two shapes",
        "frame damaged or missing",
        "source missing",
    ]
    # Frames of pairs that were left out later are gone.
    assert len(list((tmp_path / "out").rglob("frame_*.jpg"))) == 2


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_run_that_keeps_nothing_fails_and_says_why(tmp_path: Path, more: list[str]) -> None:
    images(tmp_path / "images")
    drawn(7, 96, 96).save(tmp_path / "images/1.png")
    row = {**ROWS[0], "clip": "a/b"} if more else ROWS[0]
    why = "id is no file name" if more else "frames of two shapes"
    with pytest.raises(UserError, match=rf"none of 1 pairs can be kept: {why} \(1\)"):
        prepare(write_table(tmp_path / "pairs.csv", [row]), tmp_path / "out", *more)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ('image_0; image_1 ;action\r\na.png; b.png;"cut; then\nwash"\r\n\r\n;;\r\n', "utf-8-sig"),
        ("image_0\timage_1\taction\na.png\tb.png\tcut; then\nwash\n", "utf-16"),
        ('sep=;\r\nimage_0;image_1;action\r\na.png;b.png;"cut; then\nwash"\r\n', "utf-8"),  # Excel's own
        ('"sep=|"\nimage_0|image_1|action\na.png|b.png|"cut; then\nwash"\n', "utf-8-sig"),
        ('image_0, image_1, action, note\na.png, b.png, "cut; then\nwash"\n', "utf-8"),
    ],
)
def test_tables_of_spreadsheets(tmp_path: Path, text: str, encoding: str) -> None:
    if "\t" in text:
        text = text.replace("cut; then\nwash", '"cut; then\nwash"')
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    expected = {"image_0": "a.png", "image_1": "b.png", "action": "cut; then\nwash"}
    found = [row for _, row in read_rows(tmp_path / "a.csv")]
    assert [{name: str(value).strip() for name, value in row.items()} for row in found] == [expected]


@pytest.mark.parametrize("above", ["", "sep=,\n"])
def test_lines_are_counted_from_the_top_of_the_file(tmp_path: Path, above: str) -> None:
    path, first = tmp_path / "a.csv", above.count("\n") + 1
    path.write_text(f"{above}a,b\n1,2\n\n3,4\n5,6,7\n")
    rows = read_csv(path)[1]
    assert [next(rows)[0], next(rows)[0]] == [first + 1, first + 3]
    with pytest.raises(UserError, match=f"line {first + 4} has more fields than the first line has names"):
        next(rows)
    path.write_text(f'{above}a,b\n1,"2"x\n')
    with pytest.raises(UserError, match=f"about line {first + 1}"):
        list(read_csv(path)[1])


LATE = [*ROWS[:2], {**ROWS[2], "split": "test"}]


@pytest.mark.parametrize(
    ("name", "where"), [("a.csv", "line 8"), ("a.jsonl", "line 4"), ("a.parquet", "row 3")]
)
def test_a_fault_is_told_by_its_line_or_of_a_file_without_lines_by_its_row(
    tmp_path: Path, name: str, where: str
) -> None:
    """Rows may be over several lines, and lines without rows between them."""
    rows = [{**row, "action": row["action"].replace(", ", ",\n\n")} for row in LATE]
    path = write_table(tmp_path / name, rows)
    if name == "a.jsonl":
        path.write_text(path.read_text().replace("\n", "\n\n", 1))
    with pytest.raises(UserError, match=rf"{name}: {where}: split 'test'; allowed are"):
        prepare(path, tmp_path / "out")
    for row in rows:
        row["action"] = None if row["split"] == "test" else row["action"]
    write_table(path, rows)
    with pytest.raises(UserError, match=rf"{name}: (line|row) \d has no text in action"):
        prepare(path, tmp_path / "out")


def test_a_row_over_several_lines_is_told_by_its_first(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('sep=,\na,b\n1,"2\n3"\n\n"4\n5","6\n7"\n8,9\n')
    assert [line for line, _ in read_csv(path)[1]] == [3, 6, 9]


def test_a_share_of_the_clips_goes_to_val(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows: Rows = [{**ROWS[0], "clip": f"clip {number}", "split": None} for number in range(8)]
    rows += [{**row, "id": "b"} for row in rows] + [{**ROWS[0], "clip": "named", "split": "train"}]
    path = tmp_path / "pairs.csv"
    shared = [row["split"] for row in share_out(path, [{**row} for row in rows], 0.25) if row["split"]]
    without = [{name: value for name, value in row.items() if value is not None} for row in rows]
    made = share_out(path, without, 0.25)
    val = {row["clip"] for row in made if row["split"] == "val"}
    assert (len(val), len(made)) == (2, 17)
    assert shared == ["train"], "a row of the table that read_rows gives has no empty fields"
    assert {row["clip"] for row in share_out(path, without[::-1], 0.25) if row["split"] == "val"} == val
    assert sum(row["split"] == "val" for row in share_out(path, without, 0.001)) == 2, "one clip at least"
    images(tmp_path / "images")
    few = [{**ROWS[0], "split": None}, {**ROWS[2], "split": None}]
    layout = prepare(write_table(path, few), tmp_path / "out")
    assert "names no val split, all pairs are train" in caplog.text
    assert not layout.annotations("val").exists()
    layout = prepare(path, tmp_path / "shared", "--val-share", "0.5")
    assert [len(Annotations.read(layout.annotations(split))) for split in ("train", "val")] == [1, 1]
    with pytest.raises(UserError, match=r"--val-share 1\.0: expected a number between 0 and 1"):
        prepare(path, tmp_path / "shared", "--val-share", "1")


def test_rows_of_one_image_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images(tmp_path / "images")
    row = {**ROWS[0], "image_1": ROWS[0]["image_0"]}
    layout = prepare(write_table(tmp_path / "pairs.csv", [row, ROWS[1]]), tmp_path / "out")
    assert "1 of 2 rows have one image as input and target" in caplog.text
    assert sum(1 for _ in Annotations.read(layout.annotations("train"))) == 2


def test_images_may_lie_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    images(tmp_path / "home" / "images")
    (tmp_path / "tables").mkdir()
    row = {**ROWS[0], "image_0": "~/images/2.png", "image_1": f"{tmp_path}/home/images/3.png"}
    layout = prepare(write_table(tmp_path / "tables" / "pairs.csv", [row]), tmp_path / "out")
    (item,) = Annotations.read(layout.annotations("train"))
    names = (item.action.image_0, item.action.image_1)
    assert [number_in(layout.frames("train") / name) for name in names] == [2, 3]


def test_an_image_name_that_no_file_can_have_is_missing(tmp_path: Path) -> None:
    images(tmp_path / "images")
    rows = [{**ROWS[0], "image_0": f"{'x' * 300}.png"}, ROWS[2]]
    with pytest.raises(SystemExit) as stop:
        prepare(write_table(tmp_path / "pairs.csv", rows), tmp_path / "out")
    assert stop.value.code == 11


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "image_0,action\nx.png,cut\n", "line 2 has no text in image_1; it has 'image_0', 'action'"),
        (
            "a.csv",
            "image_0,image_1,action\nx.png,y.png,cut,more\n",
            "line 2 has more fields than the first line",
        ),
        ("a.csv", "image_0,image_1,action\n", "holds no rows"),
        ("a.csv", "image_0,image_1,action, action\n", "the first line has the column 'action' twice"),
        ("a.csv", "image_0,image_1,action,\n", "the first line has no name for column 4"),
        ("a.csv", 'image_0,image_1,action\na,b,"cut\n', "not a CSV file .*about line 2"),
        ("a.csv", "image_0,image_1,action\na,b,\xe9\n", "not UTF-8 text"),
        ("a.jsonl", '{"image_0": "x", "image_0": "y"}', "line 1: the key 'image_0' occurs twice"),
        (
            "a.jsonl",
            '{"image_0": "x", "image_1": "y", "action": "z", "n": NaN}',
            "line 1: holds the number NaN",
        ),
        ("a.jsonl", '{"image_0": "x", "image_1": "y", "action": 3}\n', "line 1 has no text in action"),
        ("a.jsonl", '{"image_0": "x", "image_1": "y", "action": " "}\n', "line 1 has no text in action"),
        ("a.jsonl", "{\n", "line 1: not valid JSON"),
        ("a.jsonl", "[1]\n", "line 1: found list .*expected an object"),
        ("a.parquet", "nothing", "not a readable Parquet file"),
        ("a.txt", "", r"expected a table that ends with \.csv, \.jsonl, \.parquet"),
        (
            "a.jsonl",
            '{"image_0": "x", "image_1": "y", "action": "z", "split": "test"}',
            "split 'test'; allowed are",
        ),
        (
            "a.jsonl",
            '{"image_0": "x", "image_1": "y", "action": "z", "more": [1]}',
            "column 'more' holds list",
        ),
    ],
)
def test_wrong_tables(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=message):
        prepare(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pairs\.csv: no such file"):
        prepare(tmp_path / "pairs.csv", tmp_path / "out")


@needs(PAIRS)
def test_real_pairs(tmp_path: Path) -> None:
    entries = json.loads((PAIRS / "actions.json").read_text())
    rows = [
        {
            "image_0": str(PAIRS / row["input"]),
            "image_1": str(PAIRS / row["output"]),
            "action": row["instruction"],
        }
        for row in entries
    ]
    main(
        [
            "folder",
            "--pairs",
            str(write_table(tmp_path / "pairs.parquet", rows)),
            "--out",
            str(tmp_path / "out"),
        ]
    )
    layout = Layout(tmp_path / "out", "epickitchen")
    items = list(Annotations.read(layout.annotations("train")))
    assert [item.action.action for item in items] == [row["instruction"] for row in entries]
    with Image.open(layout.frames("train") / items[0].action.image_0) as frame:
        assert frame.size == (256, 256)

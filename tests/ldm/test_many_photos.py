"""Many photos by one command: each as if it were alone, resumed, faults named without losing the others."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from egogen.errors import UserError
from egogen.seeds import item_seed
from egogen.sheets import GAP, HEIGHT, TEXT
from ldm.edit import main as edit
from ldm.sampling import many_photos
from ldm.sampling.asking import Question, begin
from ldm.sampling.edit_options import PhotoListOptions
from ldm.sampling.photo_list import named_apart, read_wishes
from tests.ldm.test_edit import folder

__all__ = ["folder"]

# Does what `llava.describe` does for any actions: a text and features that follow from seed or given text.
STAND_IN = """
import json, sys
import numpy as np
from pathlib import Path
flags = dict(zip(sys.argv[3::2], sys.argv[4::2]))
with open("CALLS", "a") as file:
    file.write(json.dumps(flags) + "\\n")
read = lambda name: json.loads(Path(flags[name]).read_text()) if name in flags else None
actions, seeds, given = read("--action-label"), read("--seeds"), read("--texts")
texts = {}
for clip, entry in actions.items():
    frame = entry["0"]["image_0"]
    assert (Path(flags["--image-dir"]) / frame).exists()
    seed = seeds[clip]["0"] if seeds else int(flags["--seed"])
    text = given[clip]["0"] if given else f"how to {entry['0']['action']}, drawn by {seed}"
    texts[clip] = {"0": {"description": text}}
    rng = np.random.default_rng(seed if not given else len(text))
    for kind, tokens in (("image", 256), ("text", 9)):
        path = Path(flags[f"--save-{kind}-feature-path"])
        path.mkdir(parents=True, exist_ok=True)
        np.save(path / frame.replace(".png", ".npy"), rng.normal(size=(tokens, 24)).astype(np.float16))
out = Path(flags["--save-path"])
out.mkdir(exist_ok=True)
(out / "chunk_1_of_1.json").write_text(json.dumps(texts))
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos of different shapes, one of them turned by its camera's note."""
    place = tmp_path / "photos"
    (place / "below").mkdir(parents=True)
    rng = np.random.default_rng(1)
    for name, size in (("a.png", (48, 90, 3)), ("b.jpg", (64, 64, 3)), ("below/c.png", (90, 48, 3))):
        exif = Image.Exif()
        exif[0x112] = 6 if name == "b.jpg" else 1
        Image.fromarray(rng.integers(0, 255, size, np.uint8)).save(place / name, exif=exif)
    return place


@pytest.fixture
def stage_one(tmp_path: Path) -> list[str]:
    """The flags of a VLLM folder and of a Python that stands in for stage 1."""
    (tmp_path / "describe.py").write_text(STAND_IN.replace("CALLS", str(tmp_path / "calls")))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {tmp_path}/describe.py "$@"\n')
    python.chmod(0o755)
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm/config.json").write_text("{}")
    return ["--vllm", str(tmp_path / "vllm"), "--vllm-python", str(python)]


def calls(tmp_path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]


def flags(folder: Path, output: Path, *more: object) -> list[str]:
    return [
        *map(str, ("--ckpt", folder / "lego.ckpt", "--output", output, "--steps", 2, "--resolution", 32)),
        *map(str, ("--device", "cpu", *more)),
    ]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image, int)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "photos.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_photo_is_drawn_as_if_it_were_alone(folder: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    edit(flags(folder, out, "--input", photos, "--prompt", "open the box", "--batch-size", 2))
    names = {
        "a.png": "a_open_the_box.png",
        "b.jpg": "b_open_the_box.png",
        "below/c.png": "c_open_the_box.png",
    }
    assert sorted(path.name for path in (out / "images").iterdir()) == sorted(names.values())
    for photo, name in names.items():
        alone = tmp_path / "alone.png"
        edit(flags(folder, alone, "--input", photos / photo, "--prompt", "open the box"))
        assert abs(pixels(out / "images" / name) - pixels(alone)).max() <= 1  # products of other shapes round
    assert [row["output"] for row in rows(out)] == [*names.values()]
    assert (out / rows(out)[0]["photo"]).resolve() == photos / "a.png"
    with Image.open(out / "contact_sheet.jpg") as shown:
        assert shown.height == HEIGHT + TEXT + 2 * GAP
    assert not [*out.glob(".*")]


def test_a_table_says_all_of_each_photo(folder: Path, photos: Path, tmp_path: Path) -> None:
    table = photos / "pairs.csv"
    table.write_text("photo,action,seed,output\na.png,open the box,,\na.png,open the box,7,x/one.jpg\n")
    edit(flags(folder, tmp_path / "out", "--input", table, "--seed", 3, "--batch-size", 1))
    alone = flags(folder, tmp_path / "alone.png", "--input", photos / "a.png", "--prompt", "open the box")
    drawn = tmp_path / "out/images"
    edit([*alone, "--seed", "3"])
    assert (drawn / "a_open_the_box.png").read_bytes() == (tmp_path / "alone.png").read_bytes()
    edit([*alone, "--seed", "7", "--output", str(tmp_path / "alone.jpg")])
    assert (drawn / "x/one.jpg").read_bytes() == (tmp_path / "alone.jpg").read_bytes()
    # What it wrote is a table that it takes.
    edit(flags(folder, tmp_path / "again", "--input", tmp_path / "out/photos.csv", "--batch-size", 1))
    again = tmp_path / "again/images/a_open_the_box.png"
    assert again.read_bytes() == (drawn / "a_open_the_box.png").read_bytes()


def test_a_second_run_draws_what_is_left_and_refuses_other_settings(
    folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    asked = flags(folder, out, "--input", photos, "--prompt", "open the box", "--batch-size", 1)
    shown, whole = many_photos.decode, []

    def cut(*args: object, **how: object) -> torch.Tensor:
        if len(whole) == 1:
            raise KeyboardInterrupt
        whole.append(shown(*args, **how))  # type: ignore[arg-type]
        return whole[-1]

    monkeypatch.setattr(many_photos, "decode", cut)
    with pytest.raises(KeyboardInterrupt):
        edit(asked)
    (first,) = (out / "images").iterdir()
    before = first.stat().st_mtime_ns
    monkeypatch.setattr(many_photos, "decode", shown)
    shutil.copy(photos / "a.png", photos / "d.png")  # a further photo is added
    edit(asked)
    assert first.stat().st_mtime_ns == before
    assert len([*(out / "images").iterdir()]) == 4
    edit([*asked, "--input", str(photos / "a.png"), str(photos / "b.jpg")])  # the others stay in the table
    assert len(rows(out)) == 4
    monkeypatch.setattr(many_photos, "decode", lambda *_, **__: pytest.fail("nothing is left"))
    edit(asked)
    with pytest.raises(UserError, match=r"was made with .*steps.*this run has"):
        edit([*asked, "--steps", "3"])
    with pytest.raises(UserError, match="another frame or text than when it was drawn"):
        edit([*asked, "--seed", "3"])


def test_stage_one_runs_once_and_says_of_each_what_it_says_of_it_alone(
    folder: Path, photos: Path, tmp_path: Path, stage_one: list[str]
) -> None:
    out = tmp_path / "out"
    asked = flags(folder, out, "--input", photos, "--prompt", "open the box", "--seed", 5, *stage_one)
    edit(asked)
    assert len(calls(tmp_path)) == 1
    own = f"how to open the box, drawn by {item_seed(5, 'photo', '0')}"
    assert [row["description"] for row in rows(out)] == [own] * 3
    assert not (out / ".stage_1").exists()
    edit(asked)
    assert len(calls(tmp_path)) == 1
    assert [row["description"] for row in rows(out)] == [own] * 3


def test_descriptions_of_an_ended_run_are_kept(
    folder: Path, photos: Path, tmp_path: Path, stage_one: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, shown = tmp_path / "out", many_photos.decode
    asked = flags(folder, out, "--input", photos, "--prompt", "open", "--batch-size", 1, *stage_one)
    left = iter([True])

    def cut(*args: object, **how: object) -> torch.Tensor:
        if next(left, False):
            return shown(*args, **how)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(many_photos, "decode", cut)
    with pytest.raises(KeyboardInterrupt):
        edit(asked)
    monkeypatch.setattr(many_photos, "decode", shown)
    edit(asked)
    assert all(row["description"].startswith("how to open") for row in rows(out))
    assert len(rows(out)) == 3


def test_what_stage_one_works_on_is_of_one_photo_seed_and_text(photos: Path, tmp_path: Path) -> None:
    question = Question("x", photos / "a.png", "open", 0, "by hand")
    begin(tmp_path / "asked", [question])
    mark = tmp_path / "asked/mark"  # of what is begun anew, nothing is left
    changes = ({"photo": photos / "b.jpg"}, {"seed": 1}, {"description": "by foot"}, {"action": "close"})
    for change in changes:
        mark.touch()
        begin(tmp_path / "asked", [question])
        assert mark.exists()
        begin(tmp_path / "asked", [question._replace(**change)])
        assert not mark.exists()
        begin(tmp_path / "asked", [question])


def test_given_descriptions_are_followed(
    folder: Path, photos: Path, tmp_path: Path, stage_one: list[str]
) -> None:
    table = photos / "pairs.csv"
    table.write_text("photo;action;description\na.png;open the box;by both hands\nb.jpg;open the box;\n")
    edit(flags(folder, tmp_path / "out", "--input", table, *stage_one))
    assert ["--texts" in call for call in calls(tmp_path)] == [False, True]
    assert rows(tmp_path / "out")[0]["description"] == "by both hands"
    alone = flags(folder, tmp_path / "a.png", "--input", photos / "a.png", "--prompt", "open the box")
    edit([*alone, *stage_one, "--description", "by both hands"])
    drawn = tmp_path / "out/images/a_open_the_box.png"
    assert abs(pixels(drawn) - pixels(tmp_path / "a.png")).max() <= 1


def test_what_lies_in_a_folder_and_is_no_photo_is_named_and_loses_nothing(
    folder: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (photos / "notes.txt").write_text("not a photo")
    (photos / ".hidden.png").write_text("not ours")
    (photos / "cut.jpg").write_bytes((photos / "b.jpg").read_bytes()[:900])
    (photos / "lost.png").symlink_to("nowhere.png")
    (photos / "same.png").symlink_to("a.png")
    Path(os.fsdecode(os.fsencode(photos) + b"/\xff.png")).write_bytes((photos / "a.png").read_bytes())
    caplog.set_level("INFO")
    out = tmp_path / "out"
    faults = r"cut\.jpg: not a readable image.*lost\.png: no such frame.*: its name is not UTF-8"
    told = f"3 photos are not drawn, all others are: .*{faults}"
    with pytest.raises(UserError, match=told):
        edit(flags(folder, out, "--input", photos / "a.png", photos, "--prompt", "open"))
    assert len([*(out / "images").iterdir()]) == 3
    assert "1 files are no photos, such as notes.txt" in caplog.text
    assert (out / "contact_sheet.jpg").exists()


def test_a_frame_that_is_not_finite_loses_no_other(
    folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = many_photos.decode

    def broken(*args: object, **how: object) -> torch.Tensor:
        drawn = shown(*args, **how)  # type: ignore[arg-type]
        drawn[1, 0, 0, 0] = torch.nan
        return drawn

    monkeypatch.setattr(many_photos, "decode", broken)
    with pytest.raises(UserError, match=r"1 photos are not drawn.*b\.jpg: the drawn frame is not finite"):
        edit(flags(folder, tmp_path / "out", "--input", photos, "--prompt", "open"))
    assert len([*(tmp_path / "out/images").iterdir()]) == 2


def options(*words: str, **more: object) -> PhotoListOptions:
    return PhotoListOptions(input=[Path(word) for word in words], ckpt=Path("x"), output=Path("o"), **more)


def test_names_are_apart_and_stay(folder: Path, tmp_path: Path) -> None:
    """Photos that are added, before or behind those of their name, alone or together, rename none."""
    out = tmp_path / "out"
    zero, one, two = (tmp_path / name for name in ("0", "1", "2"))
    for place, name in ((zero, "A.png"), (one, "a.png"), (two, "a.png")):
        place.mkdir()
        Image.new("RGB", (64, 48), (40 * int(place.name), 0, 0)).save(place / name)

    def drawn(*inputs: Path) -> dict[str, int]:
        edit(flags(folder, out, "--input", *inputs, "--prompt", "cut it", "--steps", 1))
        return {path.name: path.stat().st_mtime_ns for path in (out / "images").iterdir()}

    first = drawn(one)
    assert [*first] == ["a_cut_it.png"]
    second = drawn(two, one)
    (more,) = second.keys() - first.keys()
    assert re.fullmatch(r"a_cut_it_[0-9a-f]{8}\.png", more)
    third = drawn(zero)  # its name is apart in letter case alone, which some file systems do not tell
    assert len(third) == 3
    assert len({name.casefold() for name in third}) == 3
    assert first.items() <= second.items() <= third.items()
    assert drawn(zero, one, two) == drawn(two) == third
    edit(flags(folder, out, "--input", out / "photos.csv", "--steps", 1))  # its table is taken again


def test_names_that_a_table_gives_are_kept(photos: Path) -> None:
    table = photos / "t.csv"
    table.write_text("photo,action,output\na.png,cut,\nb.jpg,cut,A_cut.png\n")
    wishes = named_apart(read_wishes(options(str(table))).wishes, photos, {}, {})
    assert re.fullmatch(r"a_cut_[0-9a-f]{8}\.png", wishes[0].name)
    assert wishes[1].name == "A_cut.png"


FAULTY = """photo,action,seed,output
a.png,open,,
,open,,
a.png, ,,
a.png,open,1.5,
a.png,open,2,../x.png
a.png,open,3,x.tiff
none.png,open,,
pairs.csv,open,,
a.png,open,,
a.png,shut,,x.png
b.jpg,shut,,X.png
"""


def test_bad_rows_are_named_by_line_and_column(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm.sampling.photo_list.SHOWN", 20)
    (photos / "pairs.csv").write_text(FAULTY)
    with pytest.raises(UserError) as told:
        read_wishes(options(str(photos / "pairs.csv")))
    said = f"{told.value}".split("; line ")
    assert said[0].endswith("line 3, column 'photo': blank; expected a file")
    assert said[1:4] == [
        "4, column 'action': blank; expected words",
        "5, column 'seed': got '1.5', allowed: a whole number from 0 to 4294967295",
        "6, column 'output': got '../x.png', allowed: a name that ends in .jpg, .jpeg, .png, .webp, below "
        "--output",
    ]
    assert said[4].startswith("7, column 'output': got 'x.tiff'")
    assert "none.png: no such frame" in said[5]
    assert "pairs.csv: not a readable image" in said[6]
    assert said[7:] == [
        "10, asks for the frame of line 2; remove one, or give it another seed",
        "12, column 'output': 'X.png' is the name of line 11 too",
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--input", "{photos}"], "--output: needed for more than one photo"),
        (["--input", "{photos}", "--output", "{photos}/out"], "lies within --input"),
        (["--input", "{photos}", "--output", "{photos}/a.png"], r"a\.png: is a file; of many photos"),
        (["--input", "{photos}/a.png", "{photos}/none.png", "--output", "o"], r"none\.png: no such file"),
        (["--input", "{photos}/a.png", "{photos}/bad.png", "--output", "o"], r"bad\.png: not a readable"),
        (["--input", "{photos}/bad.csv", "--output", "o"], "--prompt 'open': each row of .* has its own"),
        (["--input", "{photos}/bad.csv", "{photos}", "--output", "o"], r"a \.csv stands alone"),
        (["--input", "{photos}", "--output", "o", "--batch-size", "0"], "--batch-size: got 0"),
        (["--input", "{photos}/empty", "--output", "o"], "no photos here to draw"),
        (
            ["--input", "{photos}", "--output", "o", "--image-feature", "x", "--text-feature", "y"],
            "of one photo alone",
        ),
        (["--input", "{photos}", "--output", "{photos}/../old"], "has frames but no manifest.json"),
    ],
)  # fmt: skip
def test_wrong_arguments(folder: Path, photos: Path, tmp_path: Path, more: list[str], said: str) -> None:
    (photos / "empty").mkdir()
    (tmp_path / "old/images").mkdir(parents=True)
    (tmp_path / "old/images/a.png").touch()
    for name in ("bad.png", "bad.csv"):
        (photos / name).write_text("x")
    given = [word.format(photos=photos) for word in more]
    with pytest.raises(UserError, match=said):
        edit(["--ckpt", str(folder / "lego.ckpt"), "--prompt", "open", *given])
    assert not Path("o").exists()


def test_a_prompt_is_needed_but_for_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        edit(["--ckpt", "x", "--input", "a.png"])
    assert "the following arguments are required: --prompt" in capsys.readouterr().err


def test_a_photo_that_goes_meanwhile_loses_no_other(
    folder: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = many_photos.claim

    def gone(*args: object) -> None:
        claim(*args)  # type: ignore[arg-type]
        (photos / "b.jpg").replace(tmp_path / "b.jpg")

    monkeypatch.setattr(many_photos, "claim", gone)
    with pytest.raises(UserError, match=r"1 photos are not drawn.*b\.jpg: no such frame"):
        edit(flags(folder, tmp_path / "out", "--input", photos, "--prompt", "open"))
    assert len(rows(tmp_path / "out")) == 2

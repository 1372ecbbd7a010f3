"""`python -m ldm.report.passes`: means over seeds, losses held to limits. Witness: values written here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from egogen.errors import UserError
from egogen.files import write_json
from ldm.metrics.registry import METRICS
from ldm.metrics.results.result_files import DETAILS, PER_SAMPLE
from ldm.report.passes import main
from ldm.report.seed_rows import judge, likeness, parse_limit, read_rows, row_names
from ldm.sampling.timing import NAME, frames_per_second, note_time

FRAMES = [f"clip{index}/a/000001.png" for index in range(40)]


def write_row(
    folder: Path, success: Sequence[float], fid: float, grey: int, *, frames: Sequence[str] = FRAMES
) -> None:
    """A measured run with one grey in all of its frames."""
    values = dict(zip(frames, success, strict=True))
    means = {"toy_success": float(np.mean(success)), "toy_fid": fid}
    entries = {
        name: {
            "key": name, "title": METRICS[name].title, "unit": METRICS[name].scale.unit, "times": 1,
            "range": [0, None], "better": METRICS[name].scale.better, "binary": METRICS[name].binary,
            "source": "a test", "mean": mean, "standard_error": None, "interval_95": None, "n": len(frames),
            "infinite": 0, "finite_mean": mean, "provenance": {},
        }
        for name, mean in means.items()
    }  # fmt: skip
    about = {
        "name": "-".join(folder.parts[-2:]),
        "dataset": "ego4d",
        "protocol": "published",
        "images": "images",
    }
    write_json(folder / DETAILS, {**about, "n": len(frames), "metrics": entries})
    write_json(folder / PER_SAMPLE, {"toy_success": values, "toy_fid": {}})
    for name in frames[:2]:
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 6, 3), grey, np.uint8)).save(path)
    note_time(folder, len(frames), 8.0, "cpu")


@pytest.fixture
def seeds(tmp_path: Path) -> list[Path]:
    """Two seeds: of 40 frames the teacher succeeds in 36, the student loses one and wins none."""
    teacher = [1.0] * 36 + [0.0] * 4
    for seed in ("seed0", "seed1"):
        write_row(tmp_path / seed / "teacher/60", teacher, 10.0, 100)
        write_row(tmp_path / seed / "student/20", [0.0, *teacher[1:]], 10.4 if seed == "seed0" else 10.2, 110)
        write_row(tmp_path / seed / "student/4", [0.0] * 30 + [1.0] * 10, 30.0, 100)
    return [tmp_path / "seed0", tmp_path / "seed1"]


@pytest.mark.parametrize(
    ("limit", "loss", "verdict"),
    [
        ("student/20 within 0.03 of teacher/60 in toy_success", 1 / 40, "held"),  # not surely: 0 to 3 of 40
        ("student/20 within 0.5 of teacher/60 in toy_success", 1 / 40, "surely held"),
        ("student/20 within 0.025 of teacher/60 in toy_success", 1 / 40, "held"),  # to the frame
        ("student/20 within 0.02 of teacher/60 in toy_success", 1 / 40, "missed"),
        ("student/4 within 0.05 of teacher/60 in toy_success", 26 / 40, "surely missed"),
        ("teacher/60 within 0 of student/20 in toy_success", -1 / 40, "surely held"),
        ("student/20 within 5% of teacher/60 in toy_fid", 0.03, "held"),  # 10.3 against 10
        ("student/20 within 2% of teacher/60 in toy_fid", 0.03, "missed"),
        ("student/4 within 20 of teacher/60 in toy_fid", 20, "held"),
    ],
)
def test_a_loss_is_held_to_its_limit(seeds: list[Path], limit: str, loss: float, verdict: str) -> None:
    judged = judge(parse_limit(limit), read_rows(seeds))
    assert judged.loss == pytest.approx(loss, abs=1e-12)
    assert judged.verdict == verdict
    if judged.interval is not None:
        low, high = judged.interval
        assert low <= judged.loss <= high


def test_items_that_all_differ_alike_are_no_sure_sign(seeds: list[Path]) -> None:
    for seed in seeds:
        write_row(seed / "student/20", [1.0] * 36 + [0.0] * 4, 10.0, 100)
    judged = judge(parse_limit("student/20 within 0.5 of teacher/60 in toy_success"), read_rows(seeds))
    assert judged.interval == [0.0, 0.0]
    assert judged.verdict == "held"


def test_an_item_counts_once_whatever_the_seeds(seeds: list[Path]) -> None:
    write_row(seeds[1] / "student/4", [1.0] * 40, 30.0, 100)
    (row,) = [row for row in read_rows(seeds) if row.name == "student/4"]
    assert row.means["toy_success"] == (0.25 + 1) / 2
    assert set(row.items["toy_success"].values()) == {0.5, 1.0}
    assert len(row.items["toy_success"]) == 40
    low, high = row.interval("toy_success") or (0, 0)
    assert high - low < 0.2  # of 40 items of two values: 4 sigma = 4 * 0.22 / sqrt(40) = 0.14
    assert row.frames_per_second == 5.0


def test_frames_are_compared_with_the_references_of_the_same_seed(seeds: list[Path]) -> None:
    rows = {row.name: row for row in read_rows(seeds)}
    assert likeness(rows["student/20"], rows["teacher/60"]) == pytest.approx(
        20 * math.log10(255 / 10), abs=1e-4
    )
    assert likeness(rows["student/4"], rows["teacher/60"]) == math.inf
    assert likeness(rows["teacher/60"], rows["teacher/60"]) is None


def test_the_page_says_all_of_it(
    seeds: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = "student/20 within 5% of teacher/60 in toy_fid"
    words = [*map(str, seeds), "--out", str(tmp_path / "out"), "--reference", "teacher/60", "--limits", limit]
    main([*words, "--curves", "toy_success", "frames_per_second"])
    printed = capsys.readouterr().out
    assert "3.0 %" in printed
    page = (tmp_path / "out/index.html").read_text()
    assert page.count("<svg") == 2
    assert "UNet passes a frame" in page
    for text in (page, (tmp_path / "out/table.md").read_text()):
        for cell in ("0.875", "28.13", "5.00"):
            assert cell in text
    assert "held" in (tmp_path / "out/limits.md").read_text()
    numbers: Mapping[str, Mapping[str, float]] = json.loads((tmp_path / "out/rows.json").read_text())
    assert numbers["student/20"]["toy_fid"] == pytest.approx(10.3)
    assert list(numbers) == ["student/20", "student/4", "teacher/60"]


def test_rows_are_of_the_same_metrics(seeds: list[Path]) -> None:
    details = seeds[0] / "student/4" / DETAILS
    content = json.loads(details.read_text())
    del content["metrics"]["toy_fid"]
    details.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"was measured in other metrics than"):
        read_rows(seeds[:1])


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("a better than b", "expected 'ROW within NUMBER of ROW in METRIC'"),
        ("a within -1 of b in psnr", "expected 'ROW within NUMBER of ROW in METRIC'"),
        ("student/9 within 1 of teacher/60 in psnr", "no row 'student/9'; there are student/20"),
        ("student/4 within 1 of teacher/60 in psnr", "student/4 was measured without 'psnr'"),
    ],
)
def test_wrong_limits_are_named(seeds: list[Path], limit: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        judge(parse_limit(limit), read_rows(seeds))


def test_hidden_folders_are_no_rows(seeds: list[Path]) -> None:
    (seeds[0] / ".ipynb_checkpoints/x").mkdir(parents=True)
    (seeds[0] / "teacher/.trash").mkdir()
    assert row_names(seeds[0]) == ["student/20", "student/4", "teacher/60"]


def test_seeds_that_do_not_go_together_are_named(seeds: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no rows"):
        read_rows([tmp_path / "nothing"])
    write_row(seeds[1] / "student/4", [1.0] * 3, 1.0, 0, frames=FRAMES[:3])
    with pytest.raises(UserError, match=r"measured with n = 3"):
        read_rows(seeds)
    write_row(seeds[0] / "other/4", [1.0] * 40, 1.0, 0)
    with pytest.raises(UserError, match="other/4 is in one of them alone"):
        read_rows(seeds)
    write_row(seeds[0] / "other/four", [1.0] * 40, 1.0, 0)
    with pytest.raises(UserError, match="expected the number of UNet passes"):
        read_rows(seeds[:1])


def test_times_add_up_over_runs_of_a_command(tmp_path: Path) -> None:
    assert frames_per_second(tmp_path) is None
    note_time(tmp_path, 3, 1.0, "cpu")
    note_time(tmp_path, 5, 3.0, "cpu")
    assert frames_per_second(tmp_path) == 2.0
    (tmp_path / NAME).write_text('{"frames": 1}\n')
    with pytest.raises(UserError, match="delete it"):
        frames_per_second(tmp_path)

"""`python -m ldm.report`: the page is whole without any other file, and says what was measured."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from egogen.cli import run
from ldm import evaluate
from ldm.report.__main__ import main
from ldm.report.curves import curves, panels, smooth
from ldm.report.table import Column, Number, System, Table


@pytest.fixture
def measured(scene) -> Any:  # noqa: ANN001
    """Two measured runs: noise, and frames of which one equals its target."""
    shutil.copytree(scene.run, scene.root / "other")
    shutil.copy(scene.targets / "clip0/act/000002.jpg", scene.root / "other/images/clip0/act/000002.jpg")
    flags = scene.flags("--name", "LEGO <trained>", "other")
    flags.insert(flags.index(str(scene.run)) + 1, str(scene.root / "other"))
    evaluate.main(flags)
    return scene


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    with SummaryWriter(tmp_path / "logs" / "version_0") as writer:
        for step in range(30):
            writer.add_scalar("train/loss", 1 / (1 + step), step)
            writer.add_scalar("learning_rate", 0.1, step)
        writer.add_scalar("train/loss", float("nan"), 30)
    return tmp_path / "logs"


def flags(scene: Any, *more: str) -> list[str]:
    return [str(scene.run), str(scene.root / "other"), "--out", str(scene.root / "report"), *more]


def gallery_flags(scene: Any) -> list[str]:
    return ["--annotations", str(scene.annotations), "--frames", str(scene.frames)]


class Reader(HTMLParser):
    """Collects what a browser would fetch, and the tags that are left open."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "srcset", "data", "action")]
        self.sources += [
            value or "" for name, value in attrs if name == "href" and not (value or "").startswith("#")
        ]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole(measured, logs: Path) -> None:  # noqa: ANN001
    main(flags(measured, *gallery_flags(measured), "--logs", f"Stage 2={logs}", "--published", "ego4d"))
    page = (measured.root / "report" / "index.html").read_text()
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert len(reader.sources) == 4 * 4
    assert all(source.startswith("data:image/jpeg;base64,") for source in reader.sources)
    assert not re.search(r"url\((?!#)|@import|<script|<link", page)
    assert "LEGO &lt;trained&gt;" in page
    assert "#C C picks up &lt;cup&gt; 0" in page
    assert "The right hand holds cup 0." in page
    assert "Published on ego4d" in page
    assert "12.29" in page
    assert "Stage 2" in page
    assert "train/loss" in page
    assert "currentColor" in page
    assert "∞" in page


def test_metrics_json(measured) -> None:  # noqa: ANN001
    main(flags(measured))
    report = json.loads((measured.root / "report" / "metrics.json").read_text())
    details = json.loads((measured.run / "metric" / "details.json").read_text())["metrics"]
    assert list(report["systems"]) == ["LEGO <trained>", "other"]
    assert report["systems"]["LEGO <trained>"]["psnr"] == {
        "mean": details["psnr"]["mean"],
        "stderr": details["psnr"]["standard_error"],
        "n": 4,
    }
    assert report["systems"]["other"]["psnr"] == {"mean": None, "stderr": None, "n": 4}


def test_the_bare_page_has_no_empty_parts(measured) -> None:  # noqa: ANN001
    main(flags(measured))
    page = (measured.root / "report" / "index.html").read_text()
    assert "What they drew" not in page
    assert "How they learned" not in page
    assert "Published" not in page


def test_the_gallery_is_spread_and_limited(measured) -> None:  # noqa: ANN001
    main(flags(measured, *gallery_flags(measured), "--max-items", "2"))
    page = (measured.root / "report" / "index.html").read_text()
    assert re.findall(r"clip\d / act", page) == ["clip0 / act", "clip2 / act"]


@pytest.mark.parametrize("own", [True, False])
def test_boxes_of_the_metadata_are_outlined(measured, own: bool) -> None:  # noqa: ANN001
    box = {"x": 8, "y": 9, "width": 16, "height": 4.5}
    facts = {"hand_box_1": box, "hand_box_0": box, "note_box_1": "none"}
    size = {"height": 18, "width": 32}
    # Of a clip's one action, as in the toy world; of several, with those of another beside.
    clip = size | (facts if own else {"actions": {"act": facts, "other": {"object_box_1": box}}})
    path = measured.root / "metadata.json"
    path.write_text(json.dumps({"clip0": clip}))
    main(flags(measured, *gallery_flags(measured), "--metadata", str(path)))
    page = (measured.root / "report" / "index.html").read_text()
    assert page.count("<i title=") == 1
    assert '<i title="hand" style="left:25.0%;top:50.0%;width:50.0%;height:25.0%">' in page


def test_the_best_is_marked_among_measured_systems() -> None:
    columns = [Column("up", "Up", "", "higher"), Column("down", "Down", "dB", "lower")]
    first = System("a", {"up": Number(1.0), "down": Number(1.0)})
    second = System("b", {"up": Number(1.0), "down": Number(0.5, 0.125)})
    paper = System("c", {"up": Number(9.0), "down": Number(0.0)}, published=True)
    table = Table(columns, [first, second, paper])
    marks = [[table.is_best(system, column) for column in columns] for system in table.systems]
    assert marks == [[True, False], [True, True], [False, False]]
    assert not Table(columns, [first, paper]).is_best(first, columns[0])
    lines = table.text().splitlines()
    assert lines[0].split() == ["Up", "↑", "Down", "↓", "dB"]
    assert lines[3].split() == ["b", "1.000", "0.50", "±", "0.12"]


def test_smooth_keeps_lines() -> None:
    line = np.arange(100.0)
    np.testing.assert_allclose(smooth(line)[2:-2], line[2:-2], atol=1e-9)
    np.testing.assert_allclose(smooth(line)[:2], [1.0, 1.5])
    noise = np.random.default_rng(0).normal(size=1000)
    assert smooth(noise).std() < 0.4 * noise.std()
    np.testing.assert_allclose(smooth(np.array([2.0])), [2.0])


def test_curves_keep_losses_alone(logs: Path) -> None:
    (curve,) = curves(logs / "version_0")
    assert curve.tag == "train/loss"
    np.testing.assert_allclose(curve.values, 1 / (1 + np.arange(30)), rtol=1e-6)
    assert [panel.title for panel in panels([str(logs)])] == ["logs"]


FAULTS = {
    "not a run": (lambda s: shutil.rmtree(s.root / "other"), [], "other: not a run: there is no images/"),
    "not measured": (lambda s: shutil.rmtree(s.root / "other" / "metric"), [], "details.json: no such file"),
    "frames alone": (lambda _: None, ["--frames", "x"], "needs both --annotations FILE and --frames DIR"),
    "no logs": (lambda _: None, ["--logs", "nowhere"], "nowhere: no such log folder"),
    "unknown paper": (lambda _: None, ["--published", "toy"], "published results of 'toy': allowed"),
}  # fmt: skip


def fails(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(lambda: main(argv))
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    return told


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_one_line(measured, fault: str, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN001
    break_it, more, message = FAULTS[fault]
    break_it(measured)
    capsys.readouterr()
    assert message in fails(flags(measured, *more), capsys)
    assert not (measured.root / "report").exists()


def test_pictures_must_be_there(measured, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN001
    (measured.frames / "clip1/act/000001.jpg").unlink()
    capsys.readouterr()
    told = fails(flags(measured, *gallery_flags(measured)), capsys)
    assert "clip1/act/000001.jpg: no such picture (Source)" in told
    assert "--max-items 0: expected at least 1" in fails(
        flags(measured, *gallery_flags(measured), "--max-items", "0"), capsys
    )


def test_logs_without_losses(measured, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN001
    (tmp_path / "empty").mkdir()
    capsys.readouterr()
    assert "no TensorBoard event files" in fails(flags(measured, "--logs", str(tmp_path / "empty")), capsys)
    with SummaryWriter(tmp_path / "empty") as writer:
        writer.add_scalar("learning_rate", 0.1, 0)
    assert "no scalar whose name contains 'loss'" in fails(
        flags(measured, "--logs", str(tmp_path / "empty")), capsys
    )


def test_runs_must_be_comparable(measured, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN001
    path = measured.root / "other" / "metric" / "details.json"
    details = json.loads(path.read_text())
    capsys.readouterr()
    for change, message in (
        ({"n": 3}, "measured with n = 3"),
        ({"name": "LEGO <trained>"}, "is also that of"),
        ({"metrics": {"psnr": {}}}, "metric 'psnr': the fields"),
    ):
        path.write_text(json.dumps({**details, **change}))
        assert message in fails(flags(measured), capsys)

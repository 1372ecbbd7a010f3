"""`python -m ldm.report`: the page is whole without any other file, and says what was measured."""

from __future__ import annotations

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from ldm import evaluate
from ldm.report import formats
from ldm.report.__main__ import main
from ldm.report.curves import curves, panels, smooth
from ldm.report.results_table import Column, Number, System, SystemGroup, Table, make_table
from tests.ldm.evaluation.failing import fails


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
    assert len(reader.sources) == 4 * (4 + 2 * 3)  # all items, then three of each metric, four pictures each
    assert all(source.startswith("data:image/jpeg;base64,") for source in reader.sources)
    assert not re.search(r"url\((?!#)|@import|<script|<link", page)
    assert "LEGO &lt;trained&gt;" in page
    assert "#C C picks up &lt;cup&gt; 0" in page
    assert "The right hand holds cup 0." in page
    assert "Published (ego4d, 9,931 items)" in page
    assert "12.29" in page
    assert "Stage 2" in page
    assert "train/loss" in page
    assert "currentColor" in page
    assert "∞" in page


def test_every_header_of_a_table_says_something(measured) -> None:  # noqa: ANN001
    main(flags(measured, "--published", "ego4d"))
    page = (measured.root / "report" / "index.html").read_text()
    headers = re.findall(r"<th\b([^>]*)>(.*?)</th>", page, re.DOTALL)
    assert headers
    assert all("scope=" in attributes and words.strip() for attributes, words in headers)
    rows = page[page.index("How sure the numbers are") :].split("<tbody>")[1].split("</tbody>")[0]
    assert re.findall(r'scope="row" class="run">(.*?)<', rows) == ["LEGO &lt;trained&gt;", "other"]
    assert 'scope="rowgroup" rowspan="2">PSNR ↑ dB<' in rows


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
    main(flags(measured, "--published", "none"))
    page = (measured.root / "report" / "index.html").read_text()
    assert "What they drew" not in page
    assert "Best, median" not in page
    assert "How they learned" not in page
    assert "Published" not in page


def test_the_gallery_is_spread_and_limited(measured) -> None:  # noqa: ANN001
    main(flags(measured, *gallery_flags(measured), "--max-items", "2"))
    page = (measured.root / "report" / "index.html").read_text()
    page = page[: page.index("Best, median and worst")]
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
    page = page[: page.index("Best, median and worst")]
    assert page.count("<i title=") == 1
    assert '<i title="hand" style="left:25.0%;top:50.0%;width:50.0%;height:25.0%">' in page


COLUMNS = [
    Column("up", "Up", "", "higher"),
    Column("down", "Down", "dB", "lower"),
    Column("t", "T", "", "higher", 100),
]


def small_table() -> Table:
    """Two groups; in the first a tie for the best, a second, and values that are missing."""
    systems = [
        System("a_b", {"up": Number(1.0), "down": Number(1.0), "t": Number(0.5)}),
        System("c|d", {"up": Number(1.0), "down": Number(0.5, 0.125)}),
        System("e", {"up": Number(0.25), "down": Number(math.inf)}),
    ]
    return Table(
        COLUMNS,
        [SystemGroup("Ours & theirs", systems), SystemGroup("Paper", [System("f", {"up": Number(9.0)})])],
    )


def test_best_and_second_are_told_within_a_group() -> None:
    table = small_table()
    ours, paper = table.groups
    ranks = [[ours.rank(system, column) for column in COLUMNS] for system in ours.systems]
    assert ranks == [[1, 2, None], [1, 1, None], [2, None, None]]
    assert paper.rank(paper.systems[0], COLUMNS[0]) is None  # alone, it has no rival


def test_the_table_in_text() -> None:
    lines = formats.text(small_table()).splitlines()
    assert lines[0].split() == ["Up", "↑", "Down", "↓", "dB", "T", "↑"]
    assert lines[2] == "Ours & theirs"
    assert lines[3].split() == ["a_b", "1.000", "*", "1.00", "+", "50.00"]
    assert lines[4].split() == ["c|d", "1.000", "*", "0.50", "±", "0.12", "*", "-"]
    assert lines[5].split() == ["e", "0.250", "+", "∞", "-"]
    assert lines[7].split() == ["f", "9.000", "-", "-"]


def test_the_table_in_markdown() -> None:
    lines = formats.markdown(small_table()).splitlines()
    assert lines[0] == "| system | Up ↑ | Down ↓ dB | T ↑ |"
    assert lines[3] == "| a\\_b | **1.000** | *1.00* | 50.00 |"
    assert lines[4] == "| c\\|d | **1.000** | **0.50 ± 0.12** | - |"
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_the_table_in_latex() -> None:
    text = formats.latex(small_table())
    assert r"a\_b & \textbf{1.000} & \underline{1.00} & 50.00 \\" in text
    assert r"\multicolumn{4}{l}{\emph{Ours \& theirs}} \\" in text
    assert r"0.50 $\pm$ 0.12" in text
    assert r"$\infty$" in text
    assert text.startswith(r"\begin{tabular}{lrrr}")
    assert text.count(r"\midrule") == 2


def test_the_paper_is_shown_beside(measured, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN001
    capsys.readouterr()
    main([*flags(measured)[:2], "--published", "ego4d"])
    shown = capsys.readouterr().out
    assert "Published (ego4d, 9,931 items), from Lai et al., ECCV 2024" in shown
    assert re.search(r"LEGO +12\.29 \*", shown)
    # Frames of somebody's own are no frames of the paper's test set.
    main(flags(measured)[:2])
    assert "Published" not in capsys.readouterr().out
    main([*flags(measured)[:2], "--published", "none", "--format", "latex"])
    shown = capsys.readouterr().out
    assert "Published" not in shown
    assert shown.startswith(r"\begin{tabular}")


@pytest.mark.parametrize(
    ("dataset", "count", "shown"),
    [("ego4d", 9931, True), ("epickitchen", 8893, True), ("ego4d", 8893, False), ("ego4d", 100, False)],
)
def test_the_paper_is_shown_beside_its_own_test_set_with_its_sources(
    dataset: str, count: int, shown: bool
) -> None:
    entry = {"title": "FID", "unit": "", "better": "lower", "times": 1, "mean": 20.0, "standard_error": None}
    details: Any = {"name": "a", "dataset": dataset, "n": count, "metrics": {"fid": entry}}
    groups = make_table([details], None).groups[1:]
    assert bool(groups) == shown
    if dataset == "epickitchen":
        assert [(len(group.systems), group.title.split("from ")[1]) for group in groups] == [
            (1, "Lai et al., ECCV 2024"), (3, "a later paper, DynaVieW (tables 7 and 9)"),
        ]  # fmt: skip


def test_differences_are_tested_on_the_same_items(measured, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN001
    capsys.readouterr()
    main(flags(measured)[:2])
    lines = [re.split(r" {2,}", line) for line in capsys.readouterr().out.splitlines()]
    start = lines.index(["metric", "run", "mean", "95 % interval", "difference", "p"])
    psnr, other_psnr, ssim, other_ssim = lines[start + 2 : start + 6]
    assert psnr[0] == "PSNR ↑ dB"
    assert psnr[4:] == ["-", "-"]
    assert other_psnr[2:] == ["∞", "-", "-", "-"]  # one frame equals its target
    assert re.fullmatch(r"-?\d\.\d{3} to \d\.\d{3}", ssim[3])
    # Three of four items do not differ: swapping says nothing against chance.
    assert float(other_ssim[4]) > 0
    assert other_ssim[5] == "1.0000"


def test_the_best_median_and_worst_items(measured) -> None:  # noqa: ANN001
    main(flags(measured, *gallery_flags(measured)))
    page = (measured.root / "report" / "index.html").read_text()
    values = json.loads((measured.run / "metric" / "per_sample.json").read_text())["psnr"]
    ordered = sorted(values, key=values.get, reverse=True)
    section = page[page.index("Best, median and worst") :]
    section = section[: section.index("</details>")]
    shown = re.findall(r"(clip\d) / act", section)
    assert shown == [ordered[0][:5], ordered[2][:5], ordered[-1][:5]]


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
    "not a run": (lambda s: shutil.rmtree(s.root / "other"), [], "folder; python -m ldm.sample --out"),
    "not measured": (lambda s: shutil.rmtree(s.root / "other" / "metric"), [], "details.json: no such file"),
    "frames alone": (lambda _: None, ["--frames", "x"], "needs both --annotations FILE and --frames DIR"),
    "no logs": (lambda _: None, ["--logs", "nowhere"], "nowhere: no such log folder"),
    "unknown paper": (lambda _: None, ["--published", "toy"], "published results of 'toy': allowed"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_one_line(measured, fault: str, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN001
    break_it, more, message = FAULTS[fault]
    break_it(measured)
    capsys.readouterr()
    assert message in fails(main, flags(measured, *more), capsys)
    assert not (measured.root / "report").exists()


def test_a_plain_folder_of_frames_is_a_run(scene) -> None:  # noqa: ANN001
    plain = scene.root / "published" / "gen"
    shutil.copytree(scene.run / "images", plain)
    measure = scene.flags()
    measure[measure.index("--gen_path") + 1] = str(plain)
    evaluate.main(measure)
    main([str(plain.parent), "--out", str(scene.root / "report"), *gallery_flags(scene)])
    assert (scene.root / "report" / "index.html").read_text().count("<img") >= 3


def test_pictures_must_be_there(measured, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN001
    (measured.frames / "clip1/act/000001.jpg").unlink()
    capsys.readouterr()
    told = fails(main, flags(measured, *gallery_flags(measured)), capsys)
    assert "clip1/act/000001.jpg: no such picture (Source)" in told
    assert "--max-items 0: expected at least 1" in fails(
        main, flags(measured, *gallery_flags(measured), "--max-items", "0"), capsys
    )


def test_logs_without_losses(measured, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN001
    (tmp_path / "empty").mkdir()
    capsys.readouterr()
    assert "no TensorBoard event files" in fails(
        main, flags(measured, "--logs", str(tmp_path / "empty")), capsys
    )
    with SummaryWriter(tmp_path / "empty") as writer:
        writer.add_scalar("learning_rate", 0.1, 0)
    assert "no scalar whose name contains loss or success" in fails(
        main, flags(measured, "--logs", str(tmp_path / "empty")), capsys
    )


def test_runs_must_be_comparable(measured, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN001
    path = measured.root / "other" / "metric" / "details.json"
    details = json.loads(path.read_text())
    psnr = details["metrics"]["psnr"]
    psnr = {**psnr, "provenance": {**psnr["provenance"], "protocol": "corrected"}}
    capsys.readouterr()
    for change, message in (
        (
            {"metrics": {**details["metrics"], "psnr": psnr}},
            "psnr was measured with protocol = 'corrected', in",
        ),
        ({"n": 3}, "measured with n = 3"),
        ({"name": "LEGO <trained>"}, "is also that of"),
        ({"metrics": {"psnr": {}}}, "metric 'psnr': the fields"),
    ):
        path.write_text(json.dumps({**details, **change}))
        assert message in fails(main, flags(measured), capsys)
    path.write_text(json.dumps({key: value for key, value in details.items() if key != "name"}))
    assert "the fields ['name'] are missing" in fails(main, flags(measured), capsys)


def test_runs_of_other_targets_are_not_compared(measured, noise, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ANN001
    """The names of the frames are the same, as in two renderings of a toy world."""
    noise(measured.targets / "clip0/act/000002.jpg", 99)
    argv = measured.flags("--name", "other")
    argv[argv.index(str(measured.run))] = str(measured.root / "other")
    evaluate.main(argv)
    capsys.readouterr()
    assert "was measured with targets_sha256 = " in fails(main, flags(measured), capsys)

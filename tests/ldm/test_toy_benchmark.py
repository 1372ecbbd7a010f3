"""What the toy benchmark adds: a classifier and the metrics in its features, joined runs, curves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from egogen.errors import UserError
from egogen.files import write_json
from egogen.layout import Layout
from egogen.packed_frames import DrawnFrames, write_tar
from egogen.toy.world import write_world
from ldm import evaluate
from ldm.checkpoints.safe_reading import read
from ldm.metrics.networks.toy_classifier import load_classifier
from ldm.metrics.results.result_files import read_details
from ldm.report import claims, pool
from ldm.report import over_steps as curve
from ldm.report.curves import curves
from ldm.toy import classifier, classifier_training
from tests.ldm.evaluation.conftest import save_noise


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_world(root, 24, 6, size=32, workers=1)
    return root


@pytest.fixture(scope="module")
def weights(world: Path) -> Path:
    out = world / "weights" / "toy_classifier.safetensors"
    classifier.main(["--data-root", str(world), "--out", str(out), "--steps", "20", "--device", "cpu"])
    return out


def test_the_classifier_learns_its_frames(world: Path) -> None:
    layout = Layout(world, "ego4d")
    metadata = classifier_training.read_metadata(layout.metadata)
    names = {
        fact: sorted({str(classifier_training.facts_of(clip, layout)[fact]) for clip in metadata.values()})
        for fact in classifier_training.FACTS
    }
    frames, labels = classifier_training.read_split(layout, "train", metadata, names)
    torch.manual_seed(0)
    network = classifier_training.ToyClassifier({fact: len(values) for fact, values in names.items()})
    before = classifier_training.accuracy(network, frames, labels)
    classifier_training.train(network, frames, labels, 80)
    after = classifier_training.accuracy(network.eval(), frames, labels)
    assert all(after[fact] > before[fact] for fact in ("verb", "object"))
    assert after["hand"] > 0.9


def test_a_finished_classifier_is_left_alone(world: Path, weights: Path) -> None:
    before = weights.stat().st_mtime_ns
    classifier.main(["--data-root", str(world), "--out", str(weights)])
    assert weights.stat().st_mtime_ns == before
    damaged = weights.with_name("damaged.safetensors")
    for size in (0, weights.stat().st_size - 1):
        damaged.write_bytes(weights.read_bytes()[:size])
        classifier.main(["--data-root", str(world), "--out", str(damaged), "--steps", "1", "--device", "cpu"])
        assert read(damaged)["state_dict"].keys() == read(weights)["state_dict"].keys()


def test_other_data_and_files_are_refused(world: Path, weights: Path, tmp_path: Path) -> None:
    metadata = json.loads(Layout(world, "ego4d").metadata.read_text())
    plain = {
        clip: {key: facts[key] for key in ("height", "width", "fps")} for clip, facts in metadata.items()
    }
    write_json(Layout(tmp_path, "ego4d").metadata, plain)
    with pytest.raises(UserError, match="the data are no toy world"):
        classifier.main(["--data-root", str(tmp_path), "--out", str(tmp_path / "out.safetensors")])
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="not a classifier of toy frames"):
        load_classifier(broken, torch.device("cpu"))


def generated(world: Path, out: Path, image: str) -> Path:
    """A run whose frames are the pairs' `image_0` or `image_1`."""
    layout = Layout(world, "ego4d")
    for clip, actions in json.loads(layout.annotations("val").read_text()).items():
        for action in actions.values():
            target = out / "images" / action["image_1"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((layout.frames("val") / action[image]).read_bytes())
            assert clip in action["image_1"]
    write_json(out / "manifest.json", {"method": image})
    return out


def measure(world: Path, weights: Path, run: Path, *more: str) -> dict[str, float]:
    layout = Layout(world, "ego4d")
    evaluate.main(
        [
            *("--dataset", "ego4d", "--gen_path", str(run), "--gt_path", str(layout.metric_targets)),
            *("--edit_file", str(layout.annotations("val")), "--metadata", str(layout.metadata)),
            *("--weights", str(weights.parent), "--metrics", "toy_fid,toy_similarity,toy_success"),
            *("--device", "cpu", "--published", "none", *more),
        ]
    )
    return {name: entry["mean"] for name, entry in read_details(run)["metrics"].items()}


def test_toy_features_tell_targets_from_copies(
    world: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    perfect = measure(world, weights, generated(world, tmp_path / "perfect", "image_1"))
    copied = measure(world, weights, generated(world, tmp_path / "copied", "image_0"), "--batch-size", "2")
    assert "SDEdit" not in capsys.readouterr().out
    assert perfect["toy_success"] == 1
    assert perfect["toy_similarity"] == pytest.approx(1, abs=1e-6)
    assert perfect["toy_fid"] == pytest.approx(0, abs=1e-6)
    assert copied["toy_success"] == 0
    assert copied["toy_similarity"] < 1 - 1e-4
    assert copied["toy_fid"] > 1e-4
    again = measure(world, weights, generated(world, tmp_path / "again", "image_0"), "--batch-size", "5")
    assert again == pytest.approx(copied, abs=1e-5)


def test_a_missing_classifier_is_named_with_its_command(world: Path, tmp_path: Path) -> None:
    run = generated(world, tmp_path / "run", "image_1")
    with pytest.raises(UserError, match=r"toy_classifier\.safetensors .*python -m ldm\.toy\.classifier"):
        measure(world, tmp_path / "none" / "toy_classifier.safetensors", run)


def part(folder: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        save_noise(folder / "images" / name / "act" / "000002.jpg", seed)
    write_json(folder / "manifest.json", {"parts of": list(names)})
    return folder


def test_runs_are_joined(tmp_path: Path) -> None:
    first, second = part(tmp_path / "a" / "lego", "clip0", "clip2"), part(tmp_path / "b" / "lego", "clip1")
    out = tmp_path / "joined"
    words = [str(tmp_path / "a"), str(tmp_path / "b"), "--below", "lego", "--out", str(out)]
    pool.main(words)
    found = {path.relative_to(out / "images").parts[0]: path for path in out.rglob("*.jpg")}
    assert sorted(found) == ["clip0", "clip1", "clip2"]
    assert found["clip1"].read_bytes() == next(second.rglob("*.jpg")).read_bytes()
    assert json.loads((out / "manifest.json").read_text()) == {
        "parts": [{"parts of": ["clip0", "clip2"]}, {"parts of": ["clip1"]}]
    }
    next(first.rglob("*.jpg")).write_bytes(next(second.rglob("*.jpg")).read_bytes())  # was drawn anew
    pool.main(words)
    assert found["clip0"].read_bytes() == found["clip1"].read_bytes()


def test_runs_in_tar_files_are_joined(tmp_path: Path) -> None:
    parts = [tmp_path / name for name in "ab"]
    for folder in parts:
        name = part(folder).name
        write_tar(folder / "images" / "frames-all-00000.tar", {f"{name}/act/2.jpg": name.encode()})
    pool.main([*map(str, parts), "--out", str(tmp_path / "joined")])
    found = DrawnFrames(tmp_path / "joined" / "images")
    assert {name: found.file(name).read_bytes() for name in found.names} == {
        "a/act/2.jpg": b"a", "b/act/2.jpg": b"b",
    }  # fmt: skip


def test_parts_must_differ_and_hold_frames(tmp_path: Path) -> None:
    first, second = part(tmp_path / "a", "clip0"), part(tmp_path / "b", "clip0")
    with pytest.raises(UserError, match=r"is also .*; the parts must be of different items"):
        pool.main([str(first), str(second), "--out", str(tmp_path / "out")])
    with pytest.raises(UserError, match="no frames; draw them"):
        pool.main([str(first), str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def point(folder: Path, value: float, metric: str = "toy_success") -> None:
    write_json(folder / "metric" / "details.json", details(metric, value))


def details(metric: str, value: float) -> dict[str, object]:
    entry = {
        "key": metric,
        "range": [0, 1],
        "mean": value,
        "finite_mean": value,
        "standard_error": None,
        "interval_95": None,
        "n": 4,
        "title": metric,
        "unit": "",
        "times": 1,
        "better": "higher",
        "binary": True,
        "infinite": 0,
        "source": "",
        "provenance": {},
    }
    about = {"name": "lego", "dataset": "ego4d", "protocol": "published", "n": 4, "images": "images"}
    return {**about, "metrics": {metric: entry}}


def test_a_curve_has_a_line_for_each_system(tmp_path: Path) -> None:
    for system, step, value in (("lego", 100, 0.25), ("lego", 20, 0.5), ("ip2p", 20, 0.125)):
        point(tmp_path / "points" / system / str(step), value)
    for _ in range(2):  # the second takes the place of the first
        curve.main([str(tmp_path / "points"), "--out", str(tmp_path / "curves")])
    drawn = {line.tag: (line.steps.tolist(), line.values.tolist()) for line in curves(tmp_path / "curves")}
    assert drawn == {"toy_success/ip2p": ([20], [0.125]), "toy_success/lego": ([20, 100], [0.5, 0.25])}


def test_curves_take_the_place_of_older_ones_alone(tmp_path: Path) -> None:
    """The folder may be somebody's, and a link to it."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/events.out.tfevents.1.older").write_bytes(b"older")
    (tmp_path / "disk/notes.txt").write_text("mine")
    (tmp_path / "curves").symlink_to("disk")
    point(tmp_path / "points/lego/100", 0.25)
    curve.main([str(tmp_path / "points"), "--out", str(tmp_path / "curves")])
    found = sorted(path.name for path in (tmp_path / "disk").iterdir())
    assert [name for name in found if "tfevents" not in name] == ["notes.txt"]
    assert len(found) == 2
    assert "events.out.tfevents.1.older" not in found


def test_curves_name_what_is_wrong(tmp_path: Path) -> None:
    words = [str(tmp_path / "points"), "--out", str(tmp_path / "curves")]
    with pytest.raises(UserError, match="holds no runs"):
        curve.main(words)
    point(tmp_path / "points" / "lego" / "20", 0.5, "psnr")
    with pytest.raises(UserError, match="was measured without 'toy_success', with psnr"):
        curve.main(words)
    point(tmp_path / "points" / "lego" / "0last", 0.5)
    with pytest.raises(UserError, match="expected the number of a training step"):
        curve.main(words)
    assert not (tmp_path / "curves").exists()


def measured(folder: Path, *values: float) -> None:
    """A run with a value for each item."""
    (folder / "images").mkdir(parents=True)
    about = details("toy_success", sum(values) / len(values))
    write_json(folder / "metric" / "details.json", {**about, "name": folder.name, "n": len(values)})
    frames = {f"clip{index}/0/1.jpg": value for index, value in enumerate(values)}
    write_json(folder / "metric" / "per_sample.json", {"toy_success": frames})


def test_claims_hold_are_contradicted_or_undecided(tmp_path: Path) -> None:
    for name, right in (("lego", 18), ("ip2p", 6), ("sdedit", 5)):
        measured(tmp_path / name, *[float(index < right) for index in range(20)])
    out = tmp_path / "claims.md"
    claims.main([str(tmp_path), "lego>ip2p", "ip2p>lego", "ip2p>sdedit", "--out", str(out)])
    rows = [row.split(" | ") for row in out.read_text().splitlines()[2:]]
    assert [(row[0].strip("| "), row[-1].strip("| ")) for row in rows] == [
        ("lego > ip2p", "holds"),
        ("ip2p > lego", "contradicted"),
        ("ip2p > sdedit", "undecided"),
    ]
    # 12 of 20 items differ, all one way: 2 / 2^12.
    assert float(rows[0][3]) == pytest.approx(2 / 2**12, abs=5e-4)


def test_a_metric_without_values_by_item_cannot_be_tested(tmp_path: Path) -> None:
    for name in ("lego", "ip2p"):
        measured(tmp_path / name, 1.0)
    out = tmp_path / "claims.md"
    claims.main([str(tmp_path), "lego>ip2p", "--out", str(out)])
    assert out.read_text().splitlines()[2].endswith("| - | no test |")


@pytest.mark.parametrize("claim", ["lego", "lego>", ">ip2p", "lego>lego"])
def test_a_claim_has_two_sides(tmp_path: Path, claim: str) -> None:
    with pytest.raises(UserError, match="expected A>B"):
        claims.main([str(tmp_path), claim, "--out", str(tmp_path / "claims.md")])

"""The steps of an evaluation, one by one: choices, pairs, what metrics see, and what decides their values."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from egogen.annotations import read_metadata
from egogen.errors import UserError
from egogen.layout import DESCRIPTION_KEY
from egogen.shard_claims import Work
from egogen.shards import Shard
from ldm.metrics import evaluation
from ldm.metrics.evaluation import kind, measure_run
from ldm.metrics.feature_cache import Memory, Store
from ldm.metrics.frames.frame_pairs import PairBatch, Pairs
from ldm.metrics.metric import Metric, MetricSetting, Result
from ldm.metrics.networks.metric_weights import CLIP, EGOVLP
from ldm.metrics.registry import METRICS

CPU = torch.device("cpu")
EGO4D = MetricSetting("ego4d", batch_size=3)


def pairs_of(scene: Any, setting: MetricSetting = EGO4D, **more: Any) -> Pairs:
    return evaluation.pair(setting, scene.run, scene.targets, scene.annotations, **more)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Watching:
    """A metric that keeps a number of each pair, and tells what it was opened with and shown."""

    def __init__(self, setting: MetricSetting, pairs: Pairs, memory: Memory) -> None:
        self.setting, self.pairs, self.memory = setting, pairs, memory
        self.sizes: list[int] = []
        self.products: set[str] = set()
        self.computed = 0

    def update(self, batch: PairBatch) -> None:
        self.sizes.append(len(batch.pairs))
        self.products |= {f"{torch.get_float32_matmul_precision()}, {torch.is_grad_enabled()}"}
        for side in ("generated", "reference"):
            self.memory.recall(self.memory.store(side), batch.hashes(side), self.ones)

    def ones(self, chosen: list[int]) -> torch.Tensor:
        self.computed += len(chosen)
        return torch.ones(len(chosen), 1)

    def compute(self) -> Result:
        return Result(0.25, None, sum(self.sizes), finite_mean=0.25)


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> list[Watching]:
    """Watches in place of PSNR and SSIM; those that were opened."""
    opened: list[Watching] = []

    def begin(*given: Any) -> Watching:
        opened.append(Watching(*given))
        return opened[-1]

    for name in ("psnr", "ssim"):
        monkeypatch.setitem(METRICS, name, replace(METRICS[name], open=begin))
    return opened


def test_a_call_hands_on_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts become paths; what is not given has the command's defaults."""
    asked: list[tuple[object, ...]] = []

    def answer(name: str, found: object) -> None:
        def step(*given: object) -> object:
            asked.append((name, *given))
            return found

        monkeypatch.setattr(evaluation, name, step)

    answer("prepare", ("setting", ["chosen"]))
    answer("pair", "pairs")
    answer("measure", {})
    monkeypatch.setenv("WEIGHTS_ROOT", "own")
    assert evaluation.evaluate("ego4d", "gen", "gt", "val.json") == {}
    paths = Path("gen"), Path("gt"), Path("val.json")
    assert asked == [
        ("prepare", "ego4d", None, None, "published", "32", "cpu", DESCRIPTION_KEY, None, Path("own"), 32),
        ("pair", "setting", *paths),
        ("measure", "pairs", ["chosen"], "setting"),
    ]
    asked.clear()
    evaluation.evaluate(
        "epickitchen", "gen", "gt", "val.json", metrics="clip", metadata="facts.json", llava_key="action",
        input_path="val", weights="weights", protocol="corrected", precision="bf16", batch_size=7,
        device="cuda",
    )  # fmt: skip
    assert asked[0] == (
        "prepare", "epickitchen", ["clip"], Path("facts.json"), "corrected", "bf16", "cuda", "action",
        Path("val"), Path("weights"), 7,
    )  # fmt: skip
    evaluation.evaluate("ego4d", "gen", "gt", "val.json", metrics=("clip", "fid"))
    assert asked[3][2] == ("clip", "fid")


def test_choices_become_a_setting(tmp_path: Path) -> None:
    facts = tmp_path / "facts.json"
    facts.write_text('{"clip": {"height": 18, "width": 32}}')
    (tmp_path / "deep").mkdir()
    for file in (EGOVLP["epickitchen"], CLIP):
        (tmp_path / "deep" / file.name).write_text("weights")
    given: list[Any] = [
        "epickitchen", ["egovlp_image_sim", "psnr"], facts, "corrected", "32", "cpu", "key", Path("in"),
        tmp_path, 1,
    ]  # fmt: skip
    setting, chosen = evaluation.prepare(*given)
    assert [metric.name for metric in chosen] == ["egovlp", "psnr"]
    name = EGOVLP["epickitchen"].name
    assert setting == MetricSetting(
        "epickitchen", "corrected", CPU, "32", read_metadata(facts), facts, "key", Path("in"), 1, tmp_path,
        {name: tmp_path / "deep" / name},
    )  # fmt: skip
    given[1:3] = ["clip", "clip_image_sim"], None
    setting, chosen = evaluation.prepare(*given)
    assert [metric.name for metric in chosen] == ["clip"]
    assert (setting.metadata, setting.metadata_file) == (None, None)
    for place, wrong, message in (
        (0, "kitchen", "data set 'kitchen': allowed are ego4d, epickitchen"),
        (3, "loose", "protocol 'loose': allowed are published, corrected"),
        (4, "8", "precision '8': allowed are 32, tf32, tiles, bf16, auto"),
        (9, 0, "batch size 0: expected at least 1"),
    ):
        with pytest.raises(UserError) as told:
            evaluation.prepare(*given[:place], wrong, *given[place + 1 :])
        assert str(told.value) == message


def test_pairs_are_of_the_data_set_and_of_a_shard(scene: Any, noise: Any) -> None:
    """On epickitchen a pixel is forgiven in the published protocol alone."""
    assert [pair.item.clip for pair in pairs_of(scene).pairs] == ["clip0", "clip1", "clip2", "clip3"]
    assert [pair.item.clip for pair in pairs_of(scene, shard=Shard(2, 3)).pairs] == ["clip1"]
    with pytest.raises(UserError, match="the data set is said to be epickitchen; give ego4d"):
        pairs_of(scene, MetricSetting("epickitchen"))
    scene.annotations.write_text(scene.annotations.read_text().replace("#C C ", ""))
    noise(scene.generated(), 5, size=(31, 18))
    assert len(pairs_of(scene, MetricSetting("epickitchen"))) == 4
    for setting in (EGO4D, MetricSetting("epickitchen", "corrected")):
        with pytest.raises(UserError, match="the frame is 31x18 pixels, its target 32x18"):
            pairs_of(scene, setting)


def test_metrics_see_all_pairs_without_gradients(scene: Any, watching: list[Watching]) -> None:
    pairs, metrics = pairs_of(scene), [METRICS["psnr"]]
    assert evaluation.measure(pairs, metrics, EGO4D) == {"psnr": Result(0.25, None, 4, finite_mean=0.25)}
    evaluation.measure(pairs, metrics, replace(EGO4D, precision="tf32"))
    plain, fewer = watching
    assert (plain.setting, plain.pairs, plain.sizes) == (EGO4D, pairs, [3, 1])
    assert plain.memory == Memory(kind(metrics[0], EGO4D))
    assert (plain.products, fewer.products) == ({"highest, False"}, {"high, False"})
    stores = Store(scene.root / "own"), Store(scene.root / "targets")
    evaluation.measure(pairs, metrics, EGO4D, Memory("", *stores))
    assert watching[2].memory == Memory(kind(metrics[0], EGO4D), *stores)


def test_how_many_pairs_were_seen_is_told(
    scene: Any, watching: list[Watching], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []
    metrics = [METRICS["psnr"], replace(METRICS["psnr"], name="other")]
    with caplog.at_level(logging.INFO):
        found = evaluation.see(pairs_of(scene), metrics, EGO4D, Memory("unused"), told.append)
    assert told == [3, 1]
    assert [line.partition(",")[0] for line in caplog.messages] == ["pair: 4/4 (100 %)"]
    assert found == dict(zip(("psnr", "other"), watching, strict=True))
    assert [each.sizes for each in watching] == [[3, 1]] * 2
    assert [each.memory.kind for each in watching] == [kind(metric, EGO4D) for metric in metrics]


def test_a_metric_of_two_sets_refuses_one_frame(scene: Any, watching: list[Watching]) -> None:
    metrics = [METRICS["psnr"], replace(METRICS["psnr"], name="fid", fewest=2)]
    with pytest.raises(UserError) as told:
        evaluation.measure(pairs_of(scene, shard=Shard(1, 4)), metrics, EGO4D)
    assert str(told.value) == ("metric 'fid': 1 frame; it compares two sets, of at least 2 frames each")
    assert watching == []
    assert evaluation.measure(pairs_of(scene, shard=Shard(1, 2)), metrics, EGO4D).keys() == {"psnr", "fid"}


def test_a_shard_keeps_what_metrics_see(scene: Any, watching: list[Watching]) -> None:
    setting, work = replace(EGO4D, precision="tf32", batch_size=1), Work(Shard(2, 2), before=7)
    asked: list[Shard] = []

    def pair_up(shard: Shard) -> Pairs:
        asked.append(shard)
        return pairs_of(scene, shard=shard)

    evaluation.measure_shard(scene.run, pair_up, [METRICS["psnr"]], setting, work)
    assert asked == [Shard(2, 2)]
    assert (work.total, work.before, work.done) == (2, 0, 2)
    (seen,) = watching
    assert (seen.setting, seen.sizes, seen.products) == (setting, [1, 1], {"high, False"})
    path = scene.run / "metric/shards/2_of_2.sqlite"
    stores = [seen.memory.generated, seen.memory.reference]
    assert [each and each.path for each in stores] == [path, path]
    hashes = [hash_ for pair in seen.pairs.pairs for hash_ in pair.hashes]
    assert Store(path).read(kind(METRICS["psnr"], setting), hashes).keys() == {*hashes}


def test_what_is_known_is_not_measured_again(
    scene: Any, watching: list[Watching], caplog: pytest.LogCaptureFixture
) -> None:
    pairs, both = pairs_of(scene), [METRICS["ssim"], METRICS["psnr"]]
    assert evaluation.missing_metrics(scene.run, pairs, both, EGO4D) == both
    with caplog.at_level(logging.INFO):
        first = measure_run(scene.run, "lego", pairs, both[1:], EGO4D, 10)
    own = [line for line in caplog.messages if line.startswith("lego: ")]
    assert own == ["lego: 4 pairs; measuring psnr", f"lego: written {scene.run}/metric/metric.json"]
    assert evaluation.missing_metrics(scene.run, pairs, both, EGO4D) == both[:1]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        second = measure_run(scene.run / "images", "again", pairs, both, EGO4D, 10)
        third = measure_run(scene.run, "again", pairs, both, EGO4D, 10)
    told = [line for line in caplog.messages if "measuring" in line]
    assert told == ["again: 4 pairs; measuring ssim", "again: 4 pairs; measuring nothing new"]
    assert len(watching) == 2
    assert list(second) == ["psnr", "ssim"]  # in the registry's order
    assert second == third
    assert (second["psnr"].result, first["psnr"].result.mean) == (
        Result(0.25, None, 4, finite_mean=0.25),
        0.25,
    )
    assert second["psnr"].provenance == evaluation.provenance(METRICS["psnr"], pairs, EGO4D)
    assert second["ssim"].provenance == evaluation.provenance(METRICS["ssim"], pairs, EGO4D)
    assert second["ssim"].metric is METRICS["ssim"]
    details = read(scene.run / "metric/details.json")
    assert (details["name"], details["bootstrap"], list(details["metrics"])) == (
        "again",
        10,
        ["psnr", "ssim"],
    )


def test_a_run_joins_its_shards_and_leaves_no_trace_of_them(
    scene: Any, watching: list[Watching], caplog: pytest.LogCaptureFixture
) -> None:
    """Where there are shards, targets lie in them too; else in the cache of all runs."""
    metrics, pairs = [METRICS["psnr"], METRICS["ssim"]], pairs_of(scene)
    for shard in (Shard(1, 2), Shard(2, 2)):
        evaluation.measure_shard(
            scene.run, lambda shard: pairs_of(scene, shard=shard), metrics, EGO4D, Work(shard)
        )
    with caplog.at_level(logging.INFO):
        measure_run(scene.run, "lego", pairs, metrics, EGO4D, 0)
    assert "lego: 4 pairs; measuring psnr, ssim" in caplog.messages
    memory = watching[-1].memory
    assert memory.generated is memory.reference
    assert memory.generated is not None
    assert memory.generated.path == scene.run / "metric/progress.sqlite"
    assert sorted(path.name for path in (scene.run / "metric").iterdir()) == [
        "details.json", "metric.json", "per_sample.json",
    ]  # fmt: skip
    assert [each.computed for each in watching[-2:]] == [0, 0]  # all is known
    (scene.run / "metric/details.json").unlink()
    measure_run(scene.run, "lego", pairs, metrics, EGO4D, 0)
    memory = watching[-1].memory
    assert memory.generated is not None
    assert memory.reference is not None
    assert memory.generated.path == scene.run / "metric/progress.sqlite"
    assert memory.reference.path == evaluation.run_root() / "cache/metrics.sqlite"
    assert not (scene.run / "metric/progress.sqlite").exists()


def test_results_of_metrics_that_are_not_asked_for_stay_while_nothing_speaks_against_them(
    scene: Any, watching: list[Watching], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those without a result nothing is looked for."""
    asked: list[str] = []
    at_hand = evaluation.provenance_at_hand

    def counted(metric: Metric, *more: Any) -> dict[str, object]:
        asked.append(metric.name)
        return at_hand(metric, *more)

    monkeypatch.setattr(evaluation, "provenance_at_hand", counted)
    pairs = pairs_of(scene)
    measure_run(scene.run, "lego", pairs, [METRICS["psnr"]], EGO4D, 0)
    assert asked == []
    found = measure_run(scene.run, "lego", pairs, [METRICS["ssim"]], EGO4D, 0)
    assert list(found) == ["psnr", "ssim"]
    assert (asked, len(watching)) == (["psnr"], 2)
    found = measure_run(scene.run, "lego", pairs, [METRICS["ssim"]], replace(EGO4D, protocol="corrected"), 0)
    assert list(found) == ["ssim"]


def test_what_an_evaluation_was(scene: Any) -> None:
    pairs = pairs_of(scene)
    setting = replace(EGO4D, protocol="corrected", llava_key="action", precision="bf16")
    told = {
        "name": "lego", "dataset": "ego4d", "protocol": "corrected", "n": 4, "image_formats": ["JPEG"],
        "gen_path": f"{scene.run}", "images": "images", "gt_path": f"{scene.targets}",
        "edit_file": f"{scene.annotations}", "metadata": None, "llava_key": "action", "precision": "bf16",
        "device": "cpu",
    }  # fmt: skip
    assert evaluation.about(setting, pairs, scene.run, "lego") == told
    frames = (scene.run / "images").rename(scene.run / "drawn")
    setting = replace(setting, metadata_file=Path("facts.json"))
    more = {"gen_path": f"{frames}", "images": "drawn", "metadata": "facts.json"}
    assert evaluation.about(setting, pairs, frames, "lego") == told | more


def circumstances(*libraries: str) -> dict[str, object]:
    """What is written of CLIP's and others' circumstances."""
    packages = ("torch", "torchmetrics", "pillow", "numpy", *libraries)
    versions = {name: version(name) for name in packages}
    return {
        "dataset": "ego4d", "protocol": "published", "precision": "32", "definitions": 1, "versions": versions
    }  # fmt: skip


def test_what_decides_a_value(scene: Any, tmp_path: Path) -> None:
    pairs, name = pairs_of(scene), EGOVLP["ego4d"].name
    (tmp_path / name).write_text("weights")
    setting = replace(EGO4D, weights={name: tmp_path / name}, root=tmp_path)
    metric = replace(
        METRICS["clip"],
        weights=lambda setting: (EGOVLP[setting.dataset],),
        inputs=lambda setting, pairs: {"key": f"{setting.llava_key} {len(pairs)}"},
    )
    expected = {
        **pairs.digests, **circumstances("open_clip_torch"), name: digest("weights"),
        "key": "llava_forecast_finetune 4",
    }  # fmt: skip
    assert evaluation.provenance(metric, pairs, setting) == expected
    assert evaluation.provenance_at_hand(metric, pairs, replace(setting, weights={})) == expected
    text = json.dumps(["clip", circumstances("open_clip_torch"), {name: digest("weights")}], sort_keys=True)
    assert kind(metric, setting) == digest(text)
    plain = METRICS["psnr"]
    assert evaluation.circumstances(plain, setting) == circumstances("torchmetrics")
    both = sorted([kind(metric, setting), kind(plain, setting)])
    for metrics in ([metric, plain], [plain, metric]):
        assert evaluation.digest_of(metrics, setting) == digest(" ".join(both))[:16]


def test_files_that_are_not_here_say_nothing_against_a_result(scene: Any, tmp_path: Path) -> None:
    """Nor do two of one name, nor inputs that cannot be read; a metric that is asked for tells of them."""
    pairs, (first, second) = pairs_of(scene), EGOVLP.values()

    def fails(*_: object) -> dict[str, object]:
        raise UserError("no input")

    metric = replace(
        METRICS["clip"], weights=lambda setting: (CLIP, EGOVLP[setting.dataset], second), inputs=fails
    )
    setting = replace(EGO4D, root=tmp_path)
    known = {**pairs.digests, **circumstances("open_clip_torch")}
    assert evaluation.provenance_at_hand(metric, pairs, setting) == known
    (tmp_path / second.name).write_text("weights")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / first.name).write_text(folder)
    found = evaluation.provenance_at_hand(metric, pairs, setting)
    assert found == {**known, second.name: digest("weights")}
    with pytest.raises(UserError, match="no input"):
        evaluation.provenance(replace(metric, weights=lambda _: ()), pairs, setting)

"""`python -m ldm.evaluate` with all metrics of the table, on weight files at toy size."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from egogen.layout import FOLDERS
from ldm import evaluate
from ldm.metrics import clip, contexts, evaluation, results
from ldm.metrics import weights as files
from ldm.metrics.cache import Store
from tests.ldm.evaluation.failing import fails
from tests.ldm.evaluation.networks import ORACLE, blip

TABLE = [
    "egovlp_image_sim", "egovlp_plus_image_sim", "clip_image_sim", "fid", "psnr", "lpips_squeeze",
    "lpips_vgg", "lpips_alex", "lpips_corrected", "blip_base_egovlp_sim", "blip_large_egovlp_sim", "ssim",
]  # fmt: skip
TOLERANCE = {"psnr": 1e-4, "fid": 3e-6, "lpips_squeeze": 1e-7, "lpips_vgg": 1e-7, "lpips_alex": 1e-7}


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def flags(recorded: Path, run_folder: Path, dataset: str, weights: Path, *more: str) -> list[str]:
    root = recorded / "EgoGen"
    return [
        *("--dataset", dataset, "--gen_path", str(run_folder), "--weights", str(weights), "--device", "cpu"),
        *("--gt_path", str(root / FOLDERS[dataset] / "val_gt_for_metric")),
        *("--edit_file", str(root / f"{dataset}_val.json"), *more),
    ]


@pytest.fixture
def run_folder(recorded: Path, tmp_path: Path) -> Path:
    """A run of the recorded ego4d frames."""
    shutil.copytree(recorded / "gen" / "ego4d" / "images", tmp_path / "lego" / "images")
    return tmp_path / "lego"


@pytest.mark.slow
@pytest.mark.parametrize("dataset", list(FOLDERS))
def test_the_whole_table(
    recorded: Path, tmp_path: Path, weights: Path, dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """All metrics by default; all but BLIP, whose words are made here, equal the recorded evaluation."""
    folder = tmp_path / "lego"
    shutil.copytree(recorded / "gen" / dataset / "images", folder / "images")
    table = tmp_path / "samples.parquet"
    evaluate.main(flags(recorded, folder, dataset, weights, "--per-sample", str(table)))
    metric = read(folder / "metric" / "metric.json")
    assert sorted(metric) == sorted(TABLE)
    for key, value in read(ORACLE / "end_to_end.json")[dataset].items():
        if not key.startswith("blip"):
            assert metric[key] == pytest.approx(value, abs=TOLERANCE.get(key, 3e-6)), key
    details = read(folder / "metric" / "details.json")
    assert details["image_formats"] == ["PNG"]
    assert details["n"] == 6
    for name, entry in details["metrics"].items():
        assert entry["provenance"]["protocol"] == "published"
        if name == "fid":
            assert entry["interval_95"] is None
        else:
            low, high = entry["interval_95"]
            assert low <= entry["mean"] <= high
    hashes = details["metrics"]["clip"]["provenance"]
    assert len(hashes["ViT-L-14.pt"]) == 64
    captions = read(folder / "metric" / "blip.json")
    assert captions == read(folder / "metric" / "blip-l.json")
    assert {clip_id: list(actions) for clip_id, actions in captions.items()} == {
        clip_id: list(actions)
        for clip_id, actions in read(recorded / "EgoGen" / f"{dataset}_val.json").items()
    }
    rows = parquet.read_table(table).to_pylist()
    assert [row["run"] for row in rows] == ["lego"] * 6
    assert sum(row["egovlp"] for row in rows) / 6 == pytest.approx(metric["egovlp_image_sim"])
    assert rows[0]["blip_base_caption"] == captions[rows[0]["clip_id"]][rows[0]["action_id"]]
    assert "Published (" in capsys.readouterr().out
    assert not results.progress_path(folder).exists()
    # The same again measures nothing and keeps every number and caption.
    evaluate.main(flags(recorded, folder, dataset, weights))
    assert read(folder / "metric" / "metric.json") == metric
    assert read(folder / "metric" / "blip.json") == captions


QUICK = "clip,egovlp_plus,lpips_squeeze"


def values(folder: Path) -> dict[str, dict[str, float]]:
    return dict(read(folder / "metric" / "per_sample.json"))


def fresh(folder: Path) -> None:
    """Forgets what was measured, also of the targets."""
    shutil.rmtree(folder / "metric", ignore_errors=True)
    shutil.rmtree(Path(os.environ["RUN_ROOT"]) / "cache", ignore_errors=True)


def test_batches_and_order_change_nothing(
    recorded: Path, run_folder: Path, tmp_path: Path, weights: Path
) -> None:
    argv = flags(recorded, run_folder, "ego4d", weights, "--metrics", f"{QUICK},fid,blip_base")
    evaluate.main(argv)
    one, fid = values(run_folder), read(run_folder / "metric" / "metric.json")["fid"]
    shuffled = tmp_path / "shuffled.json"
    raw = read(recorded / "EgoGen" / "ego4d_val.json")
    shuffled.write_text(json.dumps({clip_id: raw[clip_id] for clip_id in reversed(raw)}))
    for more in (["--batch-size", "1"], ["--batch-size", "4"], ["--edit_file", str(shuffled)]):
        fresh(run_folder)
        evaluate.main([*argv, *more])
        for name, found in values(run_folder).items():
            assert found == pytest.approx(one[name], abs=1e-6), (more, name)
        assert read(run_folder / "metric" / "metric.json")["fid"] == pytest.approx(fid, abs=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_changes_nothing(recorded: Path, run_folder: Path, weights: Path) -> None:
    """In 32 bits: 2e-5 for cosines and LPIPS, 1e-4 for PSNR and FID."""
    argv = flags(recorded, run_folder, "ego4d", weights, "--metrics", f"{QUICK},fid,psnr")
    evaluate.main(argv)
    one, fid = values(run_folder), read(run_folder / "metric" / "metric.json")["fid"]
    fresh(run_folder)
    evaluate.main([*argv, "--device", "cuda"])
    for name, found in values(run_folder).items():
        assert found == pytest.approx(one[name], abs=1e-4 if name == "psnr" else 2e-5)
    assert read(run_folder / "metric" / "metric.json")["fid"] == pytest.approx(fid, abs=1e-4)


def test_bf16_is_near(recorded: Path, run_folder: Path, weights: Path) -> None:
    argv = flags(recorded, run_folder, "ego4d", weights, "--metrics", "clip,egovlp")
    evaluate.main(argv)
    exact = values(run_folder)
    evaluate.main([*argv, "--precision", "bf16"])
    near = values(run_folder)
    assert near != exact
    for name, found in near.items():
        assert found == pytest.approx(exact[name], abs=2e-2)
    assert read(run_folder / "metric" / "details.json")["precision"] == "bf16"


def test_protocols_are_never_mixed(recorded: Path, run_folder: Path, weights: Path) -> None:
    argv = flags(recorded, run_folder, "ego4d", weights)
    evaluate.main([*argv, "--metrics", "lpips_squeeze,lpips_corrected,clip"])
    published = values(run_folder)
    evaluate.main([*argv, "--metrics", "lpips_squeeze", "--protocol", "corrected"])
    corrected = values(run_folder)
    assert set(corrected) == {"lpips_squeeze"}  # nothing of the other protocol stays
    assert corrected["lpips_squeeze"] == pytest.approx(published["lpips_corrected"])
    assert read(run_folder / "metric" / "details.json")["protocol"] == "corrected"


def count_embeddings(monkeypatch: pytest.MonkeyPatch, limit: int = 10**6) -> list[int]:
    """How many images CLIP embeds at each call; Ctrl-C once there were more than a limit."""
    seen: list[int] = []
    embed = clip.embed

    def counted(network: Any, images: Any, protocol: Any) -> Any:
        if sum(seen) + len(images) > limit:
            raise KeyboardInterrupt
        seen.append(len(images))
        return embed(network, images, protocol)

    monkeypatch.setattr(clip, "embed", counted)
    return seen


def test_targets_are_embedded_once_for_all_runs(
    recorded: Path, run_folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = run_folder.with_name("other")
    shutil.copytree(run_folder, other)
    seen = count_embeddings(monkeypatch)
    argv = flags(recorded, run_folder, "ego4d", weights, "--metrics", "clip")
    argv.insert(argv.index(str(run_folder)) + 1, str(other))
    evaluate.main(argv)
    assert sum(seen) == 6 + 6 + 6  # both runs' frames, the targets once
    assert values(run_folder) == values(other)


def test_an_interruption_loses_nothing(
    recorded: Path, run_folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = flags(recorded, run_folder, "ego4d", weights, "--metrics", "clip,fid", "--batch-size", "1")
    with monkeypatch.context() as patch:
        count_embeddings(patch, limit=5)
        with pytest.raises(KeyboardInterrupt):
            evaluate.main(argv)
    assert results.progress_path(run_folder).exists()
    assert not results.metric_path(run_folder).exists()
    with monkeypatch.context() as patch:
        seen = count_embeddings(patch)
        evaluate.main([*argv, "--batch-size", "4"])
    assert sum(seen) == 12 - 5
    assert not results.progress_path(run_folder).exists()
    interrupted = read(run_folder / "metric" / "metric.json")
    fresh(run_folder)
    evaluate.main(argv)
    assert read(run_folder / "metric" / "metric.json") == pytest.approx(interrupted, abs=1e-6)


@pytest.mark.slow
def test_a_killed_process_goes_on(recorded: Path, run_folder: Path, weights: Path) -> None:
    argv = [sys.executable, "-m", "ldm.evaluate", "--batch-size", "1", "--metrics", "egovlp"]
    argv += flags(recorded, run_folder, "ego4d", weights)
    progress = results.progress_path(run_folder)
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not progress.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert "written" in done.stderr
    assert set(read(run_folder / "metric" / "metric.json")) == {"egovlp_image_sim"}


def test_a_damaged_cache_is_left_alone(
    recorded: Path, run_folder: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = Path(os.environ["RUN_ROOT"]) / "cache" / "metrics.sqlite"
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"no database" * 1000)
    evaluate.main(flags(recorded, run_folder, "ego4d", weights, "--metrics", "clip"))
    assert f"{cache}: cannot keep vectors here" in caplog.text
    assert set(values(run_folder)) == {"clip"}
    assert cache.read_bytes() == b"no database" * 1000


def test_results_without_their_weights_stay(
    recorded: Path, run_folder: Path, weights: Path, tmp_path: Path
) -> None:
    """On a machine without the weights further metrics are added, and nothing is lost."""
    argv = flags(recorded, run_folder, "ego4d", weights, "--metrics", "clip,egovlp_plus,blip_base")
    evaluate.main(argv)
    before = read(run_folder / "metric" / "metric.json")
    captions = read(run_folder / "metric" / "blip.json")
    origins = provenances(run_folder)
    evaluate.main([*argv, "--metrics", "psnr", "--weights", str(tmp_path / "nowhere")])
    assert {each: provenances(run_folder)[each] for each in origins} == origins
    evaluate.main([*argv, "--metrics", "ssim"])  # the weights are here again
    after = read(run_folder / "metric" / "metric.json")
    assert {key: after[key] for key in before} == before
    assert set(after) == {*before, "psnr", "ssim"}
    assert read(run_folder / "metric" / "blip.json") == captions


def provenances(folder: Path) -> dict[str, Any]:
    entries = read(results.details_path(folder))["metrics"]
    return {name: entry["provenance"] for name, entry in entries.items()}


def test_what_is_not_asked_for_costs_nothing(
    recorded: Path, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither weights nor frames before actions are read for metrics without a stored result."""
    monkeypatch.setattr(evaluation, "sha256", None)
    monkeypatch.setattr(contexts, "find_contexts", None)
    (tmp_path / files.CLIP.name).write_bytes(b"large")
    evaluate.main(flags(recorded, run_folder, "ego4d", tmp_path, "--metrics", "psnr"))
    assert set(read(run_folder / "metric" / "metric.json")) == {"psnr"}


def test_two_files_of_one_name_matter_to_those_who_read_them(
    recorded: Path, run_folder: Path, weights: Path, tmp_path: Path
) -> None:
    evaluate.main(flags(recorded, run_folder, "ego4d", weights, "--metrics", "blip_base"))
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / files.VOCABULARY.name).write_text(folder)
    argv = flags(recorded, run_folder, "ego4d", tmp_path)
    evaluate.main([*argv, "--metrics", "psnr"])
    assert set(read(run_folder / "metric" / "metric.json")) == {"psnr", "blip_base_egovlp_sim"}


def test_other_weights_measure_anew(recorded: Path, run_folder: Path, weights: Path, tmp_path: Path) -> None:
    argv = flags(recorded, run_folder, "ego4d", weights, "--metrics", "lpips_alex")
    evaluate.main(argv)
    before = read(run_folder / "metric" / "metric.json")
    name = weights_name("alex")
    changed = torch.load(weights / name)
    changed["features.0.weight"] *= 1.5
    (tmp_path / "w").mkdir()
    torch.save(changed, tmp_path / "w" / name)
    evaluate.main([*argv, "--weights", str(tmp_path / "w")])
    assert read(run_folder / "metric" / "metric.json") != before
    # Another metric alone, beside weights that would give other numbers: the stale ones go.
    evaluate.main([*argv, "--metrics", "psnr"])
    assert set(read(run_folder / "metric" / "metric.json")) == {"psnr"}


def weights_name(net: str) -> str:
    return files.LPIPS[net].name


def test_all_missing_weights_are_named_before_any_work(
    recorded: Path, run_folder: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = fails(evaluate.main, flags(recorded, run_folder, "ego4d", tmp_path / "nowhere"), capsys)
    for part in ("9 weight files missing", "egovlp.pth (724 MB", "ViT-L-14.pt (933 MB", "vocab.txt",
                 "model_large_caption.pth (1.9 GB", "bash scripts/download_metric_weights.sh",
                 "--metrics"):  # fmt: skip
        assert part in told
    assert "epic_mir_plus" not in told
    assert not (run_folder / "metric").exists()
    some = tmp_path / "some"
    shutil.copytree(weights, some)
    (some / "ViT-L-14.pt").unlink()
    told = fails(evaluate.main, flags(recorded, run_folder, "ego4d", some), capsys)
    assert "1 weight file missing: ViT-L-14.pt" in told


def test_weights_come_from_the_environment(
    recorded: Path, run_folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHTS_ROOT", str(weights))
    argv = flags(recorded, run_folder, "ego4d", weights, "--metrics", "lpips_alex")
    place = argv.index("--weights")
    evaluate.main(argv[:place] + argv[place + 2 :])
    assert set(read(run_folder / "metric" / "metric.json")) == {"lpips_alex"}


WRONG = {
    "another model": (
        "egovlp", "egovlp.pth", lambda w: torch.load(w / "ViT-L-14.pt"), "not the weights of EgoVLP",
    ),
    "another size": (
        "lpips_alex", "alexnet-owt-7be5be79.pth", lambda w: torch.load(w / "vgg16-397923af.pth"),
        "not the weights of LPIPS (alex): of 10 tensors 6 missing",
    ),
    "a shape": (
        "blip_base", "model_base_caption_capfilt_large.pth",
        lambda _: {"model": blip(2050) | {"visual_encoder.norm.bias": torch.zeros(7)}}, "1 of another shape",
    ),
    "a tensor less": (
        "fid", "pt_inception-2015-12-05-6726825d.pth",
        lambda w: {k: v for k, v in torch.load(w / files.INCEPTION.name).items() if k != "fc.bias"},
        "not the weights of Inception",
    ),
    "of CLIP": (
        "clip", "ViT-L-14.pt", lambda w: torch.load(w / "egovlp.pth"), "not the weights of OpenAI CLIP",
    ),
    "no tensors": ("clip", "ViT-L-14.pt", lambda _: {"state_dict": {}}, "holds no weights"),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_weights(
    recorded: Path,
    run_folder: Path,
    weights: Path,
    tmp_path: Path,
    fault: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    metric, name, content, message = WRONG[fault]
    root = tmp_path / "w"
    shutil.copytree(weights, root)
    torch.save(content(weights), root / name)
    told = fails(evaluate.main, flags(recorded, run_folder, "ego4d", root, "--metrics", metric), capsys)
    assert f"{name}: " in told
    assert message in told
    assert not (run_folder / "metric").exists()


class Malicious:
    def __reduce__(self) -> Any:
        return os.system, ("echo executed",)


@pytest.mark.parametrize("name", ["egovlp.pth", "model_base_caption_capfilt_large.pth", "ViT-L-14.pt"])
def test_nothing_in_a_weight_file_is_executed(
    recorded: Path,
    run_folder: Path,
    weights: Path,
    tmp_path: Path,
    name: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "w"
    shutil.copytree(weights, root)
    torch.save({"state_dict": {}, "config": Malicious()}, root / name)
    with pytest.raises(ValueError, match="refused, it holds more than tensors"):
        evaluate.main(flags(recorded, run_folder, "ego4d", root, "--metrics", "egovlp,clip,blip_base"))
    assert "executed" not in capfd.readouterr().out


def test_a_truncated_weight_file(
    recorded: Path, run_folder: Path, weights: Path, tmp_path: Path, capsys: Any
) -> None:
    root = tmp_path / "w"
    shutil.copytree(weights, root)
    path = root / "ViT-L-14.pt"
    path.write_bytes(path.read_bytes()[:-5000])
    told = fails(evaluate.main, flags(recorded, run_folder, "ego4d", root, "--metrics", "clip"), capsys)
    assert "ViT-L-14.pt: not a readable checkpoint, cut off perhaps" in told


def test_the_published_clip_archive_is_read(weights: Path, tmp_path: Path) -> None:
    """OpenAI's file is a TorchScript archive with settings among its tensors."""
    scripted = torch.nn.Module()
    for name, value in {**torch.load(weights / "ViT-L-14.pt"), "input_resolution": torch.tensor(224)}.items():
        parent = scripted
        *path, last = name.split(".")
        for part in path:
            if not hasattr(parent, part):
                parent.add_module(part, torch.nn.Module())
            parent = getattr(parent, part)
        parent.register_buffer(last, value)
    torch.jit.script(scripted).save(tmp_path / "ViT-L-14.pt")
    plain = clip.load(weights / "ViT-L-14.pt", torch.device("cpu")).state_dict()
    archive = clip.load(tmp_path / "ViT-L-14.pt", torch.device("cpu")).state_dict()
    assert plain.keys() == archive.keys()
    assert all(torch.equal(plain[name], archive[name]) for name in plain)


def test_captions_need_texts(
    recorded: Path, run_folder: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = flags(recorded, run_folder, "ego4d", weights, "--metrics", "blip_base")
    told = fails(evaluate.main, [*argv, "--llava_key", "no_such_key"], capsys)
    assert "6 of 6 actions, clip0_00/00000_act first, have no text under 'no_such_key'" in told
    evaluate.main([*argv, "--llava_key", "action"])
    with_labels = values(run_folder)
    evaluate.main(argv)
    assert values(run_folder) != with_labels


def test_a_vocabulary_of_another_model(
    recorded: Path, run_folder: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "w"
    shutil.copytree(weights, root)
    path = root / "distilbert-base-uncased" / "vocab.txt"
    argv = flags(recorded, run_folder, "ego4d", root, "--metrics", "blip_base")
    path.write_text(path.read_text() + "\n".join(f"more{n}" for n in range(10)))
    assert "a vocabulary of 2058 words, expected that of distilbert-base-uncased with at most 2048" in fails(
        evaluate.main, argv, capsys
    )
    path.write_text("hello\nworld\n")
    assert "a vocabulary without [" in fails(evaluate.main, argv, capsys)


@pytest.mark.parametrize("fault", ["missing", "truncated", "size"])
def test_frames_before_the_actions_are_checked(
    recorded: Path,
    run_folder: Path,
    weights: Path,
    tmp_path: Path,
    fault: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    val = tmp_path / "val"
    shutil.copytree(recorded / "EgoGen/ego4d.fho/val", val)
    path = val / "clip0_01/00002_act/001074.png"
    if fault == "missing":
        shutil.rmtree(path.parent)
    elif fault == "truncated":
        path.write_bytes(path.read_bytes()[:-300])
    else:
        Image.new("RGB", (300, 256)).save(path)
    argv = flags(recorded, run_folder, "ego4d", weights, "--metrics", "egovlp_plus", "--input_path", str(val))
    message = {
        "missing": "no frames here",
        "truncated": "not a whole image",
        "size": "300x256 pixels, its target",
    }
    assert message[fault] in fails(evaluate.main, argv, capsys)


def test_two_files_of_one_name(tmp_path: Path) -> None:
    """Equal copies are fine, different ones are not guessed between."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / files.VOCABULARY.name).write_text("x")
    assert files.locate(tmp_path, files.VOCABULARY) == tmp_path / "a" / "vocab.txt"
    (tmp_path / "b" / "vocab.txt").write_text("y")
    with pytest.raises(ValueError, match=r"a/vocab\.txt and .*b/vocab\.txt have one name but differ"):
        files.locate(tmp_path, files.VOCABULARY)


def test_vectors_are_kept_by_kind_and_content(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "x.sqlite")
    assert store.read("a", ["k"]) == {}
    store.write("a", {"k": np.arange(3, dtype=np.float32), "i": np.arange(2)})
    found = Store(tmp_path / "deep" / "x.sqlite").read("a", ["i", "k", "other"])
    assert {key: (value.dtype.kind, value.tolist()) for key, value in found.items()} == {
        "i": ("i", [0, 1]), "k": ("f", [0.0, 1.0, 2.0]),
    }  # fmt: skip
    assert store.read("b", ["k"]) == {}

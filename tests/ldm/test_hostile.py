"""Hostile weights and settings are refused; doors need no network and tell nobody's keys.

Code in pickles: `test_reading`, `test_convert`; uploads to the page: `test_photos`, `test_page_server`.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from egogen.errors import UserError
from egogen.stats.__main__ import main as stats
from egogen.validate.__main__ import main as validate
from ldm.checkpoints.lora_files import read_lora
from ldm.checkpoints.safe_reading import read
from ldm.config.merge import load_config
from ldm.config.sections import TrainConfig
from ldm.evaluate import main as evaluate
from ldm.report.__main__ import main as report
from ldm.sample import main as sample
from tests.ldm.test_trackers import asked, offline
from tests.ldm.toy_run import fit, make_run

__all__ = ["asked", "offline"]  # no way out while this module runs, and who wanted one
EVIL = "<script>alert(7)</script><img src=x onerror=alert(7)>\"'"
KEYS = {name: f"geheim-{name.lower()}-93kd" for name in ("HF_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY")}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unet.alpha_pattern": {"(a+)+b": 1}}, r"alpha_pattern has '\(a\+\)\+b', expected a layer's name"),
        ({"unet.alpha_pattern": {".*.*.*.*.*.*b": 1}}, "expected a layer's name"),
        ({"unet.alpha_pattern": {"(": 1}}, "expected a layer's name"),
        ({"unet.alpha_pattern": [1]}, "expected an object of numbers by layer"),
        ({"unet.alpha_pattern": {"to_q": "x"}}, "an alpha is 'x', expected a number"),
        ({"unet.lora_alpha": float("inf")}, "an alpha is inf"),
        ({"unet.lora_alpha": None}, "an alpha is None"),
    ],
)
def test_settings_of_a_lora_file(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    header = {"lora_adapter_metadata": json.dumps(settings)}
    save_file({"unet.to_q.lora_A.weight": torch.ones(1, 1)}, tmp_path / "x.safetensors", header)
    with pytest.raises(UserError, match=message):
        read_lora(tmp_path / "x.safetensors")


@pytest.mark.parametrize("count", [2**40, 2**63, -1, 0, True, "9", None])
def test_a_table_of_any_number_of_rows(count: object, tmp_path: Path) -> None:
    tensors = {"a": torch.ones(1, 2), "a.rows": torch.tensor([0])}
    save_file(tensors, tmp_path / "x.safetensors", {"rows": json.dumps({"a": count})})
    with pytest.raises(UserError, match="the rows of 'a' are not those that its header states"):
        read(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "text",
    [
        "data: {root: '${oc.env:HF_TOKEN}'}",
        "data: {root: '/x/${oc.env:HF_TOKEN}/y'}",
        "data: {root: '${oc.decode:\"${model.start}{oc.env:HF_TOKEN}\"}'}\nmodel: {start: $}",
    ],
)
def test_settings_bring_no_keys_into_records(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", KEYS["HF_TOKEN"])
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError) as refused:
        load_config(TrainConfig, [tmp_path / "x.yaml"])
    assert KEYS["HF_TOKEN"] not in str(refused.value)


@pytest.mark.slow
def test_the_flow_needs_no_network_and_tells_no_keys(
    tmp_path: Path, asked: list[object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder,
) -> None:  # fmt: skip
    """Data, training, drawing, measuring and report, as in the demo, at tiny size; with hostile texts."""
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)
    words = ["x", "--note", *KEYS.values()]  # somebody typed them
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setattr("sys.orig_argv", words)
    monkeypatch.setenv("RUN_ROOT", str(tmp_path / "runs"))
    caplog.set_level(logging.DEBUG)
    run = make_run(tmp_path)
    raw = json.loads(run.annotations("val").read_text())
    for actions in raw.values():
        for entry in actions.values():
            entry["action"] = entry["llava_forecast_finetune"] = f"{EVIL} cuts"
    run.annotations("val").write_text(json.dumps(raw))
    validate([str(tmp_path / "data")])
    stats([str(tmp_path / "data"), "--out", str(tmp_path / "stats.html")])
    ckpt = fit(run, "keys") / "checkpoints/last.ckpt"
    (tmp_path / "generate.yaml").write_text("sampling: {steps: 2}\n")
    out = tmp_path / "drawn"
    made = [
        "--config",
        str(tmp_path / "generate.yaml"),
        "--ckpt",
        str(ckpt),
        "--out",
        str(out),
        "--shard",
        "auto/2",
    ]
    sample([*made, *run.words()])
    layout = run.layout
    where = ["--gt_path", str(layout.metric_targets), "--edit_file", str(run.annotations("val"))]
    evaluate(
        [
            "--dataset",
            "ego4d",
            "--gen_path",
            str(out),
            *where,
            "--metrics",
            "psnr,ssim",
            "--published",
            "none",
        ]
    )
    shown = ["--annotations", str(run.annotations("val")), "--frames", str(layout.frames("val"))]
    report([str(out), "--out", str(tmp_path / "report"), "--published", "none", *shown])
    page = (tmp_path / "report/index.html").read_text()
    assert "alert(7)" in page
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert asked == []
    told = caplog.text + "".join(capfd.readouterr()) + "".join(f"{each.message}" for each in recwarn)
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert not any(key.encode() in content for key in KEYS.values()), path
    assert not any(key in told for key in KEYS.values())
    assert list(out.rglob(".shards/plan.json"))

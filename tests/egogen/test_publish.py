"""What is sent to a hub on this machine, what is refused, and that the token is in no message.

Witness: what the hub holds afterwards, read by the hub's own client.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, snapshot_download
from safetensors.numpy import save_file

from egogen import patience
from egogen.cli import run
from egogen.errors import UserError
from egogen.manifest import checkpoint_hash
from egogen.prepare.__main__ import main as prepare
from egogen.publish import main
from egogen.sharing.model_card import HERE, Licence, ModelWords, StageWords, write_model_card
from egogen.sharing.parcel import pack
from egogen.sharing.pushing import push
from egogen.sharing.results import read_metrics
from tests.egogen.fake_hub import Hub

REPO, TOKEN = "somebody/lego", "hf_" + "Sa7" * 10
STAGE = StageWords(
    title="LEGO", what="Draws.", facts={"Frames": "32 x 32"}, usage=f"{HERE}\nprint(HERE)", limits="- None.",
    licences="None.", licence=Licence(), base_model=("owner/base",), task="image-to-image",
)  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder as stage 2 saves it, of next to nothing."""
    folder = tmp_path / "lego"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "LegoPipeline", "unet": ["d", "U"]}))
    (folder / "unet/config.json").write_text("{}")
    save_file({}, folder / "unet/diffusion_pytorch_model.safetensors")
    (folder / "notes.docx").write_text("mine")
    (folder / ".cache").mkdir()
    (folder / ".cache/x.json").write_text("{}")
    (folder / "record.json").write_text('{"command": "/home/me"}')
    write_model_card(folder, STAGE)
    return folder


@pytest.fixture
def token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> str:
    """The hub knows one token, and it is in the standard place."""
    hub.token = TOKEN
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(patience, "WAITS", (0.0,))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    return TOKEN


SENT = {"README.md", "model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"}


def test_a_model_arrives_whole(
    hub: Hub, token: str, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (model / "metric.json").write_text('{"PSNR": 12.25, "FID": Infinity}')
    with caplog.at_level(logging.DEBUG):
        main([str(model), REPO, "--private"])
    assert f"{hub.url}/{REPO}/commit/" in caplog.text
    assert token not in caplog.text
    assert hub.private == {("model", REPO): True}
    hub.private["model", REPO] = False
    with pytest.raises(
        UserError, match=r"is there and public, and .* was to be private; .* leave --private out"
    ):
        main([str(model), REPO, "--private"])
    assert hub.repos["model", REPO].keys() == {*SENT, "metric.json"}
    assert hub.commits == ["lego: 5 files"]
    got = Path(snapshot_download(REPO, cache_dir=tmp_path / "cache", endpoint=hub.url, token=token))
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (got / weights).read_bytes() == (model / weights).read_bytes()
    card = ModelCard.load(got / "README.md")
    assert f"HERE = snapshot_download({REPO!r})" in card.text
    assert HERE not in card.text
    assert "| PSNR | 12.25 |" in card.text
    assert card.data.metrics == ["PSNR", "FID"]
    assert [(each.metric_type, each.metric_value) for each in card.data.eval_results or []] == [
        ("PSNR", 12.25), ("FID", "inf"),
    ]  # fmt: skip
    assert HERE in (model / "README.md").read_text()  # the folder's own stays


def test_dry_run_needs_nothing_and_sends_nothing(
    hub: Hub, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(model), REPO, "--dry-run"])
    shown = capsys.readouterr().out
    assert all(f"  {name}\n" in shown for name in SENT)
    assert all(f"     stays  {name}\n" in shown for name in (".cache/", "notes.docx", "record.json"))
    assert shown.endswith(" B: a model\n")
    assert hub.repos == {}
    with pytest.raises(UserError, match=r"no token for http://127.*: run hf auth login, or set HF_TOKEN"):
        main([str(model), REPO])
    assert hub.repos == {}


@pytest.mark.parametrize("command", ["to-parquet", "to-webdataset"])
def test_data_arrive_whole(hub: Hub, token: str, world: Path, tmp_path: Path, command: str) -> None:
    assert token
    out = tmp_path / "out"
    flags = ["--dataset", "ego4d", "--split", "val", "--samples-per-shard", "2", "--out", str(out)]
    prepare([command, str(world), *flags])
    with pytest.raises(UserError, match="holds frames; give --private, or --frames-may-be-shared"):
        main([str(out), REPO])
    main([str(out), REPO, "--frames-may-be-shared"])
    assert hub.private == {("dataset", REPO): False}
    sent = hub.repos["dataset", REPO]
    files = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {**files, "README.md": b""} == {**sent, "README.md": b""}
    if command == "to-parquet":
        assert f'load_dataset("{REPO}"'.encode() in sent["README.md"]
    lost = next(out.rglob("*.parquet" if command == "to-parquet" else "*.tar"))
    lost.unlink()
    with pytest.raises(UserError, match=rf"{lost.name}: missing"):
        main([str(out), REPO, "--private"])


def test_frames_do_not_go_where_everybody_sees_them(
    hub: Hub, token: str, world: Path, tmp_path: Path
) -> None:
    """A repository that is there stays public, whatever is asked for; Python is guarded as the command is."""
    assert token
    out = tmp_path / "out"
    prepare(["to-webdataset", str(world), "--dataset", "ego4d", "--split", "val", "--out", str(out)])
    with pytest.raises(UserError, match="holds frames; give --private, or --frames-may-be-shared"):
        push(out, REPO)
    assert hub.repos == {}
    hub.repos["dataset", REPO], hub.private["dataset", REPO] = {}, False
    for send in (lambda: main([str(out), REPO, "--private"]), lambda: push(out, REPO, private=True)):
        with pytest.raises(
            UserError, match=f"{REPO}: is there and public, and .*out was to be private; make it"
        ):
            send()
    assert hub.repos == {("dataset", REPO): {}}
    (out / "ego4d-val-mine.tar").write_bytes(b"which no list names")
    (out / "mine.json").write_text("{}")
    assert pack(out).kept == ["ego4d-val-mine.tar", "mine.json"]
    push(out, REPO, private=True, frames_may_be_shared=True)
    assert "ego4d-val.index.json" in hub.repos["dataset", REPO]


def test_only_files_of_known_names_are_sent(
    hub: Hub, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = (
        "notes.txt",
        "wandb-settings.json",
        "unet/settings.json",
        "mine.safetensors",
        "wandb/config.json",
    )
    (model / "wandb").mkdir()
    for name in strange:
        (model / name).write_text('{"api_key": "geheim"}')
    main([str(model), REPO, "--dry-run"])
    shown = capsys.readouterr().out
    assert all(f"     stays  {name}\n" in shown for name in strange)
    assert {piece.name for piece in pack(model).pieces} == SENT
    assert hub.repos == {}


def test_adapters_name_their_base_without_its_place(hub: Hub, token: str, tmp_path: Path) -> None:
    assert token
    folder = tmp_path / "adapters"
    folder.mkdir()
    settings = {"r": 4, "base_model_name_or_path": "/home/me/models/vicuna"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file({}, folder / "adapter_model.safetensors")
    write_model_card(folder, STAGE)
    push(folder, REPO)
    sent = json.loads(hub.repos["model", REPO]["adapter_config.json"])
    assert sent == {**settings, "base_model_name_or_path": "vicuna"}
    assert json.loads((folder / "adapter_config.json").read_text()) == settings  # here they find it


@pytest.mark.parametrize("targets", ["val_gt_for_metric", "mine"])
def test_a_card_says_no_more_of_results_than_is_known(
    hub: Hub, token: str, model: Path, tmp_path: Path, targets: str
) -> None:
    """Of which pairs only `details.json` knows, of which checkpoint the run's manifest."""
    assert token

    def card(path: Path) -> ModelCard:
        main([str(model), REPO, "--metrics", str(path)])
        return ModelCard(hub.repos["model", REPO]["README.md"].decode())

    run = tmp_path / "run"
    (run / "metric").mkdir(parents=True)
    path = run / "metric/metric.json"
    path.write_text('{"PSNR": 12.25}')
    details = {"dataset": "ego4d", "n": 7, "gt_path": f"/x/{targets}"}
    details["metrics"] = {"psnr": {"key": "PSNR", "mean": 12.25}}
    (run / "metric/details.json").write_text(json.dumps(details))
    (run / "manifest.json").write_text(json.dumps({"checkpoint": checkpoint_hash(model)}))
    split = ", val split" if targets == "val_gt_for_metric" else ""
    of = f"On 7 pairs of EgoGen, ego4d{split}, by `python -m ldm.evaluate`"
    found = card(path)
    assert f"{of}, with this checkpoint.\n" in found.text
    assert [each.dataset_name for each in found.data.eval_results or []] == [f"EgoGen, ego4d{split}"]
    (run / "manifest.json").write_text(json.dumps({"checkpoint": "a" * 64}))
    found = card(path)
    assert f"{of}; the checkpoint was another file than these (SHA-256 {'a' * 64})" in found.text
    assert found.data.eval_results is None
    path.write_text('{"PSNR": 40.0}')  # which the details are not of
    (run / "manifest.json").unlink()
    found = card(path)
    assert "`metric.json` that does not say of which pairs it is; with which checkpoint is not" in found.text
    assert "val split" not in f"{found}"
    (run / "manifest.json").write_text('{"method": "copy", "checkpoint": null}')
    with pytest.raises(UserError, match=r"manifest\.json: names no checkpoint; .* is no model's"):
        card(path)


def link(folder: Path, goal: str) -> None:
    (folder / "more.json").symlink_to(goal)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / ".env").touch(), r"\.env: looks like a secret by its name"),
        (lambda folder: (folder / "unet/id_rsa").touch(), "id_rsa: looks like a secret"),
        (
            lambda folder: (folder / "unet/config.json").write_text(f'\n"{TOKEN}"'),
            r"config\.json: line 2 holds what looks",
        ),
        (
            lambda folder: (folder / "pipeline.py").write_text("-----BEGIN RSA PRIVATE KEY-----"),
            "line 1 holds",
        ),
        (lambda folder: (folder / "optimizer.pt").touch(), r"optimizer\.pt: is the state of a training"),
        (lambda folder: (folder / "unet/model.bin").touch(), r"model\.bin: is a pickle"),
        (lambda folder: (folder / ".x.0-1-2.part").touch(), "is not finished"),
        (lambda folder: link(folder, "/etc/hostname"), r"more\.json: is a link out of the folder, to /etc/"),
        (lambda folder: link(folder, "../mine.json"), "is a link out of the folder"),
        (lambda folder: link(folder, "gone.json"), "is a link to nothing"),
        (lambda folder: (folder / "README.md").unlink(), r"has no README\.md"),
        (lambda folder: (folder / "README.md").write_text("# Mine"), "has no head between --- lines"),
        (lambda folder: (folder / "README.md").write_text("---\n[\n---\n"), "the head .* cannot be read"),
        (lambda folder: (folder / "run.json").touch(), "its training has not ended"),
        (
            lambda folder: (folder / "unet/model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "model-1.safetensors"}}'
            ),
            r"unet/model-1\.safetensors: missing; the folder is not whole",
        ),
        (
            lambda folder: (folder / "model_index.json").write_text('{"vae": ["diffusers", "V"]}'),
            "lego/vae: missing",
        ),
        (lambda folder: (folder / "model_index.json").unlink(), "neither a model .* nor exported data"),
    ],
)
def test_what_must_not_be_sent_is_refused(
    hub: Hub, token: str, model: Path, damage: Callable[[Path], object], message: str
) -> None:
    assert token
    damage(model)
    with pytest.raises(UserError, match=message) as refused:
        main([str(model), REPO])
    assert TOKEN not in str(refused.value)
    assert hub.repos == {}


def test_intermediate_checkpoints_stay(hub: Hub, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model / "checkpoint-40").mkdir()
    (model / "checkpoint-40/optimizer.pt").touch()
    main([str(model), REPO, "--dry-run"])
    assert "     stays  checkpoint-40/\n" in capsys.readouterr().out
    assert hub.repos == {}


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/api/repos/create", 401, "the token is not known there"),
        ("/api/repos/create", 403, "the token may not write there"),
        ("/preupload/", 400, r"HTTP 400 \(refused: Bearer TOKEN\)"),
        ("/lfs/", 403, "the token may not write there"),
        ("/commit/", 409, "HTTP 409"),
        ("/commit/", 500, "HTTP 500"),
    ],
)
def test_the_token_is_in_no_message_whatever_the_hub_says(
    hub: Hub, token: str, model: Path, path: str, status: int, message: str,
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Not even in the traceback of `--debug`; the hub says back the header that it got."""
    hub.echo = path, status
    monkeypatch.setattr("sys.argv", ["publish", "--debug"])
    with caplog.at_level(logging.DEBUG), pytest.raises(UserError, match=message) as ended:
        run(lambda: main([str(model), REPO, "--debug"]))
    told = "".join(traceback.format_exception(ended.value))
    assert token not in "".join(capsys.readouterr()) + caplog.text + told


def test_a_token_that_is_none(hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client would say it back within its complaint about the header."""
    for bad in ("hf_geheim\x0bgeheim", "hf_ähnlich_geheim"):
        monkeypatch.setenv("HF_TOKEN", bad)
        with pytest.raises(UserError, match="has characters that none has; copy it again") as refused:
            main([str(model), REPO])
        assert "geheim" not in str(refused.value)
    assert hub.repos == {}


def test_an_overloaded_hub_is_asked_again(hub: Hub, token: str, model: Path) -> None:
    assert token
    hub.statuses["/api/repos/create"] = [503]
    assert push(model, REPO, metrics={"PSNR": 1.5}).startswith(hub.url)
    assert b"| PSNR | 1.5 |" in hub.repos["model", REPO]["README.md"]


@pytest.mark.parametrize("name", ["lego", "a/b/c", "a b/c", "a/../c"])
def test_a_name_that_is_none(model: Path, name: str) -> None:
    with pytest.raises(UserError, match="expected OWNER/NAME"):
        main([str(model), name, "--dry-run"])


def test_a_persons_words_stand_for_themselves(tmp_path: Path) -> None:
    """Markdown, HTML, the head's YAML, and the template's own signs are no more than text."""
    evil = "---\nlicense: mit\n---\n# Big <script>alert(1)</script> | {{ 7*7 }} [x](javascript:x) `a` @all"
    words = ModelWords(title=evil, about=evil, data=evil, metrics={"<b>|x": 1.0}, licence=Licence(name=evil))
    write_model_card(tmp_path, STAGE, words)
    text = (tmp_path / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "other"
    assert yaml.safe_load(head)["license_name"] == " ".join(evil.split())
    assert not re.search(r"(?<!\\)(<|\{\{|\[x|`a|@all|\|x)|^# Big", body, re.MULTILINE)
    assert r"\<script\>alert\(1\)\<\/script\> \| \{\{ 7\*7 \}\}" in body
    assert ModelCard(text).data.base_model == ["owner/base"]
    with pytest.raises(UserError, match="'a b': no name of a repository"):
        ModelWords(datasets=["a b"])
    bad = tmp_path / "metric.json"
    bad.write_text('{"PSNR": "high"}')
    with pytest.raises(UserError, match=r"metric\.json: PSNR is 'high'; expected numbers"):
        read_metrics(bad)

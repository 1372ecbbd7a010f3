"""Downloads from a real server that misbehaves: resumed, verified, unpacked, or refused in one line."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from egogen import patience
from egogen.download.__main__ import main
from egogen.download.catalogue import CATALOGUE
from egogen.download.remote import kept_part
from egogen.errors import UserError
from tests.egogen.fake_hub import COMMIT, Hub, serving

LEGO = "bolinlai/LEGO-Ego4D"
CKPT = "ego4d_diffusion_with_vllm_feature.ckpt"
CONTENT = random.Random(1).randbytes(100_000)


@pytest.fixture
def hub(hub: Hub) -> Hub:
    """Holds one repository."""
    hub.repos["model", LEGO] = {CKPT: CONTENT, "llava/config.json": b"{}", ".gitattributes": b"x"}
    hub.plain = {"llava/config.json"}
    return hub


def weights(dest: Path, *more: str) -> None:
    main(["weights", "--what", "lego-ego4d", "--dest", str(dest), *more])


def files(folder: Path) -> dict[str, bytes]:
    """Contents by name, without the ledger."""
    found = [path for path in folder.rglob("*") if path.is_file() and ".download" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


WHOLE = {f"LEGO-Ego4D/{CKPT}": CONTENT, "LEGO-Ego4D/llava/config.json": b"{}"}


def test_a_repository(hub: Hub, tmp_path: Path) -> None:
    weights(tmp_path / "w")
    assert files(tmp_path / "w") == WHOLE
    hub.seen.clear()
    weights(tmp_path / "w")
    assert hub.seen == []  # nothing is fetched twice


@pytest.mark.usefixtures("hub")
def test_some_files_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights(tmp_path / "w", "--only", "*.ckpt,nothing/*")
    assert files(tmp_path / "w") == {f"LEGO-Ego4D/{CKPT}": CONTENT}
    with pytest.raises(UserError, match=rf"--only x\.bin: no such file; it has {CKPT}, llava/config\.json"):
        weights(tmp_path / "w", "--only", "x.bin")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids"):
        weights(tmp_path / "w")  # a part is not the whole
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    weights(tmp_path / "w")
    assert files(tmp_path / "w") == WHOLE
    weights(tmp_path / "w", "--only", "*.ckpt")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    weights(tmp_path / "w")  # and the whole stays so


def test_dry_run_fetches_nothing(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights(tmp_path / "w", "--dry-run")
    shown = capsys.readouterr().out
    assert f"100.0 kB  {CKPT}" in shown
    assert "licence: CC BY 4.0" in shown
    assert shown.endswith("total 100.0 kB, room needed 100.0 kB\n")
    assert not hub.seen
    assert not (tmp_path / "w").exists()
    weights(tmp_path / "w")
    weights(tmp_path / "w", "--dry-run")
    assert "complete" in capsys.readouterr().out


def test_a_dropped_connection_is_resumed(hub: Hub, tmp_path: Path) -> None:
    hub.drop_at[CKPT] = [30_000, 20_000]
    weights(tmp_path / "w")
    assert files(tmp_path / "w") == WHOLE
    assert [seen.range for seen in hub.seen if seen.name == CKPT] == [None, "bytes=30000-", "bytes=50000-"]


def test_a_second_run_goes_on_where_the_first_was_cut(hub: Hub, tmp_path: Path) -> None:
    hub.drop_at[CKPT] = [30_000] + [0] * 30
    with pytest.raises(UserError, match=r"no answer from the server .*run the same command again to go on"):
        weights(tmp_path / "w")
    assert CKPT not in {Path(name).name for name in files(tmp_path / "w")}
    hub.drop_at.clear()
    hub.seen.clear()
    weights(tmp_path / "w")
    assert files(tmp_path / "w") == WHOLE
    assert hub.seen[0].range == "bytes=30000-"


def test_a_server_without_ranges(hub: Hub, tmp_path: Path) -> None:
    hub.drop_at[CKPT] = [30_000]
    hub.no_ranges = True
    weights(tmp_path / "w")
    assert files(tmp_path / "w") == WHOLE


@pytest.mark.parametrize("name", [CKPT, LEGO])
def test_an_overloaded_server_is_asked_again(
    hub: Hub, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.statuses[name] = [500, 503]
    weights(tmp_path / "w")
    assert files(tmp_path / "w") == WHOLE
    hub.statuses[name] = [502] * 3
    monkeypatch.setattr(patience, "WAITS", (0.0,))
    with pytest.raises(UserError, match="HTTP 502; try the same command again later"):
        weights(tmp_path / "other")


@pytest.mark.parametrize("name", [CKPT, "llava/config.json"])
def test_other_bytes_than_announced(hub: Hub, tmp_path: Path, name: str) -> None:
    content = hub.repos["model", LEGO][name]
    kind = "Git SHA-1" if name in hub.plain else "SHA-256"
    hub.announced[name] = {"sha256": hashlib.sha256(b"other").hexdigest()}
    hub.repos["model", LEGO][name] = bytes(len(content))
    info = hub.info
    hub.info = lambda *asked: _with_blob(info(*asked), name)  # type: ignore[method-assign]
    with pytest.raises(UserError, match=rf"{Path(name).name}: has the {kind} .*the file was deleted"):
        weights(tmp_path / "w")
    assert not [path for path in files(tmp_path / "w") if Path(name).name in path]


def _with_blob(answer: dict[str, object], name: str) -> dict[str, object]:
    siblings = answer["siblings"]
    assert isinstance(siblings, list)
    next(entry for entry in siblings if entry["rfilename"] == name)["blobId"] = "0" * 40
    return answer


def test_another_size_than_announced(hub: Hub, tmp_path: Path) -> None:
    hub.announced[CKPT] = {"size": 100_001}
    with pytest.raises(UserError, match="has 100,000 bytes, expected 100,001"):
        weights(tmp_path / "w")


def test_a_file_that_is_there(hub: Hub, tmp_path: Path) -> None:
    place = tmp_path / "w/LEGO-Ego4D" / CKPT
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    weights(tmp_path / "w")
    assert [seen.name for seen in hub.seen] == ["llava/config.json"]
    place.write_bytes(b"mine")
    (tmp_path / "w/.download/lego-ego4d.json").unlink()
    with pytest.raises(UserError, match=r"is not the published file: it has 4 bytes.*move it away"):
        weights(tmp_path / "w")
    assert place.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, "RepoNotFound", r"not there, or private \(HTTP 401\).*HF_TOKEN"),
        (404, "RepoNotFound", r"not there, or private \(HTTP 404\).*--repo-type"),
        (404, "", r"not there, or private \(HTTP 404\)"),
        (403, "GatedRepo", r"gated \(HTTP 403\); accept its terms"),
        (404, "RevisionNotFound", r"no such revision \(HTTP 404\); give another --revision"),
        (418, "", "HTTP 418"),
    ],
)
def test_repositories_that_cannot_be_read(
    hub: Hub, tmp_path: Path, status: int, code: str, message: str
) -> None:
    hub.refuse[LEGO] = (status, code)
    with pytest.raises(UserError, match=f"{LEGO} .*{message}"):
        weights(tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_an_answer_that_is_no_hub_s(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["", ""] = {f"portal/api/models/{LEGO}": b"<html>Please log in</html>"}
    monkeypatch.setattr(constants, "ENDPOINT", f"{hub.url}/portal")
    with pytest.raises(UserError, match="the answer is none of a hub"):
        weights(tmp_path / "w")


def test_a_token_is_sent_to_the_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "secret"
    with pytest.raises(UserError, match="HF_TOKEN"):
        weights(tmp_path / "w")
    monkeypatch.setenv("HF_TOKEN", "secret")
    weights(tmp_path / "w")
    assert {seen.token for seen in hub.seen} == {"Bearer secret"}


@pytest.mark.usefixtures("hub")
def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"no answer from the server .*HF_ENDPOINT \(http://127.0.0.1:9\)"):
        weights(tmp_path / "w")


def test_the_type_can_be_overridden(hub: Hub, tmp_path: Path) -> None:
    hub.repos["dataset", LEGO] = hub.repos.pop(("model", LEGO))
    with pytest.raises(UserError, match=r"\(model\): not there"):
        weights(tmp_path / "w")
    weights(tmp_path / "w", "--repo-type", "dataset")
    assert files(tmp_path / "w") == WHOLE


def test_names_that_lead_elsewhere(hub: Hub, tmp_path: Path) -> None:
    hub.repos["model", LEGO]["../../evil"] = b"x"
    with pytest.raises(UserError, match=r"'../../evil' contains '\.\.'"):
        weights(tmp_path / "w")


def test_too_little_room(hub: Hub, tmp_path: Path) -> None:
    hub.announced[CKPT] = {"size": 10**17}
    with pytest.raises(
        UserError, match=r"download needs 100\.0 PB and 67\.1 MB to spare, the disk has .* free"
    ):
        weights(tmp_path / "w")
    assert not hub.seen


def test_offline(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    weights(tmp_path / "w")
    hub.seen.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    caplog.set_level("INFO")
    weights(tmp_path / "w")
    assert "lego-ego4d: complete; not compared with the server" in caplog.text
    with pytest.raises(UserError, match=r"not in .*cache, and HF_HUB_OFFLINE forbids to fetch it"):
        weights(tmp_path / "other")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids"):
        main(["metrics", "--what", "vgg16", "--dest", str(tmp_path / "m")])
    assert not hub.seen


def test_the_hub_s_cache_is_used(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "cache" / f"models--{LEGO.replace('/', '--')}"
    for name, content in hub.repos["model", LEGO].items():
        blob = base / "blobs" / hashlib.sha256(content).hexdigest()
        link = base / "snapshots" / COMMIT / name
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link.symlink_to(blob)
    (base / "refs").mkdir()
    (base / "refs/main").write_text(COMMIT)
    weights(tmp_path / "w")
    assert files(tmp_path / "w") == WHOLE
    assert not hub.seen
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    weights(tmp_path / "other", "--revision", "main")
    assert files(tmp_path / "other") == WHOLE
    blob = base / "blobs" / hashlib.sha256(CONTENT).hexdigest()
    blob.write_bytes(bytes(len(CONTENT)))
    with pytest.raises(UserError, match=r"cache/models--.*: has the SHA-256 .*; delete that copy"):
        weights(tmp_path / "third")


def test_metric_weights(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["model", "bolinlai/LEGO-Metrics"] = {
        "metric_pretrained/egovlp.pth": b"1",
        "metric_pretrained/jx_vit_base_p16_224-80ecf9dd.pth": b"2",
        "metric_pretrained/distilbert-base-uncased/config.json": b"3",
        "model_large_caption.pth": b"4",
    }
    dest = ["--dest", str(tmp_path / "w"), "--mirror", f"{hub.url}/mirror/"]
    main(["metrics", "--what", "lego-metrics", *dest])
    assert files(tmp_path / "w") == {
        "egovlp.pth": b"1",
        "distilbert-base-uncased/config.json": b"3",
        "model_large_caption.pth": b"4",
    }
    source = CATALOGUE["metrics"].sources["vgg16"]
    assert source.sha256 == "397923af"
    hub.repos["", ""] = {"mirror/vgg16-397923af.pth": CONTENT}
    with pytest.raises(UserError, match=r"has the SHA-256 .*, expected 397923af; the file was deleted"):
        main(["metrics", "--what", "vgg16", *dest])
    digest = hashlib.sha256(CONTENT).hexdigest()
    monkeypatch.setitem(CATALOGUE["metrics"].sources, "vgg16", replace(source, sha256=digest[:8]))
    hub.drop_at["mirror/vgg16-397923af.pth"] = [40_000]
    hub.seen.clear()
    main(["metrics", "--what", "vgg16", *dest])
    assert files(tmp_path / "w")["vgg16-397923af.pth"] == CONTENT
    assert [seen.range for seen in hub.seen] == [None, "bytes=40000-"]
    assert {seen.token for seen in hub.seen} == {None}


def test_a_plain_file_that_is_not_there(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mirror/vgg16-397923af\.pth: not there, or private \(HTTP 404\)"):
        main(["metrics", "--what", "vgg16", "--dest", str(tmp_path), "--mirror", f"{hub.url}/mirror"])


def test_which_part_of_a_path_is_kept() -> None:
    patterns = ("egovlp.pth", "distilbert-base-uncased/*")
    assert kept_part("a/b/egovlp.pth", patterns) == "egovlp.pth"
    assert kept_part("a/distilbert-base-uncased/vocab.txt", patterns) == "distilbert-base-uncased/vocab.txt"
    assert kept_part("other.pth", patterns) is None
    assert kept_part("a/b.pth", ()) == "a/b.pth"


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--what 'lava': allowed are lego-ego4d, .*llava"):
        main(["weights", "--what", "llava,lava", "--dest", str(tmp_path)])


def test_the_catalogue_is_in_order() -> None:
    for group in CATALOGUE.values():
        for source in group.sources.values():
            assert bool(source.repo) != bool(source.url)
            assert bool(source.url) == bool(source.sha256)
            assert source.licence
            assert source.size > 10**6


def test_ctrl_c(tmp_path: Path) -> None:
    with serving() as hub:
        content = random.Random(2).randbytes(25_000_000)
        hub.repos["model", LEGO] = {CKPT: content}
        hub.stall_at[CKPT] = 22_000_000
        command = [sys.executable, "-m", "egogen.download", "weights", "--what", "lego-ego4d"]
        command += ["--dest", str(tmp_path / "w")]
        environment = {
            **os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0",
        }  # fmt: skip
        first = subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, text=True,
            # What is ignored under a background job stays so in children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        assert hub.stalled.wait(30)
        first.send_signal(signal.SIGINT)
        _, errors = first.communicate(timeout=30)
        assert first.returncode == 130
        assert errors.endswith("interrupted; run the same command again to go on\n")
        assert files(tmp_path / "w").keys() != {f"LEGO-Ego4D/{CKPT}"}
        subprocess.run(command, env=environment, check=True, capture_output=True)
        assert files(tmp_path / "w") == {f"LEGO-Ego4D/{CKPT}": content}
        # What was read is kept; the rest of the 22 MB may still be on the way.
        assert int((hub.seen[-1].range or "bytes=0-")[len("bytes=") : -1]) > 10_000_000

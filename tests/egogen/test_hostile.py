"""Hostile inputs that fuzzing does not hit upon: bombs, links, keys; each is refused with a message.

Links, bombs and names in archives: `test_archives`; code in pickles: `test_torchscript`, `test_features`.
"""

from __future__ import annotations

import html
import io
import json
import re
import resource
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from egogen.annotations import Annotations
from egogen.errors import UserError
from egogen.features.feature_shards import FeatureFolder
from egogen.features.weight_files import read_tensors
from egogen.files import read_yaml
from egogen.frames import TarFrames, add_bytes
from egogen.layout import Layout
from egogen.prepare.__main__ import main as prepare
from egogen.prepare.ego4d.ego4d_file import read_videos
from egogen.prepare.epic.epic_file import read_video_info
from egogen.prepare.pair_plan import MISSING, ActionPair, PairPlan
from egogen.prepare.run_report import broken_sources, code
from egogen.record import run_record
from egogen.shard_claims import FOLDER, PLAN, Claims
from egogen.stats.__main__ import main as stats
from egogen.told_command import HIDDEN, is_secret, told_command
from tests.egogen.test_fuzz import ENTRY, SHARD, VIDEO, header, make_shards, tensors

LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 40))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60))


@pytest.mark.parametrize("text", [LAUGHS, MERGED, "&a [*a]", "&a {b: [{c: *a}]}", "&a {<<: *a}"])
def test_aliases_that_stand_for_billions(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=r"x\.yaml: holds more than 100000 values, with those that al"):
        read_yaml(tmp_path / "x.yaml")


def test_aliases_that_people_write(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: &a {b: 1}\nc: {<<: *a, d: *a}\ne: [*a, *a]\n")
    assert read_yaml(tmp_path / "x.yaml") == {
        "a": {"b": 1},
        "c": {"b": 1, "d": {"b": 1}},
        "e": [{"b": 1}] * 2,
    }


@pytest.mark.parametrize("fps", ["1e999999999", "1/0", -30, 1e300, -0.5, [30], "30"])
def test_a_rate_that_is_none(fps: object, tmp_path: Path) -> None:
    video = {**VIDEO, "video_metadata": {"fps": fps}}
    (tmp_path / "x.json").write_text(json.dumps({"videos": [video]}))
    with pytest.raises(UserError, match=r"x\.json: video 0 is not as in .*fps is "):
        list(read_videos(tmp_path / "x.json", ("pre_15", "pnr_frame"), clips=False))


@pytest.mark.parametrize(
    ("fps", "size"), [("nan", "4x4"), ("inf", "4x4"), ("-1", "4x4"), ("30", "0x4"), ("30", "9e9x1")]
)
def test_a_video_that_cannot_be(fps: str, size: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"video_id,duration,fps,resolution\nP01_01,1,{fps},{size}\n")
    with pytest.raises(UserError, match="line 2: found fps"):
        read_video_info(tmp_path / "x.csv")


@pytest.mark.parametrize("count", ["1000000000000", "true", "-1", "2.0", '"2"', "NaN", "9" * 5000])
def test_a_plan_of_any_number_of_shards(count: str, tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / PLAN).write_text(f'{{"shards": {count}}}')
    with pytest.raises(UserError, match=r"plan\.json: (says of no number|holds the number|not ours)"):
        Claims(tmp_path, 2, together=True)


NOTE = {"pid": 1, "place": "p", "host": "h", "done": 0, "total": 1}


@pytest.mark.parametrize(
    "said",
    [
        b"\xff\xfe", b"[" * 9000, json.dumps(NOTE | {"pid": "x"}).encode(),
        json.dumps(NOTE | {"pid": 2**70}).encode(),
        json.dumps(NOTE | {"seconds": float("nan")}).encode(),
        json.dumps(NOTE | {"done": -1}).encode(),
    ],
)  # fmt: skip
def test_a_claim_that_says_nothing_is_waited_for(said: bytes, tmp_path: Path) -> None:
    claims = Claims(tmp_path, 1)
    claims.folder.mkdir()
    (claim := claims.path(claims.shards[0], ".claim")).write_bytes(said)
    assert not claims.is_free(claims.shards[0])
    assert claim.read_bytes() == said


def test_a_header_of_a_gigabyte(tmp_path: Path) -> None:
    """In a file that is as long: nothing of it is read into memory."""
    with (tmp_path / "x.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 10**9) + b"{")
        file.truncate(10**9 + 8)  # takes no room on disk
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"x\.safetensors: not a readable file of weights"):
        read_tensors(tmp_path / "x.safetensors")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


SAFETENSORS = {
    "a header longer than memory": struct.pack("<Q", 2**63) + b"{}",
    "a header longer than the file": struct.pack("<Q", 2**20) + b"{}",
    "tensors over each other": tensors({"a": ENTRY, "b": ENTRY}, bytes(24)),
    "a tensor behind the end": tensors({"a": {**ENTRY, "data_offsets": [2**40, 2**40 + 24]}}),
    "a tensor before its start": tensors({"a": {**ENTRY, "data_offsets": [24, 0]}}),
    "a shape that overflows": tensors({"a": {**ENTRY, "shape": [2**62, 2**62]}}),
    "bytes of nobody": tensors({"a": ENTRY}, bytes(64)),
    "a name twice": tensors(f'{{"a": {json.dumps(ENTRY)}, "a": {json.dumps(ENTRY)}}}'.encode(), bytes(48)),
    "a name that is no text": tensors(b'{"\xff": ' + json.dumps(ENTRY).encode() + b"}", bytes(24)),
    "depth": tensors(b'{"a": ' + b"[" * 9000 + b"}"),
}


@pytest.mark.parametrize("what", SAFETENSORS)
def test_headers_of_safetensors(what: str, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(SAFETENSORS[what])
    with pytest.raises(UserError, match=r"x\.safetensors: not a readable file of weights"):
        read_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "shape", ["(2**62,)", "(99999999999999999999,)", f"({'9' * 5000},)", "(-1,)", "()" * 4000]
)
def test_shapes_of_npy(shape: str, tmp_path: Path) -> None:
    from egogen.features.npy import load

    (tmp_path / "x.npy").write_bytes(header(f"{{'descr': '<f2', 'fortran_order': False, 'shape': {shape}}}"))
    with pytest.raises(UserError, match=r"x\.npy: not a readable \.npy file"):
        load(tmp_path / "x.npy")


@pytest.mark.parametrize(
    "change",
    [
        lambda told: {name: entry for name, entry in told.items() if not name.startswith("scale/a")},
        lambda told: {**told, "rows/a/0.npy": {**told["rows/a/0.npy"], "dtype": "U8"}},
        lambda told: {**told, "rows/a/0.npy": {**told["rows/a/0.npy"], "shape": [6]}},
        lambda told: {**told, "rows/a/0.npy": {**told["rows/a/0.npy"], "shape": [3, 2]}},
        lambda told: {**told, "rows/a/0.npy": {**told["rows/a/0.npy"], "shape": [3], "dtype": "BF16"}},
        lambda told: {**told, "__metadata__": {"egogen": '{"made_by": "x", "crc32": [], "difference": {}}'}},
        lambda told: {**told, "__metadata__": {"egogen": '{"crc32": {}, "difference": {"count": "x"}}'}},
    ],
)  # fmt: skip
def test_arrays_of_a_shard(change: Callable[[dict[str, object]], object], tmp_path: Path) -> None:
    whole = make_shards(tmp_path)
    length = int.from_bytes(whole[:8], "little")
    changed = tensors(change(json.loads(whole[8 : 8 + length])), whole[8 + length :])
    (tmp_path / SHARD).write_bytes(changed)
    with pytest.raises(UserError, match="damaged shard"):
        FeatureFolder(tmp_path / "shards", "llava_text").features("a/0.npy")


def member(kind: bytes, name: str = "x.jpg") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, "/etc/passwd"
    return found


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_in_tar_files_are_no_frames(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(member(kind))
        add_bytes(tar, "y.jpg", b"y")
    found = TarFrames(tmp_path)
    assert [*found.members] == ["y.jpg"]
    assert found.bytes("y.jpg") == b"y"
    with pytest.raises(UserError, match="no tar file here holds frame"):
        found.bytes("../../etc/passwd")


@pytest.mark.parametrize(
    "said", [{"size": "9" * 30}, {"size": "-5"}, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}]
)
def test_tar_headers_that_lie(said: dict[str, str], tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        told = tarfile.TarInfo("x.jpg")
        told.pax_headers = said
        told.size = 5
        tar.addfile(told, io.BytesIO(b"12345"))
    (tmp_path / "x.tar").write_bytes(file.getvalue())
    with pytest.raises(UserError, match=r"x\.tar: (not a readable tar file|cut off within)"):
        TarFrames(tmp_path)


EVIL = "<script>alert(7)</script><img src=x onerror=alert(7)>\"'{{7*7}}"


def test_texts_are_no_html_where_they_are_shown(root: Path, tmp_path: Path) -> None:
    layout = Layout(root, "ego4d")
    for split in ("train", "val"):
        raw = json.loads(layout.annotations(split).read_text())  # type: ignore[arg-type]
        for actions in raw.values():
            for entry in actions.values():
                entry["action"] = entry["llava_forecast_finetune"] = f"{EVIL} cuts the {EVIL}"
        layout.annotations(split).write_text(json.dumps(raw))  # type: ignore[arg-type]
    stats([str(root), "--out", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    assert "alert(7)" in page
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    prepare(
        ["to-webdataset", str(root), "--dataset", "ego4d", "--split", "val", "--out", str(tmp_path / "out")]
    )
    assert "<script>" not in (tmp_path / "out/README.md").read_text()
    assert Annotations.read(layout.annotations("val")).items[0].action.action.startswith(EVIL)


@pytest.mark.parametrize("name", [EVIL, f"`{EVIL}`", "a``b```c", "one\n\n<b>two</b>", "`", "plain"])
def test_names_in_markdown_are_shown_letter_for_letter(name: str) -> None:
    """Witness: a Markdown reader that lets HTML through."""
    shown = MarkdownIt("commonmark").render(f"- {code(name)}: missing, 1 actions")
    (inner,) = re.findall("<code>(.*)</code>: missing", shown)
    assert html.unescape(inner) == " ".join(name.split())
    assert not re.search("<(script|img|b)", shown)


def test_what_is_missing_is_reported_so() -> None:
    pair = ActionPair("c", "0", "train", "cut", reason=MISSING, files=(Path(f"`{EVIL}"), Path("b.jpg")))
    plan = PairPlan()
    plan.add(pair)
    shown = MarkdownIt("commonmark").render(broken_sources(plan))
    assert "alert(7)" in shown
    assert "<script>" not in shown
    assert "<img" not in shown


KEY = "kq7-Zx81-geheim"


@pytest.mark.parametrize(
    ("word", "told"),
    [
        (f"--url=http://user:{KEY}@host/v1", f"--url=http://{HIDDEN}@host/v1"),
        (f"x={KEY}", f"x={HIDDEN}"),
        ("hf_" + "a1" * 17, HIDDEN),
        ("key=sk-" + "b2" * 20, f"key={HIDDEN}"),
        ("data.root=/data/tokens/x", "data.root=/data/tokens/x"),
        ("trainer.max_steps=12345678", "trainer.max_steps=12345678"),
    ],
)
def test_keys_in_a_command_are_not_told(word: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("STEPS_KEYED", "12345678")  # no secret by its name
    assert told_command([word]) == [told]


def test_which_variables_are_secret() -> None:
    secret = [
        "HF_TOKEN",
        "OPENAI_API_KEY",
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "MLFLOW_TRACKING_PASSWORD",
    ]
    plain = ["TOKENIZERS_PARALLELISM", "HOME", "KEYBOARD", "RUN_ROOT", "MONKEY"]
    assert [*map(is_secret, [*secret, *plain])] == [True] * len(secret) + [False] * len(plain)


def test_plans_and_records_tell_no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", KEY)
    monkeypatch.setattr("sys.orig_argv", ["python", "-m", "x", f"--note={KEY}"])
    monkeypatch.setattr("sys.argv", ["x", KEY])
    with Claims(tmp_path, 1).own(Claims(tmp_path, 1).shards[0]) as work:
        work.begin(1, 0)
        work.advance()
        files = [path.read_text() for path in (tmp_path / FOLDER).rglob("*") if path.is_file()]
    assert any("--note" in text for text in files)
    assert KEY not in "".join(files) + json.dumps(run_record(["numpy"]))

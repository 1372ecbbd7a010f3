"""Nothing of a checkpoint runs when fine-tuning goes on from it; witness: a folder that a payload makes."""

import pickle
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from egogen.errors import UserError
from egogen.files import write_json
from llava.checkpoints.resume import COMPLETE, agreed, check_checkpoint, newest_checkpoint
from llava.train import main
from llava.tuning.finetuner import check_fit
from tests.forked import Forked, ranks
from tests.llava.training import Payload, flags, losses

HOSTILE = (
    "global_step4/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
    "global_step4/mp_rank_00_model_states.pt",
    "global_step4/deep/er/anything.pt",
    "adapter_model.bin",
    "optimizer.pt",
    "pytorch_model.bin",
    "rng_state.pth",
    "rng_state_1.pth",
    "scheduler.pt",
    "training_args.bin",
)
CUT = (
    "global_step4/mp_rank_00_model_states.pt",
    "model.safetensors",
    "optimizer.pt",
    "rng_state.pth",
    "tokenizer_config.json",
    "trainer_state.json",
    "training_args.bin",
)
RUN = ("--num_train_epochs", "2", "--save_steps", "2", "--save_total_limit", "5")


@pytest.fixture(scope="module")
def whole(data: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six updates, checkpoints at 2, 4 and 6, what DeepSpeed writes beside them."""
    out = tmp_path_factory.mktemp("resumed") / "run"
    main(flags(data, tiny, out, *RUN))
    for step in (2, 4, 6):
        states = out / f"checkpoint-{step}" / f"global_step{step}"
        states.mkdir()
        torch.save({"module": {}, "step": step}, states / "mp_rank_00_model_states.pt")
        (out / f"checkpoint-{step}" / "latest").write_text(states.name)
    return out


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """That run stopped after its fourth update, to be broken."""
    out = tmp_path / "run"
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns("checkpoint-6", "runs"))
    (out / COMPLETE).unlink()
    return out


def plain(run: Path) -> None:
    """Takes DeepSpeed's files away."""
    for path in run.glob("checkpoint-*"):
        shutil.rmtree(path / f"global_step{path.name.partition('-')[2]}")
        (path / "latest").unlink()


def test_a_whole_checkpoint_passes(run: Path) -> None:
    assert newest_checkpoint(run) == run / "checkpoint-4"


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before-1.6"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_payload_is_refused_unrun(
    name: str, legacy: bool, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    marker, file = tmp_path / "marker", run / "checkpoint-4" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"a": Payload(marker)}, file, _use_new_zipfile_serialization=not legacy)
    assert newest_checkpoint(run) == run / "checkpoint-2"
    assert not marker.exists()
    assert f"checkpoint-4/{name}: refused (it names posix.mkdir)" in caplog.text
    assert (run / "refused-checkpoint-4").is_dir()
    assert not (run / "checkpoint-4").exists()
    # The payload is one: what the libraries do would run it.
    torch.load(run / "refused-checkpoint-4" / name, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("share", [0.0, 0.6])
@pytest.mark.parametrize("name", CUT)
def test_a_cut_file_gives_way_to_the_checkpoint_before(
    name: str, share: float, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = run / "checkpoint-4" / name
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    assert newest_checkpoint(run) == run / "checkpoint-2"
    assert f"checkpoint-4/{name}: " in caplog.text


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (lambda path: (path / "latest").write_text("../checkpoint-2/global_step2"), "latest: refused, names"),
        (lambda path: (path / "latest").unlink(), "latest: refused, names nothing"),
        (lambda path: (path / "other").mkdir(), "global_step4, other"),
        (
            lambda path: (path / "linked").symlink_to(path.parent / "checkpoint-2"),
            "linked: refused, expected",
        ),
        (lambda path: (path / "optimizer.pt").write_bytes(pickle.dumps([], 0)), "optimizer.pt: refused"),
        (lambda path: (path / "trainer_state.json").unlink(), "trainer_state.json: no such file"),
        (
            lambda path: shutil.copy(path.parent / "checkpoint-2" / "trainer_state.json", path),
            "global_step is 2, expected 4",
        ),
        (lambda path: write_json(path / "trainer_state.json", {"what": 1}), "unexpected keyword argument"),
    ],
)
def test_what_else_a_checkpoint_may_not_be(
    breaking: Callable[[Path], object], message: str, run: Path
) -> None:
    breaking(run / "checkpoint-4")
    with pytest.raises(UserError, match=message):
        check_checkpoint(run / "checkpoint-4")


@pytest.mark.parametrize(
    ("missing", "unexpected", "told"),
    [
        (["a"], [], "missing a, unexpected nothing"),
        ([], ["b"], "missing nothing, unexpected b"),
        (["d", "a", "c", "b"], {"z", "y"}, "missing a, b, c, unexpected y, z;"),
    ],
)
def test_weights_that_did_not_fit_are_named(
    missing: Iterable[str], unexpected: Iterable[str], told: str
) -> None:
    with pytest.raises(UserError, match=f"does not fit the model: {told}"):
        check_fit(missing, unexpected)


def test_a_checkpoint_of_other_weights_is_not_gone_on_from(run: Path, data: Path, tiny: Path) -> None:
    """Transformers only warns, and trains on with weights that nobody has loaded."""
    plain(run)
    path = run / "checkpoint-4" / "model.safetensors"
    tensors = load_file(path)
    gone = next(name for name in sorted(tensors) if "q_proj" in name)
    tensors["other.weight"] = tensors.pop(gone)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UserError, match=rf"missing {re.escape(gone)}, unexpected other\.weight; delete it"):
        main(flags(data, tiny, run, *RUN))


def test_all_refused_is_one_line_and_nothing_moves(run: Path) -> None:
    for path in run.glob("checkpoint-*"):
        (path / "scheduler.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"checkpoint-4/scheduler.pt: refused .* Delete .*/run to begin anew"):
        newest_checkpoint(run)
    assert len(list(run.glob("checkpoint-*"))) == 2


def test_training_goes_on_exactly_from_the_one_before(
    run: Path, whole: Path, data: Path, tiny: Path, tmp_path: Path
) -> None:
    plain(run)
    torch.save(Payload(tmp_path / "marker"), run / "checkpoint-4" / "optimizer.pt")
    main(flags(data, tiny, run, *RUN))
    assert not (tmp_path / "marker").exists()
    assert losses(run) == pytest.approx(losses(whole), abs=1e-4)
    assert {path.name for path in run.glob("*checkpoint-*")} == {
        *("checkpoint-2", "checkpoint-4", "checkpoint-6", "refused-checkpoint-4")
    }
    check_checkpoint(run / "checkpoint-4")


def agree(folder: Path, rank: int) -> None:
    """What a process learns; another folder's view must not matter."""
    torch.distributed.init_process_group("gloo")
    try:
        said = str(agreed(lambda: newest_checkpoint(Path("nowhere") if rank else folder)))
    except UserError as error:
        said = f"error: {error}"
    Path(f"{folder}-{rank}").write_text(said)
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("bad", [False, True])
def test_all_processes_learn_what_the_first_finds(bad: bool, run: Path, tmp_path: Path) -> None:
    if bad:
        for path in run.glob("checkpoint-*"):
            (path / "scheduler.pt").write_bytes(b"")
    processes = [
        Forked(agree, run, rank, log=tmp_path / "log", environment=each) for rank, each in enumerate(ranks(2))
    ]
    assert [process.wait() for process in processes] == [0, 0], processes[0].printed
    first, second = (Path(f"{run}-{rank}").read_text() for rank in (0, 1))
    assert first == second
    assert first.startswith(f"error: {run}/checkpoint-4/scheduler.pt" if bad else f"{run}/checkpoint-4")


def test_the_newest_checkpoint_is_the_one_of_most_steps(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        folder = tmp_path / f"checkpoint-{step}"
        write_json(folder / "trainer_state.json", {"global_step": step})
        write_json(folder / "complete.json", {"step": step})
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-100"
    (tmp_path / "checkpoint-100/complete.json").unlink()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from egogen import cli
from egogen.errors import UserError
from llava.checkpoints.resume import newest_checkpoint
from llava.model import load
from llava.train import main
from llava.tuning import run as module
from llava.tuning.arguments import read_arguments
from tests.forked import CPU, Forked, command, ranks
from tests.llava.conftest import Loaded
from tests.llava.training import REPO, Payload, flags, losses, zero
from tests.second_process import second_process
from tests.small_disk import largest_file


@pytest.fixture(scope="module")
def trained(data: Path, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of six updates."""
    out = tmp_path_factory.mktemp("trained") / "run"
    main(flags(data, tiny, out, "--num_train_epochs", "2", "--save_steps", "2", "--save_total_limit", "2"))
    return out


def test_language_and_projector_learn_and_vision_stays(trained: Path, loaded: Loaded) -> None:
    before, after = loaded[0].state_dict(), load(trained)[0].state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "vision_tower" not in name}
    assert len(losses(trained)) == 6
    assert losses(trained)[-1] < losses(trained)[0]


def test_the_folder_is_whole(trained: Path) -> None:
    for name in (
        "model.safetensors",
        "config.json",
        "tokenizer.model",
        "preprocessor_config.json",
        "run.json",
    ):
        assert (trained / name).exists(), name
    assert list(trained.glob("**/events.out.tfevents.*"))
    assert {path.name for path in trained.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-6"}
    assert load(trained / "checkpoint-4")[0].patches == 16


def test_a_finished_run_is_left_as_it_is(
    trained: Path, data: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    main(
        flags(data, tiny, trained, "--num_train_epochs", "2", "--save_steps", "2", "--save_total_limit", "2")
    )


class StopAt(TrainerCallback):
    """Ends a run as Ctrl-C does."""

    def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
        del args, control, kwargs
        if state.global_step == 5:  # type: ignore[attr-defined]
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_exactly(
    trained: Path, data: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = flags(
        data, tiny, tmp_path, "--num_train_epochs", "2", "--save_steps", "2", "--save_total_limit", "3"
    )
    with monkeypatch.context() as patched:
        original = module.Finetune.__init__

        def with_stop(self: module.Finetune, **kwargs: Any) -> None:
            original(self, **{**kwargs, "callbacks": [module.MarkComplete(), StopAt()]})

        patched.setattr(module.Finetune, "__init__", with_stop)
        with pytest.raises(KeyboardInterrupt):
            main(argv)
    (tmp_path / "checkpoint-5").mkdir()  # half-written
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.name == "checkpoint-4"
    main(argv)
    assert losses(tmp_path) == pytest.approx(losses(trained), abs=1e-4)
    assert (tmp_path / "complete.json").read_text() == (trained / "complete.json").read_text()
    first, second = (load(folder)[0].state_dict() for folder in (trained, tmp_path))
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


def test_other_settings_are_not_mixed(trained: Path, data: Path, tiny: Path) -> None:
    with pytest.raises(UserError, match="learning_rate"):
        main(flags(data, tiny, trained, "--num_train_epochs", "2", "--learning_rate", "1e-4"))


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (lambda root: (root / "3.jpg").unlink(), "3.jpg: no such frame"),
        (
            lambda root: (root / "3.jpg").write_bytes((root / "3.jpg").read_bytes()[:600]),
            "3.jpg: not a readable image",
        ),
        (lambda root: (root / "records.json").write_text('{"a": 1}'), "found dict, expected a list"),
        (
            lambda root: (root / "records.json").write_text('[{"conversations": 5}]'),
            "record 0, field 'conversations'",
        ),
        (lambda root: (root / "records.json").write_text("[{"), "not valid JSON"),
        (lambda root: (root / "records.json").unlink(), "records.json: no such file"),
    ],
)
def test_bad_data_end_with_one_line_and_code_2(
    data: Path,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    breaking: Callable[[Path], object],
    message: str,
) -> None:
    broken = tmp_path / "data"
    broken.mkdir()
    for file in data.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    breaking(broken)
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: main(flags(broken, tiny, tmp_path / "run")))
    assert ended.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--deepspeed", "nothing.json"), "nothing.json: no such file"),
        (("--version", "v1"), "--version v1"),
        (("--mm_vision_select_layer", "-1"), "--mm_vision_select_layer -1"),
        (("--warmup_ratio", "3"), "--warmup_ratio"),
        (("--evaluation_strategy", "steps"), "--evaluation_strategy"),
        (("--model_max_length", "1"), "--model_max_length"),
        (("--save_total_limit", "1"), "--save_total_limit 1"),
        (("--model_name_or_path", "nowhere"), "nowhere"),
    ],
)
def test_bad_arguments_are_named(
    data: Path, tiny: Path, tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        main(flags(data, tiny, tmp_path, *more))


def test_an_unknown_flag_is_named(
    data: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(flags(data, tiny, tmp_path, "--learning_rat", "1"))
    assert "--learning_rat; did you mean --learning_rate?" in capsys.readouterr().err


def test_a_yaml_file_holds_flags_and_the_command_line_wins(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    names = {"model_name_or_path": "m", "data_path": "d", "image_folder": "i", "output_dir": str(tmp_path)}
    path.write_text(
        "\n".join(f"{key}: {value}" for key, value in {**names, "seed": 5, "learning_rate": 2e-5}.items())
    )
    made = read_arguments([str(path), "--seed", "7", "--use_cpu", "True"], None)
    model, training = made.model, made.training
    assert (model.model_name_or_path, training.seed, training.learning_rate) == (Path("m"), 7, 2e-5)
    path.write_text("a: [1]")
    with pytest.raises(UserError, match="plain values"):
        read_arguments([str(path)], None)
    with pytest.raises(UserError, match="no such file"):
        read_arguments([str(tmp_path / "none.yaml")], None)


def test_published_flags_are_accepted(tmp_path: Path) -> None:
    argv = [
        *(
            "--model_name_or_path",
            "m",
            "--version",
            "llava_llama_2",
            "--data_path",
            "d",
            "--image_folder",
            "i",
        ),
        *("--vision_tower", "openai/clip-vit-large-patch14", "--mm_vision_select_layer", "-2"),
        *("--mm_use_im_start_end", "False", "--mm_use_im_patch_token", "False", "--bf16", "False"),
        *("--output_dir", str(tmp_path), "--num_train_epochs", "3", "--per_device_train_batch_size", "16"),
        *("--per_device_eval_batch_size", "4", "--gradient_accumulation_steps", "1"),
        *("--evaluation_strategy", "no", "--save_strategy", "steps", "--save_steps", "150"),
        *(
            "--save_total_limit",
            "4",
            "--learning_rate",
            "2e-5",
            "--weight_decay",
            "0.",
            "--warmup_ratio",
            "0.03",
        ),
        *("--lr_scheduler_type", "cosine", "--logging_steps", "1", "--model_max_length", "2048"),
        *("--gradient_checkpointing", "True", "--dataloader_num_workers", "4", "--lazy_preprocess", "True"),
        *("--report_to", "none", "--use_cpu", "True"),
    ]
    training = read_arguments(argv, None).training
    assert training.get_warmup_steps(1000) == 30
    assert training.lr_scheduler_type == "cosine"


def start(argv: list[str], log: Path) -> list[Forked]:
    """Two processes that train together, as torchrun starts them."""
    words = ("llava.train", argv)
    return [Forked(command, *words, log=log, environment=rank) for rank in ranks(2)]


def finish(argv: list[str], log: Path) -> None:
    """Trains to the good end."""
    assert [process.wait() for process in start(argv, log)] == [0, 0], log.read_text()


def kill_after(argv: list[str], sign: Path, log: Path) -> None:
    """Kills both processes (-9) as soon as a file exists."""
    processes = start(argv, log)
    while not sign.exists():
        assert all(process.poll() is None for process in processes), log.read_text()
        time.sleep(0.01)
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
    assert [process.wait() for process in processes] == [-signal.SIGKILL, -signal.SIGKILL]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_two_processes_under_zero_go_on_exactly_after_a_kill_and_run_no_payload(
    stage: int, data: Path, tiny: Path, trained: Path, tmp_path: Path
) -> None:
    runs, log = [tmp_path / "whole", tmp_path / "killed"], tmp_path / "log"
    whole, killed = (
        [
            *flags(data, tiny, out, "--max_steps", "6", "--save_steps", "2", "--save_total_limit", "3"),
            *("--per_device_train_batch_size", "1", "--gradient_checkpointing", "True", *zero(out, stage)),
        ]
        for out in runs
    )
    finish(whole, log)
    kill_after(killed, runs[1] / "checkpoint-4" / "complete.json", log)
    assert not (runs[1] / "complete.json").exists()
    # DeepSpeed would unpickle it.
    states = next((runs[1] / "checkpoint-4").glob("global_step4/*rank_1_*_optim_states.pt"))
    torch.save(Payload(tmp_path / "marker"), states)
    finish(killed, log)
    assert not (tmp_path / "marker").exists()
    assert (runs[1] / "refused-checkpoint-4").is_dir()
    assert len(losses(runs[0])) == 6
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), abs=1e-5)
    # The first batch is the same two records as in one process, before any update.
    assert losses(runs[0])[0] == pytest.approx(losses(trained)[0], abs=0.2)
    first, second = (load(folder)[0].state_dict() for folder in runs)
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)
    assert len(json.loads((runs[1] / "record.json").read_text())) == 2


@pytest.mark.slow
def test_the_published_schedule_is_restored_by_its_deepspeed_file(
    data: Path, tiny: Path, tmp_path: Path
) -> None:
    published = json.loads((REPO / "configs/deepspeed/zero3_offload_published.json").read_text())
    facts = json.loads((REPO / "tests/oracle/llava/train_facts.json").read_text())
    expected = facts["lr_schedule_under_zero3_offload"]["100"]
    count = len(expected["lr_used_by_update_1_to_n"])
    out = tmp_path / "run"
    argv = flags(data, tiny, out, "--max_steps", str(count), "--warmup_steps", str(expected["warmup_steps"]))
    argv[argv.index("--learning_rate") + 1] = "2e-5"
    more = zero(out, 2, scheduler=published["scheduler"])
    cosine = ["--lr_scheduler_type", "cosine", "--save_strategy", "no"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
    environment = {**os.environ, **CPU, "PYTHONPATH": str(REPO)}
    words = [*torchrun, "-m", "tests.llava.rates", *argv, *more, *cosine]
    subprocess.run(words, env=environment, cwd=tmp_path, check=True)
    rates = json.loads((tmp_path / "rates.json").read_text())
    assert rates == pytest.approx(expected["lr_used_by_update_1_to_n"], rel=1e-6, abs=1e-12)


def test_the_published_deepspeed_file_differs_in_its_schedule_alone() -> None:
    ours, published = (
        json.loads((REPO / "configs/deepspeed" / name).read_text())
        for name in ("zero3_offload.json", "zero3_offload_published.json")
    )
    facts = json.loads((REPO / "tests/oracle/llava/train_facts.json").read_text())
    schedule = published.pop("scheduler")
    assert published == ours
    resolved = facts["resolved_deepspeed_config_8gpu_hidden5120_1000steps"]["scheduler"]
    assert schedule["type"] == resolved["type"]
    assert schedule["params"].keys() == resolved["params"].keys()


@pytest.mark.parametrize("name", ["zero2_cpu.json", "zero3_offload.json"])
def test_deepspeed_files_do_not_name_a_schedule(name: str) -> None:
    config = json.loads((REPO / "configs" / "deepspeed" / name).read_text())
    assert "scheduler" not in config  # F-S1-03: it would silently replace the flag's


def test_zero_3_has_the_published_values() -> None:
    facts = json.loads((REPO / "tests/oracle/llava/train_facts.json").read_text())
    published = facts["resolved_deepspeed_config_8gpu_hidden5120_1000steps"]["zero_optimization"]
    ours = json.loads((REPO / "configs/deepspeed/zero3_offload.json").read_text())["zero_optimization"]
    assert (
        ours.pop("stage3_gather_16bit_weights_on_model_save")
        is published["gather_16bit_weights_on_model_save"]
    )
    for key, value in ours.items():
        assert value in ("auto", published[key]), key


def test_one_folder_by_two_processes_is_refused(data: Path, tiny: Path, tmp_path: Path) -> None:
    with second_process(tmp_path / "run") as first:
        with pytest.raises(UserError, match=rf"fine-tuning is under way in process {first.pid} "):
            main(flags(data, tiny, tmp_path / "run"))
        assert not (tmp_path / "run").exists()


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    data: Path, tiny: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = r"model\.safetensors"
    words = flags(data, tiny, tmp_path / "run", "--num_train_epochs", "2", "--save_steps", "2")
    with (
        largest_file(100_000),
        pytest.raises(UserError, match=rf"/checkpoint-2/{name}: not written \(.*\); it needs .* free"),
    ):
        main(words)
    monkeypatch.setattr("egogen.disk.free_bytes", lambda _: 1000)
    with pytest.raises(UserError, match=r"/run: a checkpoint needs \d+\.\d .B, the disk has 1\.0 kB free"):
        main(words)
    monkeypatch.undo()
    main(words)
    assert losses(tmp_path / "run") == losses(trained)

"""A run goes on with another number of processes, as if it had always had it, or says what is in the way."""

from __future__ import annotations

import re
import shutil
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed
from transformers import TrainerControl, TrainerState, TrainingArguments

from egogen.errors import UserError
from egogen.files import write_json
from egogen.peers import together
from llava.checkpoints.resharding import PLACE, other_writers
from llava.checkpoints.resume import COMPLETE, TAG
from llava.train import main
from llava.tuning.finetuner import AfterResharding
from tests.forked import Forked, command, ranks
from tests.llava.training import flags, losses, zero

RUN = (
    "--max_steps",
    "6",
    "--save_steps",
    "2",
    "--save_total_limit",
    "5",
    "--per_device_train_batch_size",
    "1",
)
LORA = ("--lora_enable", "True", "--lora_r", "4", "--lora_dropout", "0")
TWICE = ("--gradient_accumulation_steps", "2")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The names of one that two processes wrote."""
    folder = tmp_path / "checkpoint-4"
    for rank in (0, 1):
        (folder / "global_step4").mkdir(parents=True, exist_ok=True)
        (folder / "global_step4" / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
    (folder / TAG).write_text("global_step4")
    write_json(folder / COMPLETE, {"step": 4, "processes": 2})
    return folder


def test_how_many_wrote_it(checkpoint: Path) -> None:
    assert other_writers(checkpoint, 1) == 2
    assert other_writers(checkpoint, 2) is None
    write_json(checkpoint / COMPLETE, {"step": 4})  # as 0.1.0 wrote it
    assert other_writers(checkpoint, 1) == 2
    (checkpoint / TAG).unlink()  # without DeepSpeed
    assert other_writers(checkpoint, 1) is None


def test_any_number_goes_on_where_nothing_is_shared_out(checkpoint: Path) -> None:
    for shard in (checkpoint / "global_step4").iterdir():  # as without ZeRO
        shard.unlink()
    assert other_writers(checkpoint, 1) is None


@pytest.mark.parametrize("processes", [0, -1, True, "2", 2.0, None, 10**9, 10**400])
def test_a_number_that_nobody_wrote(checkpoint: Path, processes: object) -> None:
    write_json(checkpoint / COMPLETE, {"step": 4, "processes": processes})
    with pytest.raises(UserError, match=r"complete\.json: processes: got .*, allowed: 1 to 100000$"):
        other_writers(checkpoint, 1)
    write_json(checkpoint / COMPLETE, [processes])
    with pytest.raises(UserError, match=r"complete\.json: .*facts by name"):
        other_writers(checkpoint, 1)


def test_a_shard_on_another_machine_is_asked_for_where_the_number_changes(checkpoint: Path) -> None:
    next((checkpoint / "global_step4").glob("*rank_1_mp*")).unlink()
    assert other_writers(checkpoint, 2) is None  # each machine reads its own
    with pytest.raises(
        UserError, match=r"of 2 processes the shards of 1 are not here.* share --output_dir"
    ) as told:
        other_writers(checkpoint, 1)
    assert "\n" not in str(told.value)


def test_no_two_groups_count_their_updates_on_one_tensor(tmp_path: Path) -> None:
    """DeepSpeed's ZeRO-3 hands out one tensor; fused AdamW then counts two updates for each."""
    values = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.AdamW([{"params": [value]} for value in values])
    shared = torch.tensor(4.0)
    for value in values:
        optimizer.state[value] = {"step": shared, "exp_avg": torch.zeros(1), "exp_avg_sq": torch.zeros(1)}
        value.grad = torch.ones(1)
    (tmp_path / PLACE).mkdir()
    arguments = TrainingArguments(f"{tmp_path}", use_cpu=True)
    AfterResharding().on_train_begin(arguments, TrainerState(), TrainerControl(), optimizer=optimizer)
    optimizer.step()
    assert [optimizer.state[value]["step"].item() for value in values] == [5, 5]
    assert not (tmp_path / PLACE).exists()


def test_a_record_of_processes_without_number_is_refused_at_once(
    data: Path, tiny: Path, tmp_path: Path
) -> None:
    write_json(tmp_path / "run.json", {"world_size": 10**15, "gradient_accumulation_steps": 10**15})
    with pytest.raises(UserError, match="this start would take 1 "):
        main(flags(data, tiny, tmp_path))


def test_an_update_of_another_size_is_refused_with_what_to_add(
    data: Path, tiny: Path, tmp_path: Path
) -> None:
    write_json(tmp_path / "run.json", {"world_size": 4, "gradient_accumulation_steps": 1})
    words = [*flags(data, tiny, tmp_path), "--gradient_accumulation_steps"]
    size = (
        r"an update of this run takes 4 batches \(processes x accumulation: 4 x 1\), this start would take 3"
    )
    with pytest.raises(UserError, match=rf"{size} .*; add --gradient_accumulation_steps 4$"):
        main([*words, "3"])
    write_json(tmp_path / "run.json", {"world_size": 4, "gradient_accumulation_steps": 3})
    with pytest.raises(UserError, match="made with model = None"):  # as large an update: all else is compared
        main([*words, "12"])
    write_json(tmp_path / "run.json", [1])
    with pytest.raises(UserError, match=r"run\.json: .*settings by name"):
        main([*words, "3"])


def lonely(ended: Path | None) -> None:
    """The first of two processes waits for the second, which ends, or is silent until `ended` is there."""
    with together("--ddp_timeout"):
        torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
        if ended is not None:
            torch.distributed.barrier()  # both are here: from now on a second is long
            torch.distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=1))
        if torch.distributed.get_rank() == 0:
            torch.distributed.barrier()
    while ended is not None and torch.distributed.get_rank() and not ended.exists():
        time.sleep(0.05)


@pytest.mark.parametrize("late", [False, True])
def test_a_process_that_is_left_alone_says_so(late: bool, tmp_path: Path) -> None:
    """Witness: gloo itself, between two processes."""
    logs = [tmp_path / "0", tmp_path / "1"]
    ended = tmp_path / "ended" if late else None
    two = [Forked(lonely, ended, log=log, environment=rank) for log, rank in zip(logs, ranks(2), strict=True)]
    assert two[0].wait() == 2, two[0].printed
    if ended is not None:
        ended.touch()
    assert two[1].wait() == 0, two[1].printed
    (line,) = [line for line in two[0].printed.splitlines() if "error: " in line]
    why = "Timed out waiting" if late else "Connection (closed|reset) by peer"
    assert re.match(rf"error: the processes of this run have lost each other \(.*{why}", line)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "more"),
    [
        pytest.param(3, (), id="zero3"),
        pytest.param(2, (), id="zero2", marks=pytest.mark.long),
        pytest.param(2, LORA, id="lora2", marks=pytest.mark.long),
        pytest.param(3, LORA, id="lora3", marks=pytest.mark.long),
    ],
)
def test_two_processes_go_on_as_one_and_one_as_two(
    stage: int, more: tuple[str, ...], data: Path, tiny: Path, tmp_path: Path
) -> None:
    """To 1e-5, the rounding of sums in another order."""
    whole, out, log = tmp_path / "whole", tmp_path / "run", tmp_path / "log"
    given = zero(out, stage)

    def train(folder: Path, count: int) -> None:
        words = [*flags(data, tiny, folder, *RUN, *given), *(TWICE if count == 1 else ()), *more]
        processes = [
            Forked(command, "llava.train", words, log=log, environment=rank) for rank in ranks(count)
        ]
        assert [process.wait() for process in processes] == [0] * count, log.read_text()

    def back_to(step: int) -> None:
        for path in out.glob("checkpoint-*"):
            if int(path.name.partition("-")[2]) > step:
                shutil.rmtree(path)
        (out / COMPLETE).unlink()

    train(whole, 1)
    shutil.copytree(whole, out)
    back_to(2)
    train(out, 2)
    assert losses(out) == pytest.approx(losses(whole), abs=1e-5)
    back_to(4)
    train(out, 1)
    assert losses(out) == pytest.approx(losses(whole), abs=1e-5)
    assert log.read_text().count("made into one for") == 2
    assert not (out / PLACE).exists()

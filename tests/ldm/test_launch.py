"""A run has as many processes as its settings ask for, whoever starts them; else one line says so."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy

from egogen.errors import UserError
from ldm.config.sections import TrainerConfig
from ldm.training.launch import Tasks, choose_environment, is_first
from ldm.training.run import choose_strategy
from tests.egogen.test_shards import LAUNCHER_VARIABLES

SLURM = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
SLURM |= {"SLURM_NODEID": "0", "SLURM_NODELIST": "127.0.0.1"}


def step(tasks: int, rank: int = 0, **more: str) -> dict[str, str]:
    """What srun tells a task of its step."""
    own = {"SLURM_PROCID": f"{rank}", "SLURM_LOCALID": f"{rank}"}
    return {**SLURM, "SLURM_NTASKS": f"{tasks}", "SLURM_STEP_NUM_TASKS": f"{tasks}", **own, **more}


def torchrun(count: int, rank: int = 0, **more: str) -> dict[str, str]:
    own = {
        "RANK": f"{rank}",
        "LOCAL_RANK": f"{rank}",
        "WORLD_SIZE": f"{count}",
        "LOCAL_WORLD_SIZE": f"{count}",
    }
    return {**own, "TORCHELASTIC_RUN_ID": "x", **more}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def told(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "per_node", "nodes", "kind"),
    [
        ({}, 1, 1, LightningEnvironment),
        ({}, 4, 1, LightningEnvironment),
        ({"WORLD_SIZE": "1"}, 2, 1, LightningEnvironment),
        ({**SLURM, "SLURM_NTASKS": "1"}, 2, 1, LightningEnvironment),  # a batch script
        (step(1), 2, 1, LightningEnvironment),
        (step(1), 1, 1, LightningEnvironment),
        ({**SLURM, "SLURM_NTASKS": "2"}, 2, 1, LightningEnvironment),  # without srun: it starts both itself
        ({**SLURM, "SLURM_NTASKS": "8", "SLURM_JOB_NAME": "interactive"}, 2, 1, LightningEnvironment),
        ({**SLURM, "SLURM_NTASKS": "8", "SLURM_JOB_NAME": "bash"}, 1, 1, LightningEnvironment),
        (step(8, SLURM_PTY_PORT="1", SLURM_JOB_NAME="mine"), 2, 1, LightningEnvironment),
        (step(2), 2, 1, Tasks),
        (step(2, 1, SLURM_JOB_NAME="interactive"), 2, 1, Tasks),  # srun inside salloc
        (step(2, SLURM_NTASKS="16", SLURM_NTASKS_PER_NODE="8"), 2, 1, Tasks),  # fewer than the job has
        (step(4, 1, SLURM_STEP_NUM_NODES="2"), 2, 2, Tasks),
        (torchrun(2, 1), 2, 1, TorchElasticEnvironment),
        (torchrun(1), 1, 1, TorchElasticEnvironment),
        ({**step(1), **torchrun(2)}, 2, 1, TorchElasticEnvironment),  # torchrun below srun
        (
            {"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"},
            2,
            1,
            LightningEnvironment,
        ),  # its own child
        ({"NODE_RANK": "1", "MASTER_ADDR": "a"}, 2, 2, LightningEnvironment),
        ({"RANK": "3", "LOCAL_RANK": "1", "NODE_RANK": "1", "WORLD_SIZE": "4"}, 2, 2, LightningEnvironment),
    ],
)
def test_who_starts_the_processes(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], per_node: int, nodes: int, kind: type
) -> None:
    told(monkeypatch, variables)
    found = choose_environment(per_node, nodes)
    assert type(found) is kind
    if kind is Tasks:
        assert found.world_size() == per_node * nodes
        found.validate_settings(per_node, nodes)


@pytest.mark.parametrize(
    ("variables", "per_node", "nodes", "message"),
    [
        ({**SLURM, "SLURM_NTASKS": "2"}, 1, 1, "Slurm: 2 processes, but the settings ask for 1"),
        (step(2), 1, 1, "Slurm: 2 processes, but the settings ask for 1"),
        (step(2), 4, 1, "Slurm: 2 processes, but the settings ask for 4"),
        (step(4), 2, 1, "Slurm: 4 processes"),
        (step(4, 3), 4, 2, r"Slurm: 4 processes, but the settings ask for 4 on each of 2 machines"),
        (step(4, 3, SLURM_STEP_NUM_NODES="1"), 2, 2, "4 tasks on 1 machines, but the settings ask"),
        (step(4, 2, SLURM_STEP_NUM_NODES="2"), 2, 2, "use --nodes=2 --ntasks-per-node=2"),
        (step(1), 1, 2, r"trainer\.nodes=2: nobody has started the processes of the other machines"),
        ({}, 8, 2, r"trainer\.nodes=2: nobody"),
        ({**SLURM, "SLURM_NTASKS": "2", "SLURM_PROCID": "1"}, 2, 1, "SLURM_PROCID=1, but no step"),
        (torchrun(2), 1, 1, "torchrun: 2 processes, but the settings ask for 1"),
        (torchrun(1), 2, 1, "torchrun: 1 processes, but the settings ask for 2"),
        (torchrun(4, LOCAL_WORLD_SIZE="4"), 2, 2, "torchrun on this machine: 4 processes"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, 2, 1, "RANK=1 in the environment does not follow"),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, 1, 2, "RANK=1 in the environment does not"),
        ({"RANK": "1"}, 1, 1, "RANK=1 and WORLD_SIZE=None in the environment do not belong together"),
        ({"WORLD_SIZE": "2"}, 2, 1, "RANK=None and WORLD_SIZE=2"),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "4"}, 2, 1, "WORLD_SIZE: 4 processes"),
        ({"RANK": "a", "WORLD_SIZE": "2"}, 2, 1, "RANK='a' in the environment: expected a whole number"),
        (
            {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"},
            2, 1, "mpirun has started 2 processes",
        ),
    ],
)  # fmt: skip
def test_another_number_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], per_node: int, nodes: int, message: str
) -> None:
    told(monkeypatch, variables)
    with pytest.raises(UserError, match=message) as caught:
        choose_environment(per_node, nodes)
    assert "\n" not in str(caught.value)


def test_one_task_says_that_it_starts_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told(monkeypatch, step(1))
    with caplog.at_level(logging.INFO):
        choose_environment(3, 1)
    assert "Slurm has started one process; it starts the other 2 of this machine itself" in caplog.text


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"])
def test_the_first_of_all_processes(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert is_first()
    monkeypatch.setenv(name, "0")
    assert is_first()
    monkeypatch.setenv(name, "1")
    assert not is_first()


def test_how_long_processes_wait_for_each_other() -> None:
    chosen = choose_strategy(TrainerConfig(timeout_minutes=0.5), 2)
    assert isinstance(chosen, DDPStrategy)
    assert chosen._timeout == timedelta(seconds=30)
    assert choose_strategy(TrainerConfig(), 1) == "auto"

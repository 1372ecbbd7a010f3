"""scripts/toy_benchmark.sh with a stand-in for Python: every system of every seed, once; wrong arguments."""

import re
from pathlib import Path

import pytest

from tests.workbench import Workbench

TRAINED = ("lego", "joint", "image", "text", "description", "ip2p", "untuned")
OTHERS = ("sdedit", "proxnpi", "proxmasactrl", "copy")
STEPS = ("70", "140")


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path, "uv python3.11")


def pretend(bench: Workbench, budget: str, seeds: str) -> None:
    """Leaves the files that the steps look for and no stand-in makes."""
    work = bench.root / "runs/toy_benchmark" / budget
    for seed in seeds.split():
        for system in TRAINED:
            for step in STEPS:
                (work / f"seed{seed}/steps/{system}/{step}").mkdir(parents=True)
                (work / f"points/{system}/{step}").mkdir(parents=True, exist_ok=True)
                file = work / f"seed{seed}/logs/train_toy_{system}/checkpoints/step={step:0>9}.ckpt"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()


def test_every_system_trains_and_draws_once(bench: Workbench) -> None:
    pretend(bench, "small", "0")
    output = bench.run("toy_benchmark.sh", "--jobs", "3")
    calls = bench.calls()
    trained = [call for call in calls if call.startswith("python main.py")]
    assert sorted(re.search(r"--name (\w+)", call)[1] for call in trained) == sorted(TRAINED)
    assert all("--seed 0" in call and "configs/benchmark/small.yaml" in call for call in trained)
    assert [call for call in trained if "configs/benchmark/joint.yaml" in call] == [
        call for call in trained if "--name joint" in call
    ]
    drawn = [call for call in calls if "ldm.sample" in call]
    assert len(drawn) == len(TRAINED) * len(STEPS) + len(OTHERS)
    assert all("--shard 1/1" in call for call in drawn)
    assert "report: runs/toy_benchmark/small/report/index.html" in output
    again = bench.run("toy_benchmark.sh", "--jobs", "3")
    assert not [call for call in bench.calls() if "python -m" in call and "pip" not in call]
    assert again.count("done before") == output.count("\n== ") // 2


def test_seeds_share_the_val_split(bench: Workbench) -> None:
    pretend(bench, "full", "0 4")
    bench.run("toy_benchmark.sh", "--budget", "full", "--seeds", "0 4", "--device", "cuda")
    calls = bench.calls()
    of_copy = [call for call in calls if "ldm.sample --method copy" in call]
    assert [re.search(r"--shard (\S+)", call)[1] for call in of_copy] == ["1/2", "2/2"]
    assert [re.search(r"sampling.seed=(\d+)", call)[1] for call in of_copy] == ["0", "4"]
    assert all("--gpus 0" in call for call in calls if call.startswith("python main.py"))
    described = [call for call in calls if "llava.describe" in call]  # one VLLM for all seeds, as published
    models = [re.search(r"--model-path (\S+)", call)[1] for call in described]
    assert sorted(models) == ["assets/toy/llava"] * 2 + ["assets/toy/vllm"] * 4
    pools = [call for call in calls if "ldm.report.pool" in call]
    assert len(pools) == len(TRAINED) * len(STEPS) + len(OTHERS)


def test_a_failed_system_is_tried_again(bench: Workbench) -> None:
    pretend(bench, "small", "0")
    output = bench.run("toy_benchmark.sh", "--jobs", "2", code=2, FAIL_ON="--name text")
    assert "step 'seed0-train-text' failed with code 7" in output
    bench.calls()
    bench.run("toy_benchmark.sh", "--jobs", "2")
    assert "text" in [re.search(r"--name (\w+)", call)[1] for call in bench.calls() if "main.py" in call]


def test_ctrl_c_ends_all_lanes(bench: Workbench) -> None:
    pretend(bench, "small", "0")
    code, output = bench.interrupt("toy_benchmark.sh", "--name joint", SLOW_ON="--train --name")
    assert code == 130
    assert output.endswith("toy benchmark: stopped; the same command goes on where it stopped\n")
    done = bench.root / "runs/toy_benchmark/small/.done"
    assert (done / "describe-train").exists()
    assert not list(done.glob("seed0-train-*"))
    bench.calls()
    bench.run("toy_benchmark.sh")
    assert sum("main.py" in call for call in bench.calls()) == len(TRAINED)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "huge"], "--budget huge: allowed are small and full"),
        (["--device", "tpu"], "--device tpu: allowed are cpu and cuda"),
        (["--seeds", "0,1"], "--seeds '0,1': expected whole numbers"),
        (["--seeds", "0 1 0"], "--seeds '0 1 0': each seed once"),
        (["--jobs", "0"], "--jobs 0: expected a whole number above 0"),
        (["--budget"], "--budget needs a value"),
        (["now"], "argument 'now'; usage"),
    ],
)
def test_wrong_arguments(bench: Workbench, arguments: list[str], message: str) -> None:
    assert message in bench.run("toy_benchmark.sh", *arguments, code=2)
    assert bench.calls() == []


def test_a_gpu_that_is_not_there_is_missed_before_any_work(bench: Workbench) -> None:
    bench.run("toy_benchmark.sh", "--device", "cuda", code=7, FAIL_ON="ldm.networks.devices cuda")
    assert not [call for call in bench.calls() if "egogen.toy" in call]


def test_other_settings_are_refused(bench: Workbench) -> None:
    pretend(bench, "small", "0")
    bench.run("toy_benchmark.sh", "--jobs", "1")
    assert "was begun with budget small, device cpu, seeds 0" in bench.run(
        "toy_benchmark.sh", "--seeds", "0 1", code=2
    )

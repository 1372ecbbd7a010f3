"""scripts/demo.sh with a stand-in for Python: steps run once, in order, and an interrupted demo goes on."""

import re
import shutil
import time
from pathlib import Path

import pytest

from tests.workbench import ROOT, Workbench

FINETUNE = (
    "#!/usr/bin/env bash\nsource scripts/env.sh\nuse_env vllm\npython -m llava.train --from-finetune-toy\n"
)


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    made = Workbench(tmp_path, "uv python3.11")
    (made.root / "scripts/finetune_toy.sh").write_text(FINETUNE)
    return made


def modules(bench: Workbench) -> list[str]:
    """The commands of the flow, in the order in which they were called."""
    found = [re.match(r"python (?:-m )?((?:egogen|llava|ldm)\.\w+|main\.py)", call) for call in bench.calls()]
    return [match[1] for match in found if match]


FLOW = [
    *("egogen.toy", "llava.train"),
    *("llava.describe", "llava.merge", "llava.describe", "llava.merge"),
    *("main.py", "ldm.sample", "ldm.sample", "ldm.sample"),
    *("ldm.evaluate", "ldm.report"),
]


def test_both_stages_start_from_what_ships(bench: Workbench) -> None:
    (bench.root / "scripts/finetune_toy.sh").unlink()
    shutil.copy(ROOT / "scripts/finetune_toy.sh", bench.root / "scripts")
    bench.run("demo.sh")
    calls = bench.calls()
    (tune,) = [call for call in calls if "llava.train" in call]
    assert "--model_name_or_path assets/toy/vllm " in tune
    assert tune.endswith("--num_train_epochs 1 --learning_rate 2e-4")
    (train,) = [call for call in calls if "main.py" in call]
    assert "--base configs/train_toy.yaml configs/toy_demo.yaml --train" in train
    (untrained,) = [call for call in calls if "samples/untrained" in call and "ldm.sample" in call]
    assert "--method ip2p --ckpt assets/toy/ip2p.safetensors" in untrained


def test_from_scratch_builds_the_start(bench: Workbench) -> None:
    output = bench.run("demo.sh", "--from-scratch", "--size", "32")
    assert modules(bench) == [FLOW[0], "ldm.toy", "llava.toy", *FLOW[1:]]
    assert "from scratch, size 32" in output
    assert "assets/toy" not in " ".join(bench.calls())


def test_the_flow_runs_once(bench: Workbench) -> None:
    output = bench.run("demo.sh")
    assert modules(bench) == FLOW
    assert "report: runs/toy/report/index.html" in output
    assert output.rstrip().splitlines()[-1].endswith("bash scripts/run.sh ldm python app.py")
    assert re.search(r"^all steps +\d+$", output, re.MULTILINE)
    again = bench.run("demo.sh")
    assert modules(bench) == []
    assert again.count("done before") == output.count("\n== ") // 2
    assert "report: runs/toy/report/index.html" in again


def test_settings_reach_the_toy_world(bench: Workbench) -> None:
    bench.run(
        "demo.sh",
        "--from-scratch",
        "--size",
        "32",
        "--seed",
        "7",
        TOY_TRAIN="9",
        TOY_VAL="4",
        RUN_ROOT="else where",
    )
    call = next(call for call in bench.calls() if "egogen.toy" in call)
    data = bench.root.parent / "else where/toy/data"
    assert call == f"python -m egogen.toy --out {data} --train 9 --val 4 --size 32 --seed 7"


def test_other_settings_are_refused(bench: Workbench) -> None:
    bench.run("demo.sh")
    bench.calls()
    output = bench.run("demo.sh", "--seed", "1", code=2)
    assert "was begun with size 64, seed 0" in output
    assert "this run has size 64, seed 1" in output
    assert "RUN_ROOT" in output
    assert modules(bench) == []
    bench.run("demo.sh", "--seed", "1", RUN_ROOT="other")
    assert modules(bench) == FLOW


@pytest.mark.parametrize(("failing", "done"), [("main.py", 6), ("llava.merge", 3), ("egogen.toy", 0)])
def test_a_failed_step_is_tried_again(bench: Workbench, failing: str, done: int) -> None:
    output = bench.run("demo.sh", code=2, FAIL_ON=failing)
    assert "failed with code 7" in output
    assert modules(bench) == FLOW[: done + 1]
    bench.run("demo.sh")
    # The describe step is two commands; both belong to the step that is tried again.
    assert modules(bench) == FLOW[done - (failing == "llava.merge") :]


@pytest.mark.parametrize(
    ("at", "done"), [("python main.py", 6), ("llava.train --from", 1), ("ldm.evaluate", 10)]
)
def test_ctrl_c_ends_at_once_and_the_next_run_goes_on(bench: Workbench, at: str, done: int) -> None:
    begin = time.monotonic()
    code, output = bench.interrupt("demo.sh", at, SLOW_ON=at.removeprefix("python "))
    assert code == 130
    assert output.endswith("demo: stopped; the same command goes on where it stopped\n")
    assert time.monotonic() - begin < 20  # the stand-in, a child of the step, would sleep for 60 s
    bench.calls()
    bench.run("demo.sh")
    assert modules(bench) == FLOW[done:]


def test_a_failed_set_up_stops_the_demo(bench: Workbench) -> None:
    assert "error: the set-up failed" in bench.run("demo.sh", code=2, FAIL_ON="uv pip install")
    assert modules(bench) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size"], "--size needs a number"),
        (["--size", "big"], "TOY_SIZE=big: expected a whole number"),
        (["--size", "48"], "TOY_SIZE=48: the networks of assets/toy draw 64 pixels; give --from-scratch"),
        (["--steps", "3"], "argument '--steps'; usage:"),
    ],
)
def test_wrong_arguments(bench: Workbench, arguments: list[str], message: str) -> None:
    assert f"error: {message}" in bench.run("demo.sh", *arguments, code=2)

"""scripts/make_toy_assets.sh with a stand-in for Python: every step once, in order; wrong arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workbench import Workbench

ORDER = [
    "egogen.toy", "ldm.toy ", "ldm.toy.editor", "main.py", "ldm.distill", "llava.toy.ship", "ldm.toy.ship",
    "ldm.sample", "ldm.evaluate", "--seal", "--verify",
]  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    made = Workbench(tmp_path, "uv python3.11")
    (made.root / "scripts/finetune_toy.sh").write_text(
        "#!/usr/bin/env bash\nsource scripts/env.sh\nuse_env vllm\npython -m llava.train $RUN_ROOT $*\n"
    )
    return made


def test_every_step_runs_once_in_order(bench: Workbench) -> None:
    output = bench.run("make_toy_assets.sh", "--out", "there")
    calls = [call for call in bench.calls() if "python" in call]
    places = [next(index for index, call in enumerate(calls) if word in call) for word in ORDER]
    assert places == sorted(places)
    assert sum("llava.describe" in call for call in calls) == 2
    assert ["phases" in call for call in calls if "ldm.distill" in call] == [False, True, True]
    assert any("llava.train runs/toy_assets" in call for call in calls)
    assert any("--seal runs/toy_assets/toy/data" in call and "--folder there" in call for call in calls)
    again = bench.run("make_toy_assets.sh", "--out", "there")
    assert again.count("done before") == output.count("\n== ") // 2


def test_wrong_arguments_are_named(bench: Workbench) -> None:
    assert "--seed x: expected a whole number" in bench.run("make_toy_assets.sh", "--seed", "x", code=2)
    assert "argument 'y'; usage: bash" in bench.run("make_toy_assets.sh", "y", code=2)
    assert "--out needs a value" in bench.run("make_toy_assets.sh", "--out", code=2)

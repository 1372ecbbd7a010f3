"""scripts/setup.sh with stand-ins for its tools: which tool it takes, and when it has nothing to do."""

from pathlib import Path

import pytest

from tests.workbench import Workbench


def installs(calls: list[str]) -> list[str]:
    return [call for call in calls if " -e ." in call or "_env.yaml" in call]


@pytest.mark.parametrize(
    ("tools", "wanted", "first"),
    [
        ("conda mamba micromamba uv python3.11", "", "conda env create -n vllm -f {root}/vllm_env.yaml"),
        ("mamba micromamba uv python3.11", "", "mamba env create -n vllm"),
        ("micromamba uv python3.11", "", "micromamba create -n vllm -f {root}/vllm_env.yaml"),
        ("conda micromamba uv python3.11", "micromamba", "micromamba create -n vllm"),
        ("conda uv python3.11", "uv", "uv pip install"),
        (
            "uv python3.11",
            "",
            "uv pip install --compile-bytecode --python {root}/.venvs/vllm/bin/python "
            "-c requirements/vllm.lock -e",
        ),
        ("python3.11", "", "uv pip install"),  # its own, from PyPI
        ("conda uv python3.11", "pip", "python -m pip install"),
        ("python3.10", "pip", "python -m pip install"),
    ],
)
def test_the_tool(tmp_path: Path, tools: str, wanted: str, first: str) -> None:
    bench = Workbench(tmp_path, tools)
    output = bench.run("setup.sh", "vllm", LEGO_ENV_TOOL=wanted)
    made = installs(bench.calls())
    assert len(made) == 1
    assert made[0].startswith(first.format(root=bench.root))
    if "pip" in made[0]:
        assert made[0].endswith("-c requirements/vllm.lock -e .[vllm,dev]")
    assert "vllm: ready in" in output
    assert (bench.root / ".venvs/vllm/bin/python").exists()


def test_pip_where_uv_cannot_be_fetched(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, "python3.11")
    bench.run("setup.sh", "ldm", FAIL_ON="requirements/uv.txt")
    assert installs(bench.calls())[0].startswith("python -m pip install")


@pytest.mark.parametrize("tools", ["conda", "micromamba", "uv python3.11", "python3.12"])
def test_a_second_run_has_nothing_to_do(tmp_path: Path, tools: str) -> None:
    bench = Workbench(tmp_path, tools)
    bench.run("setup.sh", "all")
    assert [("vllm" in call, "ldm" in call) for call in installs(bench.calls())] == [
        (True, False),
        (False, True),
    ]
    output = bench.run("setup.sh", "all")
    assert output.count("up to date") == 2
    assert not installs(bench.calls())


def test_a_tool_that_appears_later_changes_nothing_unless_it_is_asked_for(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, "uv python3.11")
    bench.run("setup.sh", "ldm")
    (bench.bin / "conda").symlink_to(bench.bin / "uv")
    assert "up to date (uv, Python 3.11.0)" in bench.run("setup.sh", "ldm")
    bench.calls()
    output = bench.run("setup.sh", "ldm", LEGO_ENV_TOOL="pip")
    assert "removing .venvs/ldm (made by: uv)" in output
    assert installs(bench.calls())[0].startswith("python -m pip")


def test_another_checkouts_environments_are_left_alone(tmp_path: Path) -> None:
    bench, other = Workbench(tmp_path, "uv python3.11"), tmp_path / "other"
    bench.run("setup.sh", "ldm")
    (bench.root / ".venvs").rename(other)
    (bench.root / ".venvs").symlink_to(other)
    assert "ldm: up to date" in bench.run("setup.sh", "ldm")
    bench.calls()
    for words in (["vllm"], ["ldm", "--recreate"]):
        told = bench.run("setup.sh", *words, code=2)
        assert f"is a link to {other}, another checkout's environments" in told
    assert not installs(bench.calls())
    assert (other / "ldm").is_dir()


@pytest.mark.parametrize("file", ["requirements/ldm.lock", "pyproject.toml", "ldm_env.yaml"])
def test_a_changed_pin_is_installed(tmp_path: Path, file: str) -> None:
    bench = Workbench(tmp_path, "uv python3.11")
    bench.run("setup.sh", "all")
    with (bench.root / file).open("a") as text:
        text.write("# new\n")
    bench.calls()
    bench.run("setup.sh", "ldm")
    assert len(installs(bench.calls())) == 1


@pytest.mark.parametrize("failing", ["uv pip install", "import importlib"])
def test_a_failed_set_up_is_made_anew(tmp_path: Path, failing: str) -> None:
    bench = Workbench(tmp_path, "uv python3.11")
    bench.run("setup.sh", "ldm", FAIL_ON=failing, code=2 if "import" in failing else 7)
    bench.calls()
    output = bench.run("setup.sh", "ldm")
    assert "removing .venvs/ldm (made by: an unfinished set-up)" in output
    assert [call.split()[:2] for call in bench.calls() if call.startswith("uv")] == [
        ["uv", "venv"],
        ["uv", "pip"],
    ]
    assert "up to date" in bench.run("setup.sh", "ldm")


def test_recreate(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, "conda")
    bench.run("setup.sh", "ldm")
    bench.run("setup.sh", "ldm", "--recreate")
    asked = [call for call in bench.calls() if " run " not in call and call.startswith("conda")]
    assert [call.split()[2] for call in asked] == ["create", "remove", "create"]
    assert (bench.root / ".venvs/ldm").resolve() == bench.conda / "ldm"


def test_an_environment_made_by_hand_is_completed(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, "conda")
    (bench.conda / "vllm/bin").mkdir(parents=True)
    bench.run("setup.sh", "vllm")
    assert [call.split()[2] for call in installs(bench.calls())] == ["update"]


def test_no_python(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, "uv python3")
    output = bench.run("setup.sh", "vllm", code=2, NO_PYTHON="1")
    assert output.startswith(
        "error: no usable Python 3.10, 3.11 or 3.12 (tried python3.11 python3.12 python3.10 python3)"
    )


@pytest.mark.parametrize(
    ("arguments", "tool", "message"),
    [
        ([], "", "no environment named; usage:"),
        (["llava"], "", "argument 'llava'; usage:"),
        (["all"], "poetry", "LEGO_ENV_TOOL=poetry: allowed are"),
        (["all"], "micromamba", "LEGO_ENV_TOOL=micromamba: not found"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: list[str], tool: str, message: str) -> None:
    bench = Workbench(tmp_path, "python3.11")
    assert f"error: {message}" in bench.run("setup.sh", *arguments, code=2, LEGO_ENV_TOOL=tool)


def test_use_env_finds_the_environment(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, "conda python")
    (bench.root / "scripts/which.sh").write_text(
        'source "$(dirname "$0")/env.sh"\nuse_env "$1"\n'
        'echo "$PATH|$DATA_ROOT|$RUN_ROOT|$PWD|$WEIGHTS_ROOT"\n'
    )
    missing = bench.run("which.sh", "vllm", code=2)
    assert missing == "error: no environment 'vllm' here; run: bash scripts/setup.sh vllm\n"
    assert "allowed are vllm and ldm" in bench.run("which.sh", "llava", code=2)
    (bench.conda / "vllm/bin").mkdir(parents=True)  # made by `conda env create -f vllm_env.yaml`
    path, data, runs, here, weights = bench.run("which.sh", "vllm").strip().split("|")
    assert path.startswith(f"{bench.conda}/vllm/bin:")
    assert (data, runs, weights, here) == ("data", "runs", "weights", str(bench.root))
    outside = bench.run("which.sh", "vllm", DATA_ROOT="mine", RUN_ROOT=f"{bench.root}/runs/x")
    assert outside.split("|")[1:3] == [f"{bench.root.parent}/mine", "runs/x"]

"""All scripts: they parse, say what they are for, hold no machine's paths; Slurm arrays."""

import re
import subprocess
from pathlib import Path

import pytest

from egogen.shards import MOST_SHARDS
from tests.workbench import ROOT, Workbench

SOURCED = ("env.sh", "steps.sh")
SCRIPTS = sorted([*ROOT.glob("scripts/*.sh"), ROOT / ".ci/run"])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_in_order(script: Path) -> None:
    text = script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert len(text.splitlines()) < 250
    assert not re.search(r"/(home|work|root|Users|fsx\S*)/", text)
    if script.name not in SOURCED:
        assert text.startswith("#!/usr/bin/env bash\n# ")
        begins = r'(source|exec bash) "\$\(dirname "\$\{BASH_SOURCE\[0\]\}"\)/\w+\.sh"'
        assert script.parent.name == ".ci" or re.search(begins, text)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return Workbench(tmp_path_factory.mktemp("bare"), "python python3.11 uv conda sbatch")


RUN = [script.name for script in SCRIPTS if script.name not in SOURCED and script.parent.name != ".ci"]


@pytest.mark.parametrize("name", RUN)
def test_help_is_the_comment_at_the_head(bare: Workbench, name: str) -> None:
    shown = bare.run(name, "--help")
    assert bare.calls() == []
    text = (ROOT / "scripts" / name).read_text()
    if handed := re.search(r'^exec bash .*/(\w+\.sh)" \w+', text, re.M):
        text = (ROOT / "scripts" / handed[1]).read_text()  # whose arguments are this one's too
    head = re.match(r"#!/usr/bin/env bash\n((?:#.*\n)+)", text)
    assert head
    assert shown == re.sub(r"^# ?", "", head[1], flags=re.M)
    assert f"bash scripts/{handed[1] if handed else name}" in shown


def test_help_may_stand_behind_other_words(bare: Workbench) -> None:
    for words in (["setup.sh", "vllm", "-h"], ["demo.sh", "--size", "64", "--help"], ["run.sh", "ldm", "-h"]):
        assert f"bash scripts/{words[0]}" in bare.run(*words)
    assert bare.calls() == []


@pytest.mark.parametrize("name", RUN)
def test_a_wrong_word_ends_with_code_2(bare: Workbench, name: str) -> None:
    shown = bare.run(name, "nonsense", code=2)
    assert shown.startswith("error: ")
    assert len(shown.splitlines()) == 1


def test_a_command_is_run_in_an_environment(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, "conda python")
    assert "allowed are vllm and ldm" in bench.run("run.sh", "llava", "python", code=2)
    assert "bash scripts/setup.sh ldm" in bench.run("run.sh", "ldm", "python", code=2)
    (bench.conda / "ldm" / "bin").mkdir(parents=True)
    bench.calls()
    bench.run("run.sh", "ldm", "python", "-m", "ldm.sample", "--help", "a b")
    assert bench.calls()[-1] == "python -m ldm.sample --help a b"
    assert "no command 'lego'" in bench.run("run.sh", "ldm", "lego", code=2)


def test_fine_tuning_on_several_machines(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, "conda python")
    (bench.conda / "vllm" / "bin").mkdir(parents=True)
    told = {"NODES": "2", "NPROC": "4", "CONVERSATIONS": "c", "FRAMES": "f", "VLLM": "v"}
    assert "NODES=2: set NODE_RANK" in bench.run("finetune.sh", "ego4d", code=2, **told)
    for nodes in ("two", "0", "-1", "1 + 1", "08"):
        told_of = bench.run("finetune.sh", "ego4d", code=2, **{**told, "NODES": nodes})
        assert f"NODES={nodes}: expected the number of machines" in told_of
    counted = {**told, "NODES": "1", "NPROC": "gpu"}
    assert "NPROC=gpu: a plan needs" in bench.run("finetune.sh", "ego4d", "--dry_run", code=2, **counted)
    told |= {"NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1"}
    bench.run("finetune.sh", "ego4d", **told)
    where = "--nnodes 2 --node_rank 1 --master_addr 10.0.0.1 --master_port 29500 --nproc_per_node 4"
    assert f"torch.distributed.run {where} -m llava.train" in bench.calls()[-1]


def test_a_home_folder_that_the_caller_s_shell_has_left_alone(tmp_path: Path) -> None:
    (tmp_path / "my home").mkdir()
    bench = Workbench(tmp_path / "my home", "conda python")
    (bench.conda / "ldm" / "bin").mkdir(parents=True)
    given = {"DATA_ROOT": "~/my data", "RUN_ROOT": "~", "WEIGHTS_ROOT": "~$(touch made)/x"}
    bench.run("run.sh", "ldm", "python", "-V", **given)
    assert bench.full_calls()[-1].roots == {
        "DATA_ROOT": f"{tmp_path / 'my home' / 'my data'}",
        "RUN_ROOT": f"{tmp_path / 'my home'}",
        "WEIGHTS_ROOT": f"{bench.root.parent}/{given['WEIGHTS_ROOT']}",  # no user has such a name
    }
    assert not [*tmp_path.rglob("made")]
    shown = bench.run("run.sh", "ldm", "python", "-V", code=2, DATA_ROOT="~no-such-user/x")
    assert shown == "error: ~no-such-user/x: there is no such home folder; write the whole path\n"


def test_ci_runs_the_tests() -> None:
    script = ROOT / ".ci/run"
    assert "exec bash scripts/test.sh" in script.read_text()
    assert script.stat().st_mode & 0o111


def test_test_sh_names_its_modes(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, "python3.11")
    assert "argument '--quick'; usage:" in bench.run("test.sh", "--quick", code=2)


def test_long_tests_run_alone(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, "uv python3.11")
    bench.run("test.sh", "--long")
    ran = [call for call in bench.calls() if " -m pytest" in call]
    assert len(ran) == 2  # an environment each
    assert all(" -m long " in call for call in ran)
    assert {"tests/egogen", "tests/llava", "tests/hosts"} <= {*" ".join(ran).split()}
    bench.run("test.sh", "--long", code=7, FAIL_ON="-m long")


@pytest.mark.parametrize(
    ("script", "group"),
    [("dataset", "dataset"), ("weights", "weights"), ("features", "features"), ("metric_weights", "metrics")],
)
@pytest.mark.parametrize("environment", ["vllm", "ldm"])
def test_downloads_run_in_either_environment(
    tmp_path: Path, script: str, group: str, environment: str
) -> None:
    bench = Workbench(tmp_path, "conda python")
    message = bench.run(f"download_{script}.sh", code=2)
    assert "no environment" in message
    assert "bash scripts/setup.sh" in message
    (bench.conda / environment / "bin").mkdir(parents=True)
    bench.calls()
    bench.run(f"download_{script}.sh", "--what", "a b", "--dry-run")
    assert bench.calls()[-1] == f"python -m egogen.download {group} --what a b --dry-run"


def test_a_wrong_download(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, "")
    assert "'everything': expected dataset, weights" in bench.run("download.sh", "everything", code=2)


def test_a_slurm_array(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, "sbatch")
    command = ["--env", "ldm", "--gres=gpu:1", "4", "python", "-m", "ldm.sample", "--config", "a b.yaml"]
    shown = bench.run("slurm_array.sh", "--dry-run", *command)
    assert bench.calls() == []
    lines = shown.splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert {"#SBATCH --array=1-4", "#SBATCH --gres=gpu:1", "#SBATCH --requeue", "use_env ldm"} <= set(lines)
    assert lines[-1] == 'python -m ldm.sample --config a\\ b.yaml --shard "$SLURM_ARRAY_TASK_ID"/4'
    subprocess.run(["bash", "-n"], input=shown, text=True, check=True)
    bench.run("slurm_array.sh", *command)
    assert bench.calls() == ["sbatch --job-name=lego"]
    assert bench.calls_file.with_suffix(".sbatch").read_text() == shown
    bench.run("slurm_array.sh", "--wait", *command)
    assert bench.calls() == ["sbatch --job-name=lego --wait --parsable"]
    assert bench.run("slurm_array.sh", "--wait", *command, JOB="7;far").endswith("Submitted batch job 7\n")
    assert bench.run("slurm_array.sh", "--wait", *command, code=7, FAIL_ON="sbatch") == ""


def test_an_array_that_nobody_waits_for_is_cancelled(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, "sbatch scancel")
    words = ("--wait", "4", "python", "-m", "ldm.sample")
    code, shown = bench.interrupt("slurm_array.sh", "sbatch", *words, JOB="7;far", SLOW_ON="--wait")
    assert code == 130
    assert "job 7 is cancelled" in shown.splitlines()[-1]
    assert bench.calls()[-1] == "scancel --clusters=far 7"
    code, shown = bench.interrupt(
        "slurm_array.sh", "sbatch", *words, JOB="8", SLOW_ON="--wait", FAIL_ON="scancel"
    )
    assert code == 130
    assert shown.splitlines()[-1].endswith("squeue says, and scancel ends it")
    assert bench.calls()[-1] == "scancel 8"


def test_a_slurm_task_runs_its_shard(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, "")
    script = bench.run("slurm_array.sh", "--dry-run", "3", "echo", "it's $HOME", "*")
    ran = subprocess.run(
        ["bash"], input=script, env={"PATH": str(bench.bin), "SLURM_ARRAY_TASK_ID": "2"}, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    assert ran.stdout == "it's $HOME * --shard 2/3\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0", "true"], "N is '0'"),
        ([], "N is ''"),
        (["4"], "no command"),
        (["--env", "llava", "4", "true"], "allowed are vllm and ldm"),
        (["4", "python", "--shard", "1/2"], "has --shard already"),
        (["4", "python", "--shard=1/2"], "has --shard already"),
        ([f"{MOST_SHARDS + 1}", "true"], f"expected at most {MOST_SHARDS}"),
        (["99999999999999999999", "true"], "expected at most 100000"),
        (["--array=5-9", "4", "true"], "--array=5-9: expected tasks from 1 to N, which is 4"),
        (["--array=", "4", "true"], "expected tasks from 1 to N"),
        (["--comment=a\nrm -rf x", "4", "true"], "a line break in an option"),
        (["4", "true"], "no sbatch here"),
        (["--array=1,3-4%2", "4", "true"], "no sbatch here"),
    ],
)
def test_wrong_slurm_arguments(tmp_path: Path, arguments: list[str], message: str) -> None:
    bench = Workbench(tmp_path, "")
    output = bench.run("slurm_array.sh", *arguments, code=2)
    assert output.startswith("error: ")
    assert message in output


def test_the_audit_asks_about_both_locks(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, "uv python3.11")
    bench.run("audit.sh")
    asked = [re.findall(r"pip-audit@|requirements/\w+\.lock|--no-deps", call) for call in bench.calls()]
    assert asked == [["pip-audit@", f"requirements/{name}.lock", "--no-deps"] for name in ("ldm", "vllm")]
    assert "error: see above: a version has" in bench.run("audit.sh", code=2, FAIL_ON="ldm.lock")
    assert len(bench.calls()) == 2

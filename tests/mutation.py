"""Changes the heart of the code in small ways, one by one (mutmut), and says how many the tests notice.

    python -m tests.mutation vllm|ldm [NAME ...]    what `bash scripts/test.sh --mutants` runs

NAME leaves out all modules but those, such as ldm.guidance. Works on a copy in build/mutants, where results
stay: the next run tries again only what has changed. Ends with code 1 where fewer than `AIM` are noticed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
AIM = 0.9
NOTICED = {"killed", "timeout", "segfault", "caught by type check"}


@dataclass(frozen=True)
class Heart:
    """What is changed, as patterns of files, and the tests that should notice; quick ones, in one process."""

    code: Sequence[str]
    tests: Sequence[str]


PACKAGES = ["egogen", "llava", "ldm"]
LINKS = ("egogen/configs", "egogen/toy_assets")  # which mutmut leaves out
EGOGEN = ("journal", "shards", "layout")
LDM = (
    "guidance", "schedule", "step", "module", "distilling", "streams", "oracle", "denoiser", "ema",
    "nonfinite", "distilled_drawing", "distill", "resume_settings", "limits",
)  # fmt: skip
METRIC_CODE = (
    "accumulators", "blip", "changed_box", "clip", "egovlp", "egovlp_plus", "evaluation", "feature_cache",
    "fid", "lpips", "metric", "psnr", "ssim", "toy_features", "toy_success",
)  # fmt: skip
METRICS = (
    "metrics_numbers", "metrics_pairs", "oracle_pixels", "oracle_features", "oracle_captions", "witnesses",
    "changed_box", "sanity",
)  # fmt: skip
LLAVA = (
    "decode", "labels", "prompts", "roomy_cache", "conversations", "limits", "given_texts", "describe_input",
)  # fmt: skip
HEARTS = {
    "ldm": Heart(
        [
            *(f"egogen/{name}.py" for name in EGOGEN),
            *(f"ldm/{name}.py" for name in ("conditioner", "guidance", "module", "distill")),
            *(f"ldm/{room}/*.py" for room in ("diffusion", "distilling")),
            *(f"ldm/metrics/{name}.py" for name in METRIC_CODE),
        ],
        [
            *(f"tests/egogen/test_{name}.py" for name in EGOGEN),
            *(f"tests/ldm/test_{name}.py" for name in LDM),
            *(f"tests/ldm/evaluation/test_{name}.py" for name in METRICS),
            "tests/ldm/baselines/test_ddim.py",
        ],
    ),
    "vllm": Heart(
        ["llava/describing/decode.py", "llava/question/labels.py", "llava/question/prompts.py"],
        [f"tests/llava/test_{name}.py" for name in LLAVA],
    ),
}


def main(words: Sequence[str]) -> int:
    """Runs all of one environment's mutants; the exit code."""
    environment, *names = words
    heart, work = HEARTS[environment], ROOT / "build/mutants" / environment
    copy(work, heart)
    patterns = [f"{name}.*" for name in names] or [pattern_of(path) for path in heart.code]
    ended = subprocess.run([sys.executable, "-m", "mutmut", "run", *patterns], cwd=work, check=False)
    if ended.returncode:
        return ended.returncode
    listed = subprocess.run(
        [sys.executable, "-m", "mutmut", "results", "--all", "true"],
        cwd=work, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return report(listed, names, work)


def copy(work: Path, heart: Heart) -> None:
    """Brings the copy of the repository up to date, with mutmut's settings in it."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    for package in PACKAGES:  # what the repository has no more goes
        shutil.rmtree(work / package, ignore_errors=True)
    for name in filter(None, tracked.stdout.split("\0")):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).unlink(missing_ok=True)
        shutil.copy2(ROOT / name, work / name, follow_symlinks=(ROOT / name).is_file())
    beside = {path.split("/")[0] for path in tracked.stdout.split("\0") if path}
    settings = {
        "source_paths": PACKAGES,
        "only_mutate": heart.code,
        "also_copy": [*sorted(beside - {*PACKAGES, "tests", ".gitignore"}), *LINKS],
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "-m", "not slow and not long and not faults"],
        "pytest_add_cli_args_test_selection": heart.tests,
    }
    with (work / "pyproject.toml").open(
        "a", encoding="utf-8"
    ) as file:  # lists of texts are in TOML as in JSON
        file.write("\n[tool.mutmut]\n" + "".join(f"{key} = {json.dumps(v)}\n" for key, v in settings.items()))


def pattern_of(path: str) -> str:
    """The names that mutmut gives the mutants of a file."""
    return f"{path.removesuffix('.py').replace('/', '.')}.*"


def report(listed: str, names: Sequence[str], work: Path) -> int:
    """Prints a line a module and the mutants that nobody noticed; 1 where they are too many."""
    found: dict[str, Counter[str]] = {}
    missed = []
    for name, state in re.findall(r"^ +(\S+): (.+)$", listed, re.MULTILINE):
        module = name.rpartition(".")[0]
        if (names and module not in names) or state == "not checked":
            continue
        found.setdefault(module, Counter())["noticed" if state in NOTICED else state] += 1
        if state not in NOTICED:
            missed.append(f"{name}: {state}")
    everything = sum(found.values(), Counter())
    if not everything:
        sys.stderr.write("error: no mutants; is the name that of a module of the heart?\n")
        return 2
    for module, counts in sorted(found.items()):
        sys.stdout.write(f"{module:40} {counts['noticed']:4} of {counts.total():4} noticed\n")
    share = everything["noticed"] / everything.total()
    sys.stdout.write("".join(f"  {line}\n" for line in missed))
    sys.stdout.write(
        f"{everything['noticed']} of {everything.total()} noticed: {share:.1%}, wanted {AIM:.0%}; the change "
        f"of one: cd {work} && mutmut show NAME\n"
    )
    return int(share < AIM)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""Changes the heart of the code in small ways, one by one (mutmut), and says how many the tests notice.

    python -m tests.mutation vllm|ldm [PART ...]    what `bash scripts/test.sh --mutants` runs

PART leaves out all parts of the heart but those, such as guidance. Works on copies in build/mutants, where
results stay: the next run tries again what has changed and what nobody noticed. Functions with a decorator,
such as `torch.no_grad`, are left as they are. Ends with code 1 where fewer than `AIM` are noticed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
AIM = 0.9
NOTICED = {"killed", "timeout", "segfault", "caught by type check"}
UNTRIED = "not checked"
MUTMUT = (sys.executable, "-m", "mutmut")
PACKAGES = ["egogen", "llava", "ldm"]
# Without the plugin that collects garbage at the end, which takes five times as long as a quick test.
PYTEST = ("-p", "no:cacheprovider", "-p", "no:unraisableexception")
LINKS = ("egogen/configs", "egogen/toy_assets")  # which mutmut leaves out


@dataclass(frozen=True)
class Part:
    """What is changed, as patterns of files, and the tests that should notice.

    Quick ones, in one process: each mutant is shown those that call its function.
    """

    code: Sequence[str]
    tests: Sequence[str]


def code(folder: str, *names: str) -> list[str]:
    """Files of a folder."""
    return [f"{folder}/{name}.py" for name in names]


def tests(folder: str, *names: str) -> list[str]:
    """Files of a folder of tests."""
    return [f"tests/{folder}/test_{name}.py" for name in names]


HEART = {
    "vllm": {
        "decode": Part(code("llava/describing", "decode"), tests("llava", "decode", "roomy_cache")),
        "question": Part(
            code("llava/question", "labels", "prompts"), tests("llava", "labels", "prompts", "conversations")
        ),
    },
    "ldm": {
        "guidance": Part(
            code("ldm", "guidance", "conditioner"), tests("ldm", "guidance", "denoiser", "step", "oracle")
        ),
        "diffusion": Part(
            code("ldm/diffusion", "*"),
            [*tests("ldm", "choices", "schedule", "phases"), *tests("ldm/baselines", "ddim")],
        ),
        "training": Part(code("ldm", "module"), tests("ldm", "step", "step_calls", "ema")),
        "distilling": Part(
            code("ldm", "distill", "distilling/*"), tests("ldm", "distilling", "distill_door")
        ),
        "files": Part(
            code("egogen", "journal", "shards", "layout"), tests("egogen", "journal", "shards", "layout")
        ),
        "pixels": Part(
            code("ldm/metrics", "accumulators", "changed_box", "fid", "lpips", "psnr", "ssim"),
            tests(
                "ldm/evaluation",
                "gathering",
                "metrics_numbers",
                "metric_table",
                "changed_box",
                "oracle_pixels",
                "small_pixel_networks",
            ),
        ),
        "features": Part(
            code("ldm/metrics", "blip", "clip", "egovlp", "egovlp_plus"),
            tests(
                "ldm/evaluation",
                "metric_table",
                "oracle_features",
                "oracle_captions",
                "witnesses",
                "small_feature_networks",
            ),
        ),
        "evaluation": Part(
            code("ldm/metrics", "evaluation", "feature_cache", "metric", "toy_features", "toy_success"),
            tests("ldm/evaluation", "gathering", "metric_table", "toy_metrics", "evaluation_steps"),
        ),
        "frames": Part(
            code("ldm/metrics/frames", "*"),
            tests(
                "ldm/evaluation",
                "metrics_pairs",
                "frames_before",
                "protocol",
            ),
        ),
        "networks": Part(
            code("ldm/metrics/networks", "*"),
            tests("ldm/evaluation", "metric_weights", "video_tower", "beams", "captioner", "toy_metrics"),
        ),
        "results": Part(
            code("ldm/metrics/results", "*"),
            tests("ldm/evaluation", "result_files", "intervals", "metric_table"),
        ),
    },
}


def main(words: Sequence[str]) -> int:
    """Tries the mutants of an environment's parts, one after the other; the exit code."""
    environment, *names = words
    parts = HEART[environment]
    if unknown := set(names) - parts.keys():
        sys.stderr.write(f"error: no part {', '.join(sorted(unknown))}; allowed are {', '.join(parts)}\n")
        return 2
    found: dict[str, str] = {}
    for name in names or parts:
        work = ROOT / "build/mutants" / environment / name
        copy(work, parts[name])
        if ended := try_mutants(work):
            return ended
        missed = {mutant: state for mutant, state in results(work).items() if state not in NOTICED}
        sys.stdout.write("".join(f"  {mutant}: {state}\n" for mutant, state in missed.items()))
        sys.stdout.write(f"the change of one: cd {work} && python -m mutmut show NAME\n")
        found |= results(work)
    return report(found)


def copy(work: Path, part: Part) -> None:
    """Brings a copy of the repository up to date, with mutmut's settings in it."""
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
        "only_mutate": part.code,
        "also_copy": [*sorted(beside - {*PACKAGES, "tests", ".gitignore"}), *LINKS],
        "pytest_add_cli_args": [*PYTEST, "-m", "not slow and not long and not faults"],
        "pytest_add_cli_args_test_selection": part.tests,
        # Stopped after three times what its tests take and 20 seconds: the machine may be busy.
        "timeout_constant": 20.0,
        "timeout_multiplier": 3.0,
    }
    with (work / "pyproject.toml").open("a", encoding="utf-8") as file:
        # Lists of texts are in TOML as in JSON.
        file.write("\n[tool.mutmut]\n" + "".join(f"{key} = {json.dumps(v)}\n" for key, v in settings.items()))


def try_mutants(work: Path) -> int:
    """Tries the mutants that are new or have changed, then those missed before; mutmut's exit code."""
    before = results(work) if (work / "mutants").exists() else {}
    (work / "mutants/mutmut-stats.json").unlink(missing_ok=True)  # which functions the tests called then
    missed = {name for name, state in before.items() if state not in NOTICED}
    ended = subprocess.run([*MUTMUT, "run"], cwd=work, check=False)  # knows all that there are by now
    again = [name for name, state in results(work).items() if name in missed and state not in NOTICED]
    if again and not ended.returncode:
        ended = subprocess.run([*MUTMUT, "run", *again], cwd=work, check=False)
    return ended.returncode


def results(work: Path) -> dict[str, str]:
    """The state of each mutant, by its name."""
    asked = [*MUTMUT, "results", "--all", "true"]
    told = subprocess.run(asked, cwd=work, check=True, capture_output=True, text=True).stdout
    return dict(re.findall(r"^ +(\S+): (.+)$", told, re.MULTILINE))


def report(found: Mapping[str, str]) -> int:
    """Prints a line a module and their sum; 1 where too few mutants were noticed."""
    modules: dict[str, Counter[bool]] = {}
    for name, state in found.items():
        modules.setdefault(name.rpartition(".")[0], Counter())[state in NOTICED] += 1
    for module, counts in sorted(modules.items()):
        sys.stdout.write(f"{module:40} {counts[True]:4} of {counts.total():4} noticed\n")
    everything = sum(modules.values(), Counter())
    if not everything:
        sys.stderr.write("error: no mutants; do the patterns of the part name files?\n")
        return 2
    share = everything[True] / everything.total()
    sys.stdout.write(f"{everything[True]} of {everything.total()} noticed: {share:.1%}, wanted {AIM:.0%}\n")
    return int(share < AIM)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

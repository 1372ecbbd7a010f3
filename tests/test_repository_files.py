"""Files for others than us: the container, continuous integration on GitHub, forms for reports, the citation.

Witnesses: the paths and scripts that they name, and the fields that GitHub and the citation format ask for.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.workbench import ROOT, Workbench

FORMS = sorted(path for path in ROOT.glob(".github/ISSUE_TEMPLATE/*.yml") if path.name != "config.yml")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def instructions() -> list[tuple[str, str]]:
    """(word, rest) of each instruction of the Dockerfile."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def test_the_image_is_made_of_what_is_there() -> None:
    made = instructions()
    assert [word for word, _ in made][:2] == ["ARG", "FROM"]
    defaults = dict(rest.split("=", 1) for word, rest in made if word == "ARG")
    assert defaults["ENVIRONMENTS"] == "all"
    (roots,) = (rest for word, rest in made if word == "ENV")
    assert {part.split("=")[0] for part in roots.split()} == {"DATA_ROOT", "RUN_ROOT", "WEIGHTS_ROOT"}
    runs = [rest for word, rest in made if word == "RUN"]
    scripts = [name for rest in runs for name in re.findall(r"bash (\S+\.sh)", rest)]
    assert scripts == ["scripts/setup.sh"]
    for rest in runs:
        subprocess.run(["bash", "-n", "-c", rest], check=True)


@pytest.mark.parametrize("environments", ["vllm", "ldm", "all"])
def test_the_image_sets_up(tmp_path: Path, environments: str) -> None:
    bench = Workbench(tmp_path, "uv python3.11")
    (line,) = (rest for word, rest in instructions() if word == "RUN" and "setup.sh" in rest)
    _, script, argument = shlex.split(line.split("&&")[0])
    bench.run(Path(script).name, argument.replace("${ENVIRONMENTS}", environments))
    for name in ("vllm", "ldm"):
        assert (bench.root / ".venvs" / name).exists() is (environments in (name, "all"))


def test_the_image_has_what_the_packages_need_and_no_results() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {".git", ".venvs", "runs", "data", "weights"} <= set(ignored)
    tracked = subprocess.run(
        ["git", "ls-files", "assets", "configs", "requirements", "scripts"],
        cwd=ROOT, text=True, capture_output=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert not {Path(name).parts[0] for name in tracked} & set(ignored)


def test_the_gpu_base_is_of_the_locked_torch_s_cuda() -> None:
    (major,) = re.findall(r"BASE=nvidia/cuda:(\d+)\.[\w.]+-devel-", (ROOT / "docs/container.md").read_text())
    for lock in ("ldm", "vllm"):
        found = re.findall(
            r"^nvidia-cuda-runtime==(\d+)", (ROOT / f"requirements/{lock}.lock").read_text(), re.MULTILINE
        )
        assert set(found) == {major}


def test_github_runs_what_the_script_says() -> None:
    (flow,) = ROOT.glob(".github/workflows/*.yml")
    told = read(flow)
    (job,) = told["jobs"].values()
    assert 10 <= job["timeout-minutes"] <= 120
    runs = [step["run"] for step in job["steps"] if "run" in step]
    assert [run.split()[-1] for run in runs] == [".ci/run"]
    assert os.access(ROOT / ".ci/run", os.X_OK)
    (cache,) = (step for step in job["steps"] if "cache" in step.get("uses", ""))
    for pattern in re.findall(r"'([^']+)'", cache["with"]["key"]):
        assert list(ROOT.glob(pattern)), pattern
    assert told["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_a_form_has_what_github_asks_for(form: Path) -> None:
    told = read(form)
    assert {"name", "description", "body"} <= told.keys()
    kinds = {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    ids = [each.get("id") for each in told["body"] if each["type"] != "markdown"]
    assert len(ids) == len(set(ids)) > 1
    for each in told["body"]:
        assert each["type"] in kinds
        assert each["attributes"].get("value" if each["type"] == "markdown" else "label")
        assert each["type"] != "dropdown" or len(each["attributes"]["options"]) > 1
        for name in re.findall(r"(?:docs|scripts)/[\w.-]+\.\w+", str(each["attributes"])):
            assert (ROOT / name).is_file(), name


def test_the_citation_is_the_readme_s() -> None:
    told = read(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= told.keys()
    paper = told["preferred-citation"]
    assert {"type", "title", "authors"} <= paper.keys()
    bibtex = (
        (ROOT / "README.md")
        .read_text()
        .split("```bibtex")[1]
        .split("```")[0]
        .replace("{", "")
        .replace("}", "")
    )
    assert paper["title"] in bibtex
    assert f"year      = {paper['year']}" in bibtex
    names = " and ".join(f"{each['family-names']}, {each['given-names']}" for each in paper["authors"])
    assert names in bibtex

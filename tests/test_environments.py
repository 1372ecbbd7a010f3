"""The conda files, the locks and pyproject.toml say one thing."""

from __future__ import annotations

import re
import sys
from functools import cache
from typing import Any, cast

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.workbench import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

STAGES = ["vllm", "ldm"]
PYTHONS = ["3.10", "3.11", "3.12"]
NAME = "lego-egogen"


@cache
def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def applies(requirement: Requirement, python: str) -> bool:
    machine = {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux"}
    markers = {
        **cast("dict[str, str]", default_environment()),
        **machine,
        "python_version": python,
        "python_full_version": f"{python}.9",
    }
    return requirement.marker is None or requirement.marker.evaluate(markers)


@cache
def lock(stage: str, python: str) -> dict[str, Version]:
    """Package -> the version that the lock pins for a Python; fails on anything but exact pins."""
    pins: dict[str, Version] = {}
    for line in (ROOT / f"requirements/{stage}.lock").read_text().splitlines():
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        if applies(requirement, python):
            name = canonicalize_name(requirement.name)
            assert name not in pins, f"{stage}, Python {python}: {name} is pinned twice"
            pins[name] = Version(specifier.version)
    return pins


def conda_file(stage: str) -> tuple[dict[str, Any], list[str], list[str]]:
    """The file, its conda specs and its pip lines."""
    content: dict[str, Any] = yaml.safe_load((ROOT / f"{stage}_env.yaml").read_text())
    specs = [spec for spec in content["dependencies"] if isinstance(spec, str)]
    (pip,) = [spec["pip"] for spec in content["dependencies"] if isinstance(spec, dict)]
    return content, specs, pip


@pytest.mark.parametrize("stage", STAGES)
def test_the_conda_files_take_every_version_from_the_lock(stage: str) -> None:
    content, specs, pip = conda_file(stage)
    assert set(content) == {"name", "channels", "dependencies"}
    assert content["name"] == stage
    assert content["channels"][0] == "conda-forge"
    # conda warns where pip is used but not named; it comes with Python and has no pin.
    assert [spec.split("=")[0] for spec in specs] == ["python", "pip"]
    assert SpecifierSet(project()["requires-python"]).contains(specs[0].removeprefix("python=") + ".0")
    # conda and mamba write these lines into a file beside the yaml and run pip there.
    assert pip == [f"-c requirements/{stage}.lock", f"-e .[{stage},dev]"]
    assert {stage, "dev"} <= set(project()["optional-dependencies"])


@pytest.mark.parametrize("stage", STAGES)
def test_setup_uses_the_same_lock_and_extras(stage: str) -> None:
    text = (ROOT / "scripts/setup.sh").read_text()
    installs = re.findall(r'-c "(\S+)" -e "(\S+)"', text.replace("\\\n", " ").replace("  ", ""))
    assert len(installs) == 2  # uv and pip
    *_, pip = conda_file(stage)
    for lock_file, package in installs:
        assert [f"-c {lock_file}", f"-e {package}"] == [line.replace(stage, "$1") for line in pip]


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("stage", STAGES)
def test_everything_we_ask_for_is_pinned_within_its_bounds(stage: str, python: str) -> None:
    extras = project()["optional-dependencies"]
    pins = lock(stage, python)
    held = [name for line in extras[stage] for name in Requirement(line).extras if line.startswith(NAME)]
    asked = [line for name in (stage, "dev", *held) for line in extras[name]]
    for line in [*project()["dependencies"], *asked]:
        requirement = Requirement(line)
        if requirement.name == NAME:  # one extra holds another
            continue
        if applies(requirement, python):
            name = canonicalize_name(requirement.name)
            assert name in pins, f"requirements/{stage}.lock pins no {name} for Python {python}"
            assert pins[name] in requirement.specifier, (
                f"{stage}: {name} {pins[name]} is not {requirement.specifier}"
            )


@pytest.mark.parametrize("python", PYTHONS)
def test_the_two_locks_agree_on_what_they_share(python: str) -> None:
    vllm, ldm = lock("vllm", python), lock("ldm", python)
    shared = vllm.keys() & ldm.keys()
    assert {"torch", "transformers", "numpy", "pytest", "ruff", "mypy"} <= shared
    assert {name: vllm[name] for name in shared} == {name: ldm[name] for name in shared}


def test_the_oldest_versions_that_the_project_promises() -> None:
    extras = project()["optional-dependencies"]
    bounds = {
        Requirement(line).name: Requirement(line).specifier for line in [*extras["vllm"], *extras["ldm"]]
    }
    promised = {"torch": "2.6", "transformers": "5", "diffusers": "0.36", "pytorch-lightning": "2.5"}
    assert {name: str(bounds[name]) for name in promised} == {
        name: f">={low}" for name, low in promised.items()
    }
    assert SpecifierSet(project()["requires-python"]).contains("3.10.0")
    assert not SpecifierSet(project()["requires-python"]).contains("3.13.0")


def test_what_runs_here_is_what_is_locked() -> None:
    from importlib.metadata import version

    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    for name in ("numpy", "pydantic", "pytest", "ruff", "torch", "transformers"):
        assert Version(version(name)) == lock("vllm", python)[name], f"{name}: run bash scripts/setup.sh all"


def test_uv_and_the_hooks_are_pinned() -> None:
    (uv,) = (ROOT / "requirements/uv.txt").read_text().split()
    assert re.fullmatch(r"uv==\d+\.\d+\.\d+", uv)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (ruff,) = [hook["rev"] for hook in hooks if hook["repo"].endswith("ruff-pre-commit")]
    assert Version(ruff) == lock("vllm", "3.11")["ruff"]


@pytest.mark.parametrize("python", PYTHONS)
def test_what_both_environments_have_is_the_same(python: str) -> None:
    """So egogen, which stands on that alone, need be tested in one of them (scripts/test.sh)."""
    one, other = (lock(stage, python) for stage in STAGES)
    shared = one.keys() & other.keys()
    assert {"numpy", "pillow", "pyarrow", "pydantic", "av", "huggingface-hub", "torch"} <= shared
    assert {name: (one[name], other[name]) for name in shared if one[name] != other[name]} == {}

"""Measurements as JSON and arrays; their comparison with the recorded ones."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from egogen.toy.__main__ import main as make_world

FOLDER = Path(__file__).parents[1] / "oracle" / "safety_net"
# On other processors and library versions sums round differently. After at most 20 steps of AdamW, whose
# first steps keep a gradient's sign alone, this has grown from 1e-7 to less than this in losses and norms ...
RELATIVE, ABSOLUTE = 2e-3, 1e-5
FRAME_MEAN = 2.0  # ... a frame differs by grey levels at some pixels, not as a whole ...
FEATURE = 2e-2  # ... and features of about 1, kept in float16, by a few of its steps.
# A key's bias shifts all its scores alike: its gradient is 0, and training makes of it rounding alone.
ROUNDING_ALONE, ROUNDING = "k_proj.bias/", 1e-2
EXACT_ONLY = "sha256"  # these say nothing about the size of a difference


class Net:
    """Measures one part; each section on demand, what they share once.

    Args:
        root: an empty folder to work in.
    """

    name: str
    libraries: tuple[str, ...]
    sections: ClassVar[Mapping[str, Callable[[Any], Any]]]

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def world(self) -> Path:
        """The toy world: 8 pairs to train on and 4 to draw, of both data sets."""
        flags = ["--train", "8", "--val", "4", "--size", "32", "--workers", "1"]
        make_world(["--out", str(self.root / "data"), *flags])
        return self.root / "data" / "EgoGen"

    def measure(self, section: str) -> Any:
        """One section, computed by one thread."""
        with one_thread(self.root / "runs"):
            return self.sections[section](self)

    def fingerprint(self) -> dict[str, str]:
        """What rounding depends on."""
        return {
            "processor": processor(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "threads": "1",
            "dtype": "float32",
            "python": ".".join(platform.python_version_tuple()[:2]),
            **{name: version(name) for name in self.libraries},
        }

    def recorded(self) -> dict[str, Any]:
        """What was measured before: sections and fingerprint."""
        content: dict[str, Any] = json.loads((FOLDER / f"{self.name}.json").read_text())
        if (arrays := FOLDER / f"{self.name}.npz").exists():
            with np.load(arrays) as file:
                for name in file.files:
                    section, _, key = name.partition("/")
                    content["sections"][section][key] = file[name]
        return content

    def write(self, sections: Mapping[str, dict[str, Any]]) -> None:
        """Records a measurement."""
        values: dict[str, Any] = {}
        arrays = {}
        for section, found in sections.items():
            values[section] = {k: v for k, v in found.items() if not isinstance(v, np.ndarray)}
            arrays |= {f"{section}/{k}": v for k, v in found.items() if isinstance(v, np.ndarray)}
        content = {"fingerprint": self.fingerprint(), "sections": values}
        (FOLDER / f"{self.name}.json").write_text(dump(content) + "\n")
        if arrays:
            np.savez_compressed(FOLDER / f"{self.name}.npz", **arrays)


def compare(net: Net, section: str) -> list[str]:
    """The differences of a section from what is recorded, in words."""
    recorded = net.recorded()
    exact = recorded["fingerprint"] == net.fingerprint()
    found = net.measure(section)
    return list(differences(recorded["sections"][section], found, section, exact=exact))


def differences(before: Any, now: Any, place: str, *, exact: bool) -> Iterator[str]:
    """Names the leaves that differ: by any bit, or by more than the tolerances."""
    if isinstance(before, np.ndarray):
        if not same_array(before, np.asarray(now), exact=exact):
            yield f"{place}: another array"
    elif isinstance(before, dict) and isinstance(now, dict):
        for key in before.keys() | now.keys():
            if key not in now or key not in before:
                yield f"{place}/{key}: {'missing' if key in before else 'new'}"
            elif exact or key != EXACT_ONLY:
                yield from differences(before[key], now[key], f"{place}/{key}", exact=exact)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, pair in enumerate(zip(before, now, strict=True)):
            yield from differences(*pair, f"{place}[{index}]", exact=exact)
    elif before != now and (exact or not near(before, now, place)):
        yield f"{place}: recorded {before!r}, found {now!r}"


def near(before: Any, now: Any, place: str) -> bool:
    """Whether two numbers are equal but for rounding."""
    absolute = ROUNDING if ROUNDING_ALONE in place else ABSOLUTE
    return isinstance(before, float) and bool(np.isclose(now, before, rtol=RELATIVE, atol=absolute))


def same_array(before: np.ndarray, now: np.ndarray, *, exact: bool) -> bool:
    """Whether two arrays are equal, or equal but for rounding."""
    if before.shape != now.shape or before.dtype != now.dtype or exact:
        return before.dtype == now.dtype and np.array_equal(before, now)
    distance = abs(before.astype(np.float64) - now)
    return bool(distance.mean() < FRAME_MEAN if before.dtype == np.uint8 else distance.max() < FEATURE)


def sha256(content: bytes) -> str:
    """As hexadecimal text."""
    return hashlib.sha256(content).hexdigest()


def tensors(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Hash, sum of magnitudes and norm of each tensor; both are 0 for one without elements."""
    found = {}
    for name, value in sorted(state.items()):
        array = value.detach().contiguous().numpy()
        wide = array.astype(np.float64).ravel()
        found[name] = {
            EXACT_ONLY: sha256(array.tobytes())[:16],
            "magnitude": float(f"{abs(wide).sum():.7g}"),
            "norm": float(f"{np.sqrt(np.square(wide).sum()):.7g}"),
            "shape": "x".join(map(str, array.shape)),
        }
    return found


def digest(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """All tensors in one line, for trainings whose losses say the rest."""
    each = tensors(state)
    return {
        EXACT_ONLY: sha256(json.dumps(each, sort_keys=True).encode()),
        "tensors": len(each),
        "norm": float(np.sqrt(sum(entry["norm"] ** 2 for entry in each.values()))),
    }


def dump(content: Any, indent: str = "") -> str:
    """JSON that is easy to compare: a line for each entry that fits in one."""
    line = json.dumps(content, sort_keys=True)
    if not isinstance(content, dict) or len(indent + line) <= 160:
        return line
    inner = indent + " "
    entries = [f"{inner}{json.dumps(key)}: {dump(content[key], inner)}" for key in sorted(content)]
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}"


def processor() -> str:
    """Its name, family and model: libraries choose their code by them."""
    facts = Path("/proc/cpuinfo")
    first = facts.read_text().partition("\n\n")[0].splitlines() if facts.exists() else []
    values = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first)}
    return " ".join([platform.machine(), *(values.get(n, "") for n in ("model name", "cpu family", "model"))])


@contextmanager
def one_thread(run_root: Path) -> Iterator[None]:
    """One thread of torch, and caches of its own."""
    threads, before = torch.get_num_threads(), os.environ.get("RUN_ROOT")
    torch.set_num_threads(1)
    os.environ["RUN_ROOT"] = str(run_root)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        del os.environ["RUN_ROOT"]
        if before is not None:
            os.environ["RUN_ROOT"] = before

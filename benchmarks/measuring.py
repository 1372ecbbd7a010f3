"""What all benchmarks share: the flags --device and --json, clocks, peaks of GPUs, a table, its JSON."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from egogen import cli
from egogen.cli import flag
from egogen.files import write_json
from egogen.record import run_record

if TYPE_CHECKING:
    from ldm.networks.architecture import Architecture

PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pillow", "av")
Found = TypeVar("Found")
Given = TypeVar("Given", bound="Reported")
Cell = str | int | float | bool


class Peak(NamedTuple):
    """What a GPU is sold with, by the vendor's data sheet: dense products (TFLOP/s), memory (TB/s)."""

    bf16: float
    float32: float
    memory: float


PEAKS = {
    "H200": Peak(989, 67, 4.8),
    "H100": Peak(989, 67, 3.35),
    "A100": Peak(312, 19.5, 2.0),
    "L40": Peak(181, 90.5, 0.86),
    "4090": Peak(165, 82.6, 1.0),
}


@dataclass(frozen=True)
class Reported:
    """The flag of every benchmark."""

    json: Path | None = flag("write the figures here", type=Path)


@dataclass(frozen=True)
class OnDevice(Reported):
    """The flags of those that run networks."""

    device: str = flag("cpu or cuda", default=lambda: "cuda" if torch.cuda.is_available() else "cpu")

    @property
    def on_gpu(self) -> bool:
        """Whether there is memory of a GPU to measure."""
        return self.device.startswith("cuda")

    @property
    def machine(self) -> str:
        """What computes."""
        return torch.cuda.get_device_name() if self.on_gpu else f"{torch.get_num_threads()} CPU threads"

    @property
    def peak(self) -> Peak | None:
        """What it could do, where its name is known."""
        return next((peak for name, peak in PEAKS.items() if self.on_gpu and name in self.machine), None)


def read_flags(kind: type[Given], name: str, doc: str | None) -> Given:
    """The command line as a benchmark's options."""
    return cli.options(kind, None, f"python benchmarks/{name}.py", (doc or "").partition("\n")[0])


def toy_networks() -> tuple[Architecture, int]:
    """The toy world's architecture, and the side of its frames."""
    from ldm.config.sections import TrainConfig, load_config  # stage 1's environment has none

    config = load_config(TrainConfig, [Path(__file__).parents[1] / "configs" / "train_toy.yaml"])
    return config.model.architecture, config.data.resolution


class Timed(NamedTuple, Generic[Found]):
    """How long something took, the most memory that it had on a GPU, and its result."""

    seconds: float
    gib: float | None
    result: Found


def clock(work: Callable[[], Found], device: str = "cpu") -> Timed[Found]:
    """Does something once, and waits for the GPU."""
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    result = work()
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return Timed(seconds, torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None, result)


def process_gib(who: int = resource.RUSAGE_SELF) -> float:
    """The most memory of this process, or of one of its children, so far."""
    return resource.getrusage(who).ru_maxrss / 2**20


def fastest(work: Callable[[], object], repeats: int, device: str = "cpu") -> float:
    """Seconds of the fastest of some runs."""
    return min(clock(work, device).seconds for _ in range(repeats))


def rate(step: Callable[[], Tensor], seconds: float, warm: int = 1, wait: int = 1) -> float:
    """Calls a second.

    Args:
        step: what is called; its result is waited for.
        seconds: to go on for.
        warm: calls before that do not count.
        wait: only for every so many-th result, so that a GPU always has work in hand.
    """
    for _ in range(warm):
        step().sum().item()
    began, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - began < seconds:
        result = step()
        count += 1
        if count % wait == 0:
            result.sum().item()
    result.sum().item()
    return count / (time.perf_counter() - began)


class Table:
    """Figures that are printed line by line, as they come; a row's keys are the columns.

    Args:
        ratio: the key whose share of the first row's value is added to each row as `ratio`; empty for none.
        width: of a text.
    """

    def __init__(self, ratio: str = "", width: int = 16) -> None:
        self.ratio, self.width = ratio, width
        self.rows: list[dict[str, Cell | None]] = []

    def add(self, **row: Cell | None) -> None:
        """Prints a row; what is None, or not given, is a dash in print."""
        row = dict.fromkeys(self.rows[0] if self.rows else ()) | row  # all columns, in one order
        self.rows.append(row)
        if self.ratio:
            row["ratio"] = float(row[self.ratio]) / float(self.rows[0][self.ratio])
        heads, cells = [], []
        for key, value in row.items():
            shown = "-" if value is None else f"{value:.4g}" if isinstance(value, float) else f"{value}"
            head = key.replace("_per_second", "/s").replace("_", " ")
            form = f"<{self.width}" if isinstance(value, str) else f">{max(8, len(head))}"
            heads.append(f"{head:{form}}")
            cells.append(f"{shown:{form}}")
        for line in (heads, cells) if len(self.rows) == 1 else (cells,):
            print("  ".join(line), flush=True)


def report(options: Reported, **tables: Sequence[object]) -> None:
    """Writes the figures with what they were measured by, where `--json` asks for it."""
    if options.json is None:
        return
    asked = {key: value if isinstance(value, Cell) else f"{value}" for key, value in asdict(options).items()}
    machine = options.machine if isinstance(options, OnDevice) else "CPU"
    write_json(options.json, {"settings": asked, "computes": machine, **run_record(PACKAGES), **tables})
    print(f"written: {options.json}")

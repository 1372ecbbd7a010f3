"""What all benchmarks share: their door, made-up data, clocks, what a machine can do at most, a table."""

from __future__ import annotations

import logging
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from egogen import cli
from egogen.annotations import Annotations
from egogen.cli import flag
from egogen.features import IMAGE_TOKENS, TEXT_TOKENS, write_feature
from egogen.files import write_json
from egogen.layout import Layout, feature_path, features_root
from egogen.record import run_record
from egogen.toy.world import write_world

if TYPE_CHECKING:
    from ldm.networks.shapes import Architecture
    from ldm.sampling.drawing_plan import Request

PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pillow", "av")
Found = TypeVar("Found")
Given = TypeVar("Given", bound="Reported")
Cell = str | int | float | bool


# What GPUs are sold with, by the vendors' data sheets: dense products (TFLOP/s), memory (TB/s).
PEAKS = {
    "H200": {"bf16": 989, "float32": 67, "memory": 4.8},
    "H100": {"bf16": 989, "float32": 67, "memory": 3.35},
    "A100": {"bf16": 312, "float32": 19.5, "memory": 2.0},
    "L40": {"bf16": 181, "float32": 90.5, "memory": 0.86},
    "4090": {"bf16": 165, "float32": 82.6, "memory": 1.0},
}
LLM_WIDTH, VIT_WIDTH = 5120, 1024  # of the published features
ANSWER_TOKENS = 100
VIT_L = {
    "hidden_size": VIT_WIDTH, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 224, "patch_size": 14,
}  # fmt: skip


@dataclass(frozen=True)
class Reported:
    """The flag of every benchmark, and a setting."""

    json: Path | None = flag("write the figures here", type=Path)
    dir: ClassVar[Path | None] = None  # where files are made; the system's temporary folder


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

    def share(self, work: float, unit: str) -> float:
        """Of what the machine can do at most in that unit: by a GPU's data sheet, else as measured now.

        Args:
            work: TFLOP/s, or TB/s.
            unit: `bf16`, `float32` or `memory`.
        """
        sheets = [peak for name, peak in PEAKS.items() if self.on_gpu and name in self.machine]
        return work / (sheets[0] if sheets else measured_peak(self.device))[unit]


def run(measure: Callable[[Given, Path], Mapping[str, object]], kind: type[Given], doc: str | None) -> None:
    """A benchmark: hands `measure` the flags and a passing folder; what it returns are tables by name."""
    logging.basicConfig(level=logging.WARNING)
    prog = f"python benchmarks/{Path(sys.argv[0]).name}"
    options = cli.options(kind, None, prog, (doc or "").partition("\n")[0])
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        tables = measure(options, Path(folder))
    if options.json is None:
        return
    asked = {key: value if isinstance(value, Cell) else f"{value}" for key, value in asdict(options).items()}
    machine = options.machine if isinstance(options, OnDevice) else "CPU"
    write_json(options.json, {"settings": asked, "computes": machine, **run_record(PACKAGES), **tables})
    print(f"written: {options.json}")


def networks_of(size: str) -> tuple[Architecture, int]:
    """Networks and the side of their frames: `toy`, `tiny` (tests/oracle/ldm), else Stable Diffusion 1.5."""
    from ldm.config.merge import load_config  # stage 1's environment has no ldm
    from ldm.config.sections import TrainConfig
    from ldm.networks.shapes import Architecture, TextShape, UNetShape, VAEShape
    from ldm.toy.toy_shapes import SMALL

    if size == "toy":
        config = load_config(TrainConfig, [Path(__file__).parents[1] / "configs" / "train_toy.yaml"])
        unet = replace(SMALL.unet, in_channels=UNetShape().in_channels)  # the toy's starts with half of them
        return replace(SMALL, unet=unet), config.data.resolution
    if size == "tiny":
        unet = UNetShape([32, 64, 128, 128], [True, True, True, False], 1, 4)
        return Architecture(unet, VAEShape([32, 64, 128, 128], 1), TextShape(768, 2, 12, 256)), 64
    return Architecture(), 256


def made_up(shape: Architecture, batch: int, side: int, device: str) -> Request:
    """A batch of random frames, with features and start noise."""
    from ldm.sampling.drawing_plan import Request, Scales

    return Request(
        torch.rand(batch, 3, side, side, device=device) * 2 - 1,
        ["the left hand opens the box"] * batch,
        [torch.Generator().manual_seed(index) for index in range(batch)],
        Scales(7.5, 1.5),
        torch.randn(batch, IMAGE_TOKENS, shape.llm_width, device=device),
        torch.randn(batch, TEXT_TOKENS, shape.llm_width, device=device),
    )


def write_split(
    root: Path, pairs: int, tree: Path, rng: np.random.Generator, image_feature: Callable[[], np.ndarray]
) -> Annotations:
    """A train split of the toy world, of 256 pixels, and a published tree of its features."""
    write_world(root, pairs, 1, size=256, workers=os.cpu_count() or 1)
    annotations = Annotations.read(Layout(root, "ego4d").annotations("train"))
    folders = [features_root(tree, "ego4d", "train", kind) for kind in ("llava_image", "llava_text")]
    for item in annotations:
        texts = rng.normal(size=(ANSWER_TOKENS, LLM_WIDTH))
        for folder, values in zip(folders, (image_feature(), texts), strict=True):
            write_feature(feature_path(folder, item.action.image_0), values)
    return annotations


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


@cache
def measured_peak(device: str, repeats: int = 5) -> dict[str, float]:
    """TFLOP/s of a product of large matrices in 32 and 16 bits; TB/s of a copy, read and written bytes."""
    side, peak = 8192 if device.startswith("cuda") else 2048, {}
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        seconds = fastest(lambda one=one, other=other: one @ other, repeats, device)
        peak[name] = 2 * side**3 / seconds / 1e12
    values = torch.randn(64 * 2**20, device=device)  # 256 MiB, more than caches hold
    into = torch.empty_like(values)
    seconds = fastest(lambda: into.copy_(values), repeats, device)
    return peak | {"memory": 2 * values.nbytes / seconds / 1e12}


def largest_costs(path: str, work: Callable[[], object], device: str, count: int = 5) -> SpeedTable:
    """The operations that take most of some work's time, a row each; calls that they make are not theirs.

    Args:
        path: what the work is.
        work: is done twice; the second time counts.
        device: on a GPU its time counts, else the CPU's.
        count: how many.
    """
    work()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.startswith("cuda") else [])]
    with profile(activities=kinds) as seen:
        whole = clock(work, device).seconds
    # A GPU's kernels are listed too; their time is that of the operations which began them.
    events = [event for event in seen.key_averages() if event.device_type == torch.autograd.DeviceType.CPU]
    spent = {event.key: event.self_device_time_total if len(kinds) > 1 else event.self_cpu_time_total
             for event in events}  # fmt: skip
    calls = {event.key: event.count for event in events}
    table = SpeedTable(width=40)
    for key in sorted(spent, key=spent.__getitem__, reverse=True)[:count]:
        seconds = spent[key] / 1e6
        table.add(path=path, operation=key, seconds=seconds, share=seconds / whole, calls=calls[key])
    return table


def rate(step: Callable[[], Tensor], seconds: float, warm: int = 1, wait: int = 1) -> float:
    """Calls a second, after some that do not count.

    Only every `wait`-th result is waited for, so that a GPU always has work in hand.
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


class SpeedTable(list[dict[str, Cell | None]]):
    """Rows of figures by column, printed as they come; `ratio`: one to tell in shares of the first."""

    def __init__(self, ratio: str = "", width: int = 16) -> None:
        super().__init__()
        self.ratio, self.width = ratio, width

    def add(self, **row: Cell | None) -> None:
        """Prints a row; what is None, or not given, is a dash in print."""
        row = dict.fromkeys(self[0] if self else ()) | row  # all columns, in one order
        self.append(row)
        if self.ratio:
            row["ratio"] = float(row[self.ratio]) / float(self[0][self.ratio])
        heads, cells = [], []
        for key, value in row.items():
            shown = "-" if value is None else f"{value:.4g}" if isinstance(value, float) else f"{value}"
            head = key.replace("_per_second", "/s").replace("_", " ")
            form = f"<{self.width}" if isinstance(value, str) else f">{max(8, len(head))}"
            heads.append(f"{head:{form}}")
            cells.append(f"{shown:{form}}")
        for line in (heads, cells) if len(self) == 1 else (cells,):
            print("  ".join(line), flush=True)

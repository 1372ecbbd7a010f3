"""Writes a metric over training steps, of measured runs `FOLDER/<system>/<step>`, as TensorBoard scalars.

The report draws them as one chart, a line for each system.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egogen import cli
from egogen.cli import flag
from egogen.errors import UserError
from egogen.walks import shown

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OverStepsOptions:
    """The runs, and where their curves go."""

    folder: Path = flag("holds <system>/<step>/ for every measured run", positional=True, type=Path)
    metric: str = flag("name of the metric", default="toy_success")
    out: Path = flag("folder of the event file", type=Path, required=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the runs' metric, writes one event file in place of older ones; other files stay."""
    options = cli.options(OverStepsOptions, argv, "python -m ldm.report.over_steps", __doc__)
    from torch.utils.tensorboard import SummaryWriter

    points = read_points(options.folder, options.metric)
    older = shown(options.out.glob("*tfevents*")) if options.out.is_dir() else []
    with SummaryWriter(str(options.out)) as writer:
        for path in older:
            path.unlink()
        for system, values in points.items():
            for step, value in sorted(values.items()):
                writer.add_scalar(f"{options.metric}/{system}", value, step)
    log.info("%s: %d systems, metric %s", options.out, len(points), options.metric)


def read_points(folder: Path, metric: str) -> dict[str, dict[int, float]]:
    """System -> training step -> value.

    Raises:
        UserError: there are no runs, a folder is not named by its step, or a run lacks the metric.
    """
    from ldm.metrics.results.result_files import number, read_details

    points: dict[str, dict[int, float]] = {}
    for run_folder in (path for each in shown(folder.glob("*/")) for path in shown(each.glob("*/"))):
        if not run_folder.name.isdigit():
            raise UserError(f"{run_folder}: expected the number of a training step as the folder's name")
        metrics = read_details(run_folder)["metrics"]
        if metric not in metrics:
            raise UserError(f"{run_folder}: was measured without {metric!r}, with {', '.join(metrics)}")
        points.setdefault(run_folder.parent.name, {})[int(run_folder.name)] = number(metrics[metric]["mean"])
    if not points:
        raise UserError(f"{folder}: holds no runs; expected <system>/<step>/")
    return points


if __name__ == "__main__":
    cli.run(main)

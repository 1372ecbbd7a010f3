"""Trains the diffusion model: YAML in, `RUN_ROOT/logs/<config>_<name>/` out; `main.py` is its other name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from egogen import cli
from egogen.later import later
from ldm.training.run_options import TrainOptions

if TYPE_CHECKING:
    from ldm.training.run import train as train

__getattr__ = later(__name__, train="ldm.training.run")


def main(argv: Sequence[str] | None = None) -> None:
    """Parses, builds, trains."""
    options = cli.options(TrainOptions, argv, "python main.py", __doc__)
    from ldm.config.sections import TrainConfig

    config, run = options.read(TrainConfig, "set it to the file training starts from")
    from ldm.training.run import parse_gpus, train

    gpus = parse_gpus(options.gpus)
    with options.held(run):
        train(config, run, gpus, options.resume, options.train)


if __name__ == "__main__":
    cli.run(main)

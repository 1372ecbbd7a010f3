"""The metrics by name. A new metric is a file beside this one and a line in this table."""

from __future__ import annotations

from collections.abc import Sequence

from egogen.errors import UserError
from ldm.metrics import psnr, ssim, toy_success
from ldm.metrics.metric import Metric, Setting

METRICS = {module.METRIC.name: module.METRIC for module in (psnr, ssim, toy_success)}


def materialize(name: str) -> Metric:
    """The metric of a name.

    Raises:
        UserError: there is none.
    """
    if name not in METRICS:
        raise UserError(f"metric {name!r}: allowed are {', '.join(METRICS)}")
    return METRICS[name]


def choose(names: Sequence[str] | None, setting: Setting) -> list[Metric]:
    """The metrics of an evaluation: those named, or all that apply to the setting.

    Raises:
        UserError: a name is unknown.
    """
    if names is None:
        return [metric for metric in METRICS.values() if metric.applies(setting)]
    return [materialize(name) for name in dict.fromkeys(names)]

"""The metrics by name. A new metric is a file beside this one and a line in this table."""

from __future__ import annotations

from collections.abc import Sequence

from egogen.errors import UserError
from ldm.metrics import blip, clip, egovlp, egovlp_plus, fid, lpips, psnr, ssim, toy_features, toy_success
from ldm.metrics.metric import Metric, MetricSetting

METRICS = {
    metric.name: metric
    for metric in (
        egovlp.METRIC,
        egovlp_plus.METRIC,
        clip.METRIC,
        fid.METRIC,
        psnr.METRIC,
        *lpips.METRICS,
        *blip.METRICS,
        ssim.METRIC,
        toy_success.METRIC,
        *toy_features.METRICS,
    )
}


def materialize(name: str) -> Metric:
    """The metric of a name, or of its published name.

    Raises:
        UserError: there is none.
    """
    for metric in METRICS.values():
        if name in (metric.name, metric.key):
            return metric
    raise UserError(f"metric {name!r}: allowed are {', '.join(METRICS)}")


def choose(names: Sequence[str] | None, setting: MetricSetting) -> list[Metric]:
    """The metrics of an evaluation: those named, or all that apply to the setting.

    Raises:
        UserError: a name is unknown.
    """
    if names is None:
        return [metric for metric in METRICS.values() if metric.applies(setting)]
    return list(dict.fromkeys(materialize(name) for name in names))

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


def choose(names: Sequence[str] | None, setting: MetricSetting) -> list[Metric]:
    """The metrics of an evaluation: those named, by our name or the published one, or all that apply to it.

    Raises:
        UserError: a name is unknown.
    """
    if names is None:
        return [metric for metric in METRICS.values() if metric.applies(setting)]
    by_name = METRICS | {metric.key: metric for metric in METRICS.values()}
    for name in names:
        if name not in by_name:
            raise UserError(f"metric {name!r}: allowed are {', '.join(METRICS)}")
    return list(dict.fromkeys(by_name[name] for name in names))

"""The metrics by name. A new one is a file beside this one, a line here and one in `metric_names`."""

from __future__ import annotations

from collections.abc import Sequence

from ldm.metrics import (
    blip,
    changed_box,
    clip,
    egovlp,
    egovlp_plus,
    fid,
    lpips,
    psnr,
    ssim,
    toy_features,
    toy_success,
)
from ldm.metrics.metric import Metric, MetricSetting
from ldm.metrics.metric_names import metric_names

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
        *changed_box.METRICS,
        *toy_success.METRICS,
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
    return [METRICS[name] for name in metric_names(names)]

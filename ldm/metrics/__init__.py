"""The numbers of LEGO: how close generated frames are to their targets. Stage 2, after sampling."""

from typing import TYPE_CHECKING

from egogen.later import later

if TYPE_CHECKING:
    from ldm.metrics.evaluation import evaluate as evaluate

__getattr__ = later(__name__, evaluate="ldm.metrics.evaluation")

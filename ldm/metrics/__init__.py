"""The numbers of LEGO: how close generated frames are to their targets. Stage 2, after sampling."""

from ldm.metrics.evaluation import evaluate

__all__ = ["evaluate"]

"""Each metric as tables and result files show it, and what it asks for: stated here once more, by hand."""

from __future__ import annotations

from importlib.util import find_spec, module_from_spec
from typing import Any, get_args

import pytest

from egogen.annotations import Action, ClipMetadata, Item
from ldm.metrics.metric import Metric, MetricSetting, Result
from ldm.metrics.metric_names import Protocol
from ldm.metrics.registry import METRICS
from ldm.metrics.results.result_files import Measured, entry
from ldm.report.report_options import NONE
from ldm.report.results_table import cell, make_table
from tests.ldm.evaluation.made_pairs import made_pairs

# Heading, what a value of 0.5 is shown as, lowest and highest value.
TABLE = {
    "egovlp": ("EgoVLP ↑", "50.00", -1, 1),
    "egovlp_plus": ("EgoVLP+ ↑", "50.00", -1, 1),
    "clip": ("CLIP ↑", "50.00", -1, 1),
    "fid": ("FID ↓", "0.500", 0, None),
    "psnr": ("PSNR ↑ dB", "0.50", 0, None),
    "lpips_squeeze": ("LPIPS ↓", "50.00", 0, None),
    "lpips_vgg": ("LPIPS (VGG) ↓", "50.00", 0, None),
    "lpips_alex": ("LPIPS (AlexNet) ↓", "50.00", 0, None),
    "lpips_corrected": ("LPIPS in [-1, 1] ↓", "50.00", 0, None),
    "blip_base": ("BLIP-B ↑", "50.00", -1, 1),
    "blip_large": ("BLIP-L ↑", "50.00", -1, 1),
    "ssim": ("SSIM ↑", "0.500", -1, 1),
    "psnr_box": ("PSNR in box ↑ dB", "0.50", 0, None),
    "ssim_box": ("SSIM in box ↑", "0.500", -1, 1),
    "toy_success": ("Toy success ↑", "0.500", 0, 1),
    "toy_hand": ("Toy hand ↑", "0.500", 0, 1),
    "toy_object": ("Toy object ↑", "0.500", 0, 1),
    "toy_place": ("Toy place ↑", "0.500", 0, 1),
    "toy_fid": ("Toy FID ↓", "0.500", 0, None),
    "toy_similarity": ("Toy similarity ↑", "50.00", -1, 1),
}
# Packages whose versions go with a result, and weight files on ego4d.
NEEDS = {
    "egovlp": "torch egovlp.pth",
    "egovlp_plus": "torch egovlp.pth",
    "clip": "open_clip_torch ViT-L-14.pt",
    "fid": "pytorch-fid torchvision scipy pt_inception-2015-12-05-6726825d.pth",
    "psnr": "torchmetrics",
    "lpips_squeeze": "lpips torchvision squeezenet1_1-b8a52dc0.pth",
    "lpips_vgg": "lpips torchvision vgg16-397923af.pth",
    "lpips_alex": "lpips torchvision alexnet-owt-7be5be79.pth",
    "lpips_corrected": "lpips torchvision squeezenet1_1-b8a52dc0.pth",
    "blip_base": "transformers model_base_caption_capfilt_large.pth egovlp.pth vocab.txt",
    "blip_large": "transformers model_large_caption.pth egovlp.pth vocab.txt",
    "ssim": "torchmetrics",
    "psnr_box": "torchmetrics",
    "ssim_box": "torchmetrics",
    "toy_success": "lego-egogen",
    "toy_hand": "lego-egogen",
    "toy_object": "lego-egogen",
    "toy_place": "lego-egogen",
    "toy_fid": "lego-egogen toy_classifier.safetensors",
    "toy_similarity": "lego-egogen toy_classifier.safetensors",
}
LPIPS_SOURCE = "Zhang et al. 2018, version 0.1, frames in [0, 1] in the published protocol"
BLIP_SOURCE = "cosine of EgoVLP's text features of BLIP's caption and of the action's text"
BOX_SOURCE = (
    "inside the smallest rectangle with all pixels in which the frame before the action and the target "
    "differ by more than 0.1 of the range"
)
SOURCES = {
    **dict.fromkeys(("lpips_squeeze", "lpips_vgg", "lpips_alex"), LPIPS_SOURCE),
    "lpips_corrected": "Zhang et al. 2018, version 0.1, frames in [-1, 1]",
    **dict.fromkeys(("blip_base", "blip_large"), BLIP_SOURCE),
    **dict.fromkeys(("psnr_box", "ssim_box"), BOX_SOURCE),
    "toy_success": "share of frames that show the right hand at the right object, judged from pixels",
    "toy_hand": "share of frames that show the hand at its new place, judged from pixels",
    "toy_object": "share of frames that show the object at its new place, judged from pixels",
    "toy_place": "share of frames that show hand and object gone from where they were, judged from pixels",
}
# Measured where nobody names metrics; the toy world's where the metadata is of it.
DEFAULT = ("egovlp", "egovlp_plus", "clip", "fid", "psnr", "lpips_squeeze", "lpips_vgg", "lpips_alex",
           "lpips_corrected", "blip_base", "blip_large", "ssim", "psnr_box", "ssim_box")  # fmt: skip


def made() -> dict[str, Metric]:
    """All metrics; those that a function of their module makes are made anew, as when it is imported."""
    found = dict(METRICS)
    for name in ("lpips", "blip", "changed_box", "toy_success"):
        spec = find_spec(f"ldm.metrics.{name}")
        assert spec is not None
        assert spec.loader is not None
        module: Any = module_from_spec(spec)
        spec.loader.exec_module(module)
        found |= {metric.name: metric for metric in module.METRICS}
    return found


def test_tables_and_files_show_each_metric_so() -> None:
    metrics = made()
    assert list(metrics) == list(TABLE)
    entries = {name: entry(Measured(metric, Result(0.5, None, 4), {}), 0) for name, metric in metrics.items()}
    about = {"name": "a run", "dataset": "ego4d", "protocol": "published", "n": 4, "images": "images"}
    table = make_table([{**about, "metrics": entries}], NONE)  # type: ignore[typeddict-item]
    (run,) = table.groups[0].systems
    shown = {
        column.name: (column.heading, cell(run, column)[0], *entries[column.name]["range"])
        for column in table.columns
    }
    assert shown == TABLE
    rates = [name for name, told in entries.items() if told["binary"]]
    assert rates == ["toy_success", "toy_hand", "toy_object", "toy_place"]
    assert {name: entries[name]["source"] for name in SOURCES} == SOURCES


def test_what_metrics_need() -> None:
    metrics = made()
    ego4d, kitchen = MetricSetting("ego4d"), MetricSetting("epickitchen")
    asked = {
        name: " ".join([*metric.libraries, *(file.name for file in metric.weights(ego4d))])
        for name, metric in metrics.items()
    }
    assert asked == NEEDS
    tuned = [
        name
        for name, metric in metrics.items()
        if "epic_mir_plus.pth" in [file.name for file in metric.weights(kitchen)]
    ]
    assert tuned == ["egovlp", "egovlp_plus", "blip_base", "blip_large"]
    assert {name for name, metric in metrics.items() if metric.fewest > 1} == {"fid", "toy_fid"}


@pytest.mark.parametrize("protocol", get_args(Protocol))
def test_what_is_measured_where_nobody_names_metrics(protocol: Protocol) -> None:
    """Under the corrected protocol LPIPS in [-1, 1] would say the same twice; toy rates ask for toy facts."""
    metrics = made()
    toy = {"clip": ClipMetadata.model_validate({"height": 18, "width": 32, "signs": []})}
    other = {"clip": ClipMetadata.model_validate({"height": 18, "width": 32})}
    expected = [name for name in DEFAULT if name != "lpips_corrected" or protocol == "published"]
    for metadata, more in ((None, []), ({}, []), (other, []), (toy, ["toy_success"]), (toy | other, [])):
        setting = MetricSetting("ego4d", protocol, metadata=metadata)
        found = [name for name, metric in metrics.items() if metric.applies(setting)]
        assert found == [*expected, *more]


def test_what_decides_a_value_besides_images_and_weights() -> None:
    """For captions the texts and their key."""
    pairs = made_pairs(Item("a", "1", Action({"action": "cuts", "told": "The hand."})))
    metrics = made()
    for key in ("action", "told"):
        expected = {"llava_key": key, "texts_sha256": pairs.texts_sha256(key)}
        for name in ("blip_base", "blip_large"):
            assert metrics[name].inputs(MetricSetting("ego4d", llava_key=key), pairs) == expected
    assert pairs.texts_sha256("action") != pairs.texts_sha256("told")
    for name in ("clip", "fid", "psnr", "lpips_vgg"):
        assert metrics[name].inputs(MetricSetting("ego4d"), pairs) == {}

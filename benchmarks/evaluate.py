"""How fast runs are measured: the published one-by-one way against ours, on the same frames, in one run.

    python benchmarks/evaluate.py                        # full-size networks, a few pairs, minutes on a CPU
    python benchmarks/evaluate.py --dataset epickitchen --pairs 4
    python benchmarks/evaluate.py --pairs 256 --batch 64 # on a GPU

Six metrics together: EgoVLP, EgoVLP+, CLIP, FID, PSNR, LPIPS (SqueezeNet, VGG, AlexNet). Weights are random,
which changes no speed. The published way runs on the same modules: one pair at a time, frames decoded anew
for each metric, LPIPS run twice (torchmetrics 0.6 did), targets computed again for every run, scipy's root.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measuring import OnDevice, SpeedTable, clock, largest_costs, process_gib, run
from PIL import Image

from egogen.cli import flag
from egogen.files import write_json
from egogen.layout import DESCRIPTION_KEY, FOLDERS
from egogen.shards import Shard
from ldm.metrics import clip, egovlp, egovlp_plus, evaluation, fid, lpips, psnr
from ldm.metrics.feature_cache import Memory, Store
from ldm.metrics.frames.frame_pairs import Pairs
from ldm.metrics.frames.images import read_image
from ldm.metrics.frames.pair_table import Pair
from ldm.metrics.frames.protocol import fewer_bits
from ldm.metrics.metric import MetricSetting
from ldm.metrics.networks import metric_weights as files
from ldm.metrics.networks.egovlp_model import EgoVLP
from ldm.metrics.networks.video_transformer import VideoTransformer
from ldm.metrics.registry import choose

METRICS = ["egovlp", "egovlp_plus", "clip", "fid", "psnr", "lpips_squeeze", "lpips_vgg", "lpips_alex"]
SIZE = (455, 256)  # of frames, width and height
TEST_SET = {"ego4d": 9931, "epickitchen": 8893}
# Work of a pair (TFLOP): two or, with the context, four clips by EgoVLP, two images by the others.
WORK = {"ego4d": 1.22, "epickitchen": 3.5}


@dataclass(frozen=True)
class MetricSpeed(OnDevice):
    """The flags."""

    dataset: str = flag("whose protocol", choices=list(FOLDERS), default="ego4d")
    pairs: int = flag("of frames", type=int, default=8)
    batch: int = flag("pairs at a time", type=int, default=8)


def write_frames(root: Path, dataset: str, pairs: int) -> None:
    """A made-up evaluation: annotations, frames before, targets and a generated run, of random colours."""
    generator = np.random.default_rng(0)
    annotations, data = {}, root / FOLDERS[dataset]
    for index in range(pairs):
        before, after = (f"clip{index}/act/{number:06d}.jpg" for number in (1, 2))
        action = {"image_0": before, "image_1": after, "action": "#C C cuts the carrot"}
        annotations[f"clip{index}"] = {"act": action}
        for places in (
            [data / "val" / before],
            [data / "val" / after, data / "val_gt_for_metric" / after],
            [root / "run" / "images" / after],
        ):
            small = generator.integers(0, 256, (16, 28, 3), dtype=np.uint8)
            for place in places:
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(small).resize(SIZE, Image.Resampling.BICUBIC).save(place)
    write_json(root / "val.json", annotations)


def write_weights(root: Path, dataset: str) -> None:
    """Files of random weights in the published formats and sizes, but for what the six metrics do not use."""
    import lpips as package
    from open_clip import create_model
    from pytorch_fid import inception
    from transformers import DistilBertConfig, DistilBertModel

    torch.manual_seed(0)
    root.mkdir(parents=True, exist_ok=True)
    text = DistilBertModel(DistilBertConfig())
    video = VideoTransformer(768, 12, 12, 16, 196, egovlp.FRAMES[dataset])
    torch.nn.init.normal_(video.temporal_embed, std=0.02)
    torch.save({"state_dict": EgoVLP(video, text, 256).state_dict()}, root / files.EGOVLP[dataset].name)
    torch.save(create_model("ViT-L-14-quickgelu").state_dict(), root / files.CLIP.name)
    network = inception._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    for place, block in (("5b", (192, 32)), ("5c", (256, 64)), ("5d", (288, 64))):
        setattr(network, f"Mixed_{place}", inception.FIDInceptionA(*block[:1], pool_features=block[1]))
    torch.save(network.state_dict(), root / files.INCEPTION.name)
    for net, file in files.LPIPS.items():
        backbone = package.LPIPS(net=net, pnet_rand=True, verbose=False).net
        state = {f"features.{name.partition('.')[2]}": value for name, value in backbone.state_dict().items()}
        torch.save(state, root / file.name)


def published(pairs: Pairs, setting: MetricSetting) -> Callable[[], object]:
    """The published way as a function that measures once; networks are loaded before."""
    from scipy.linalg import sqrtm

    tower = egovlp.open_network(setting)
    frames = egovlp.FRAMES[setting.dataset]
    vision = clip.load(setting.weights[files.CLIP.name], setting.device)
    inception = fid.load(setting.weights[files.INCEPTION.name], setting.device)
    nets = [lpips.load(net, setting.weights[files.LPIPS[net].name], setting.device) for net in lpips.TITLES]
    before = pairs.targets.parent / "val"

    def read(path: Path) -> torch.Tensor:
        return read_image(path).to(setting.device)[None]

    def twice(*given: object) -> torch.Tensor:
        return lpips.score(*given) + lpips.score(*given)

    def one(pair: Pair) -> None:
        context = read(before / pair.item.action.image_0)
        for score, *more in (
            (psnr.score,), *((twice, net) for net in nets), (clip.score, vision),
            (egovlp.score, tower, frames), (egovlp_plus.score, context, tower, frames),
        ):  # fmt: skip
            score(read(pair.generated), read(pair.reference), *more).item()

    def work() -> None:
        for pair in pairs.pairs:
            one(pair)
        sides = []
        for paths in ([p.generated for p in pairs.pairs], [p.reference for p in pairs.pairs]):
            found = np.concatenate([fid.activations(inception, read(path)).cpu().numpy() for path in paths])
            sides.append(np.cov(found.astype(np.float64), rowvar=False))
        root = clock(lambda: sqrtm(sides[0] @ sides[1]))
        print(f"    of which scipy's matrix root, once a run: {root.seconds:.1f} s")

    return work


def ours(pairs: Pairs, few: Pairs, setting: MetricSetting, memory: Memory) -> Callable[[], object]:
    """Our way as a function that measures once; networks are loaded before, by a few of the pairs."""
    metrics = choose(METRICS, setting)
    evaluation.measure(few, metrics, setting)  # loads what it caches

    return partial(evaluation.measure, pairs, metrics, setting, memory)


def measure(options: MetricSpeed, root: Path) -> dict[str, SpeedTable]:
    """The published way, and ours in each precision: a first run, and further ones with known targets."""
    dataset, count, weights, data = options.dataset, options.pairs, root / "weights", root / "data"
    write_weights(weights, dataset)
    write_frames(data, dataset, count)
    setting, _ = evaluation.prepare(
        dataset, METRICS, None, "published", "32", options.device, DESCRIPTION_KEY, None, weights,
        options.batch,
    )  # fmt: skip
    targets = data / FOLDERS[dataset] / "val_gt_for_metric"
    pair = partial(evaluation.pair, setting, data / "run", targets, data / "val.json")
    pairs, few = pair(), pair(Shard(1, max(1, count // 2)))
    sizes = f"{count} pairs of {SIZE[0]}x{SIZE[1]}, batch {options.batch}"
    print(f"{dataset}, {sizes}, {options.machine}, torch {torch.__version__}")
    table = SpeedTable("pairs_per_second", width=33)

    def add(way: str, work: Callable[[], object], precision: str) -> None:
        with torch.no_grad(), fewer_bits(precision):  # type: ignore[arg-type]
            found = clock(work, options.device)
        rate = count / found.seconds
        table.add(
            way=way, pairs_per_second=rate, test_set_minutes=TEST_SET[dataset] / rate / 60,
            peak_memory_gib=process_gib() if found.gib is None else found.gib,
            share_of_peak=None if precision == "tf32"
            else options.share(rate * WORK[dataset], "bf16" if precision == "bf16" else "float32"),
        )  # fmt: skip

    add("published: one by one", published(pairs, setting), "32")
    for precision in ["32", "tf32", "bf16"] if options.on_gpu else ["32", "bf16"]:
        kept = Memory(reference=Store(root / f"{precision}.sqlite"))
        other, name = replace(setting, precision=precision), "" if precision == "32" else f", {precision}"
        add(f"ours, first run{name}", ours(pairs, few, other, Memory()), precision)
        again = ours(pairs, few, other, kept)
        again()  # fills it
        add(f"ours, targets known{name}", again, precision)
    with torch.no_grad():
        costs = largest_costs("measuring, a first run", ours(pairs, few, setting, Memory()), options.device)
    return {"ways": table, "costs": costs}


if __name__ == "__main__":
    run(measure, MetricSpeed, __doc__)

"""The commands that faults are done to: each at toy size, with what it reads, and where it writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

CPU_ENVIRONMENT = {"HF_HUB_OFFLINE": "1"}
# What tells of a run and not of its result: times, speeds, paths of caches, curves with times,
# when files were found whole.
OF_THE_RUN = (
    r"(^|/)(record\.json|.*\.log|events\.out\.tfevents[^/]*|timing\.jsonl?|.*record\.jsonl?)$"
    r"|(^|/)(\.shards|drawn|journals/llava_(image|text))/"
)


@dataclass(frozen=True)
class Case:
    """A command, ready to run again and again.

    Args:
        module: as for `python -m`, or a script.
        argv: its words.
        made: the folder below which all that it writes lies.
        inputs: what it reads, by kind; of each a file that is damaged.
        told: by kind, what the message about a damaged input names; else the file's name.
        skip: a pattern of paths in `made` whose content tells of the run, not of the result.
        growing: a pattern of files that others of the same name may follow: checkpoints, lists.
        journals: a pattern of files that lines are added to.
        joined: a pattern of journals of which each run has one of its own; all their lines count together.
        newest: the file whose damage a machine's crash might leave; None where that has no meaning.
        asks_to_move: whether it leaves a damaged output to the user, whose own file it may be.
        prelude: called in the process before the command.
        environment: of the process.
        worker: part of the path of a file that worker processes open; empty where there are none.
        worker_words: further words with which there are workers.
        words: a pattern of files that repeat the command's words; where there are further ones they differ.
    """

    module: str
    argv: list[str]
    made: Path
    inputs: Mapping[str, Path]
    told: Mapping[str, str] = field(default_factory=dict)
    skip: str = OF_THE_RUN
    growing: str = r"$^"
    journals: str = r"\.jsonl$"
    joined: str = r"$^"
    newest: str = ""
    asks_to_move: bool = False
    prelude: Callable[[], None] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    worker: str = ""
    worker_words: tuple[str, ...] = ()
    words: str = r"(^|/)configs/merged\.yaml$"
    asked: Callable[[], int] | None = None


Builder = Callable[[Path, ExitStack], Case]


def prepare(root: Path, stack: ExitStack) -> Case:
    """Two videos of three actions each."""
    del stack
    from tests.egogen.raw_data import Ego4D, action, make_video

    source = Ego4D(root / "ego4d")
    for name, split in (("a", "train"), ("b", "val")):
        source.add(name, split, [action(number) for number in range(3)])
        make_video(source.clips / f"clip-{name}.mp4")
    source.write()
    made = root / "made"
    return Case(
        "egogen.prepare", ["ego4d", *source.words(made / "out")], made,
        inputs={"annotations": source.annotations / "fho_main.json", "video": source.clips / "clip-a.mp4"},
        told={"video": "clip-a"},
        skip=OF_THE_RUN + r"|report\.md$", newest=r"uid-1/.*\.jpg$", worker="clip-a/uid-1",
    )  # fmt: skip


def download(root: Path, stack: ExitStack) -> Case:
    """A checkpoint and a small file from a hub on this machine."""
    import random
    from functools import partial

    from tests.egogen.fake_hub import serving

    hub = stack.enter_context(serving())
    ckpt = "ego4d_diffusion_with_vllm_feature.ckpt"
    content = random.Random(1).randbytes(100_000)
    hub.repos["model", "bolinlai/LEGO-Ego4D"] = {ckpt: content, "llava/config.json": b"{}"}
    made = root / "made"
    return Case(
        "egogen.download", ["weights", "--what", "lego-ego4d", "--dest", str(made / "out")], made,
        inputs={}, newest=r"\.ckpt$", asks_to_move=True,
        prelude=partial(talk_to, hub.url, str(root / "cache")), environment={"HF_HUB_OFFLINE": "0"},
    )  # fmt: skip


def talk_to(url: str, cache: str) -> None:
    """Has the hub's client of this process ask a server on this machine."""
    from huggingface_hub import constants

    constants.HUGGINGFACE_CO_URL_TEMPLATE = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(
        constants.ENDPOINT, url
    )
    constants.ENDPOINT, constants.HF_HUB_OFFLINE = url, False
    constants.HF_HUB_CACHE, constants.HF_TOKEN_PATH = cache, f"{cache}/token"
    constants.DOWNLOAD_CHUNK_SIZE = 10_000


def curate(root: Path, stack: ExitStack) -> Case:
    """Eight actions, described by a server on this machine."""
    import shutil

    from egogen.layout import Layout
    from egogen.toy.world import write_world
    from tests.llava.curate.conftest import command
    from tests.llava.curate.server import KEY, serve

    write_world(root / "world", train=8, val=2, size=48, seed=3, workers=1)
    shutil.rmtree(root / "world" / "EgoGen" / "curation_from_gpt")
    server, made = stack.enter_context(serve()), root / "made"
    return Case(
        "llava.curate", command(root / "world", made, server, "--concurrency", "1"), made,
        inputs={"annotations": Layout(root / "world", "ego4d").annotations("train")},
        skip=OF_THE_RUN + r"|report\.json$", newest=r"^out\.json$",
        joined=r"^cache/.*\.jsonl$", environment={"OPENAI_API_KEY": KEY}, asked=lambda: len(server.requests),
    )  # fmt: skip


def describe(root: Path, stack: ExitStack) -> Case:
    """Five actions by the tiny LLaVA of the recorded numbers."""
    del stack
    from tests.llava.describing import flags, make_split
    from tests.llava_oracle import write_published

    (root / "split").mkdir()
    split, tiny, made = make_split(root / "split"), write_published(root / "published"), root / "made"
    return Case(
        "llava.describe", flags(split, tiny, made, "--batch-size", "1"), made,
        inputs={
            "annotations": split / "ego4d_val.json", "frame": split / "frames/b_jpg/0/x.jpeg",
            "checkpoint": tiny / "pytorch_model.bin",
        },
        newest=r"image/c/0/x\.npy$",
    )  # fmt: skip


def train_stage_1(root: Path, stack: ExitStack) -> Case:
    """Six updates from six records."""
    del stack
    import numpy as np
    from PIL import Image

    from egogen.files import write_json
    from tests.llava.training import flags
    from tests.llava_oracle import write_published

    data, tiny, made = root / "data", write_published(root / "published"), root / "made"
    data.mkdir()
    rng, records = np.random.default_rng(0), []
    for index in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 70, 3), dtype=np.uint8)).save(data / f"{index}.jpg")
        turns = [
            {"from": "human", "value": f"<image>\nHow does the person cut apple {index}?"},
            {"from": "gpt", "value": f"The left hand cuts apple {index}."},
        ]
        records.append({"id": f"r{index}", "image": f"{index}.jpg", "conversations": turns})
    write_json(data / "records.json", records)
    words = flags(data, tiny, made / "out", "--num_train_epochs", "2", "--save_steps", "1")
    return Case(
        "llava.train", words, made,
        inputs={
            "annotations": data / "records.json", "frame": data / "3.jpg",
            "checkpoint": tiny / "pytorch_model.bin",
        },
        skip=OF_THE_RUN
        + r"|(train|all)_results\.json$|trainer_state\.json$|training_args\.bin$|refused-checkpoint-",
        growing=r"checkpoint-|\.safetensors$|\.pt$|\.pth$", newest=r"checkpoint-\d+/model\.safetensors$",
        worker=".jpg",
        worker_words=("--dataloader_num_workers", "1"),
    )  # fmt: skip


def train_stage_2(root: Path, stack: ExitStack) -> Case:
    """Four steps of the tiny networks."""
    del stack
    from tests.ldm.toy_run import make_run, training

    run, made = make_run(root), root / "made"
    argv = training(run, "t", *FEW, logs=made)
    return Case(
        "main.py", argv, made, inputs=inputs_of_stage_2(run.root) | {"checkpoint": run.start},
        skip=OF_TRAINING, growing=r"\.ckpt$|step_\d+\.png$", newest=r"checkpoints/last\.ckpt$",
        environment={"RUN_ROOT": str(made / "runs")}, worker=".jpg", worker_words=("data.workers=1",),
    )  # fmt: skip


FEW = (
    "trainer.save_every_steps=1", "trainer.threads=1", "trainer.images=0", "trainer.keep_last=0",
    "trainer.validate_every_epochs=100",
)  # fmt: skip
OF_TRAINING = OF_THE_RUN + r"|(^|/)tensorboard/|(^|/)abandoned-[^/]*\.ckpt$"


def inputs_of_stage_2(root: Path, split: str = "train") -> dict[str, Path]:
    """What training and drawing read: the first action's."""
    from egogen.annotations import Annotations
    from egogen.layout import Layout, feature_path, features_root

    annotations = root / f"{split}.json"
    item = next(iter(Annotations.read(annotations)))
    layout = Layout(root / "data", "ego4d")
    features = features_root(root / "features", "ego4d", split, "llava_image")  # type: ignore[arg-type]
    return {
        "annotations": annotations,
        "frame": layout.frames(split) / item.action.image_0,  # type: ignore[arg-type]
        "features": feature_path(features, item.action.image_0),
    }


def distill(root: Path, stack: ExitStack) -> Case:
    """Guidance baked into a student, in two steps."""
    del stack
    import torch

    from ldm.checkpoints.writing import published_state, write
    from ldm.networks.architecture import build
    from tests.ldm.test_distill import command
    from tests.ldm.toy_run import SHAPE, make_run

    run, made, teacher = make_run(root), root / "made", root / "lego.ckpt"
    torch.manual_seed(1)
    write(teacher, published_state(build(SHAPE), SHAPE), SHAPE, 32)
    more = ["trainer.max_steps=3", "trainer.keep_last=0", "--logdir", str(made)]
    return Case(
        "ldm.distill", command(run, "guidance", "g", teacher, *more), made,
        inputs=inputs_of_stage_2(root) | {"checkpoint": teacher}, skip=OF_TRAINING,
        growing=r"\.ckpt$", newest=r"checkpoints/last\.ckpt$",
        environment={"RUN_ROOT": str(made / "runs")}, worker=".jpg", worker_words=("data.workers=1",),
    )  # fmt: skip


def sample(root: Path, stack: ExitStack) -> Case:
    """Three frames of the validation split."""
    del stack
    from ldm.checkpoints.writing import write
    from tests.ldm.test_convert import state_of
    from tests.ldm.toy_run import SHAPE, make_run

    run, made = make_run(root), root / "made"
    write(root / "lego.ckpt", state_of(SHAPE), SHAPE, 32)
    config = root / "generate.yaml"
    config.write_text("sampling: {steps: 2, output_range: clamp}\n")
    words = ["--config", str(config), "--ckpt", str(root / "lego.ckpt"), "--out", str(made / "out")]
    return Case(
        "ldm.sample", [*words, "--batch-size", "1", *run.words()], made,
        inputs=inputs_of_stage_2(root, "val") | {"checkpoint": root / "lego.ckpt"},
        environment={"RUN_ROOT": str(made / "runs")}, newest=r"images/.*\.jpg$", worker=".jpg",
        worker_words=("data.workers=1",),
    )  # fmt: skip


def edit(root: Path, stack: ExitStack) -> Case:
    """Three photos, one after the other."""
    del stack
    import numpy as np
    from PIL import Image

    from ldm.checkpoints.writing import write
    from tests.ldm.test_convert import state_of
    from tests.ldm.test_many_photos import flags
    from tests.ldm.toy_run import SHAPE

    made, photos, rng = root / "made", root / "photos", np.random.default_rng(1)
    photos.mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(rng.integers(0, 255, (48, 90, 3), np.uint8)).save(photos / f"{name}.jpg")
    write(root / "lego.ckpt", state_of(SHAPE), SHAPE, 32)
    words = ("--input", photos, "--prompt", "open the box", "--batch-size", 1)
    return Case(
        "ldm.edit", flags(root, made / "out", *words), made,
        inputs={"frame": photos / "b.jpg", "checkpoint": root / "lego.ckpt"},
        newest=r"images/b.*\.png$", growing=r"(contact_sheet\.jpg|(manifest|items)\.json|photos\.csv)$",
        environment={"RUN_ROOT": str(made / "runs")},
    )  # fmt: skip


def evaluate(root: Path, stack: ExitStack) -> Case:
    """Four frames by two metrics, with intervals and a row a frame."""
    del stack
    import shutil

    from tests.ldm.evaluation.conftest import make_scene

    scene, made = make_scene(root), root / "made"
    shutil.rmtree(made, ignore_errors=True)
    return Case(
        "ldm.evaluate", scene.flags("--per-sample", str(scene.run / "metric" / "rows.parquet")),
        scene.run / "metric",
        inputs={"annotations": scene.annotations, "frame": scene.generated(1)},
        told={"frame": "000002"}, newest=r"metric\.json$", journals=r"$^",
        environment={"RUN_ROOT": str(root / "runs")},
    )  # fmt: skip


def page(root: Path, stack: ExitStack) -> Case:
    """The page, and somebody who asks it for two frames and keeps them."""
    del stack
    from ldm.checkpoints.writing import write
    from tests.ldm.test_convert import state_of
    from tests.ldm.toy_run import SHAPE

    write(root / "lego.ckpt", state_of(SHAPE), SHAPE, 32)
    return Case(
        str(Path(__file__).with_name("page_and_person.py")), [str(root / "lego.ckpt"), str(root / "made")],
        root / "made", inputs={"checkpoint": root / "lego.ckpt"}, newest=r"^kept/frame_5",
        environment={"RUN_ROOT": str(root / "runs")},
    )  # fmt: skip


STAGE_1: dict[str, Builder] = {
    "prepare": prepare,
    "download": download,
    "curate": curate,
    "describe": describe,
    "train, stage 1": train_stage_1,
}
STAGE_2: dict[str, Builder] = {
    "train, stage 2": train_stage_2,
    "distill": distill,
    "sample": sample,
    "edit": edit,
    "evaluate": evaluate,
    "page": page,
}
COMMANDS = {**STAGE_1, **STAGE_2}
HERE = tuple(STAGE_1 if find_spec("deepspeed") else STAGE_2)  # what this environment can run


@contextmanager
def ready(command: str, root: Path) -> Iterator[Case]:
    """A command with all that it needs while the block runs."""
    with ExitStack() as stack:
        yield COMMANDS[command](root, stack)


def matches(pattern: str, name: str) -> bool:
    """Whether a path within `made` is one of a pattern's."""
    return re.search(pattern, name) is not None

"""Asks stage 1, a process in its own environment, how actions are done in photos. Before `ldm.edit` draws."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from egogen.annotations import check_object
from egogen.errors import UserError
from egogen.files import read_json, remove_folder, write_json
from egogen.layout import feature_path
from egogen.seeds import item_seed
from ldm.sampling.edit_options import DrawingOptions

# What noise and texts of any photo are keyed by: drawn alone or with others, it is the same frame.
CLIP, ACTION = "photo", "0"
ACTIONS, GIVEN, SEEDS, TEXTS = "actions.json", "given.json", "seeds.json", "texts"


class Question(NamedTuple):
    """A photo and an action; `name` tells it from others; a given description is followed, not written."""

    name: str
    photo: Path
    action: str
    seed: int
    description: str | None = None


class Answer(NamedTuple):
    """A description, and the files of its features."""

    text: str
    image_feature: Path
    text_feature: Path


def ask(options: DrawingOptions, folder: Path, questions: Sequence[Question]) -> dict[str, Answer]:
    """Has stage 1 describe photos in one run, or follow given texts, of which all have one or none has.

    Args:
        options: which stage 1.
        folder: where it works; a run that was ended goes on there.
        questions: at least one.

    Returns:
        Answers by the questions' names.

    Raises:
        UserError: stage 1 fails.
    """
    begin(folder, questions)
    follows = questions[0].description is not None
    # EPIC's labels go into the question as they are.
    command = [
        str(options.vllm_python), "-m", "llava.describe", "--model-path", str(options.vllm),
        "--image-dir", str(folder), "--action-label", str(folder / ACTIONS), "--dataset", "epickitchen",
        "--save-path", str(folder / TEXTS), "--save-image-feature-path", str(folder / "image"),
        "--save-text-feature-path", str(folder / "text"), "--seed", str(options.seed),
    ]  # fmt: skip
    if follows:
        command += ["--texts", str(folder / GIVEN)]
    elif [each.name for each in questions] != [CLIP]:
        command += ["--seeds", str(folder / SEEDS)]
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL)  # noqa: S603 - our own command
    if done.returncode:
        raise UserError(f"--vllm {options.vllm}: stage 1 ended with code {done.returncode}; see above")
    texts = [*(folder / TEXTS).glob("chunk_*.json")]
    if len(texts) != 1:
        raise UserError(
            f"--vllm-python {options.vllm_python}: ended well and wrote no description; expected "
            "stage 1's Python, such as .venvs/vllm/bin/python"
        )
    written = read_json(texts[0])
    return {
        each.name: Answer(
            written[each.name][ACTION]["description"],
            feature_path(folder / "image", frame_of(each)),
            feature_path(folder / "text", frame_of(each)),
        )
        for each in questions
    }


def begin(folder: Path, questions: Sequence[Question]) -> None:
    """Writes what stage 1 reads; a folder with these questions, and others perhaps, stays as it is."""
    actions = {
        each.name: {ACTION: {"image_0": frame_of(each), "image_1": frame_of(each), "action": each.action}}
        for each in questions
    }
    given = {each.name: {ACTION: each.description} for each in questions}
    seeds = {each.name: {ACTION: item_seed(each.seed, CLIP, ACTION)} for each in questions}
    asked: dict[str, Mapping[str, object]] = {GIVEN: given, SEEDS: seeds, ACTIONS: actions}
    photos = {folder / frame_of(each): each.photo.absolute() for each in questions}
    if all(holds(folder / name, wanted) for name, wanted in asked.items()) and all(
        link.is_symlink() and link.readlink() == photo for link, photo in photos.items()
    ):
        return
    remove_folder(folder)
    folder.mkdir(parents=True)
    for link, photo in photos.items():
        link.symlink_to(photo)
    for name, wanted in asked.items():
        write_json(folder / name, wanted)


def holds(path: Path, wanted: Mapping[str, object]) -> bool:
    """Whether a JSON file has these entries, and others perhaps."""
    there = read_json(path) if path.exists() else {}
    return all(name in there and there[name] == value for name, value in wanted.items())


def frame_of(question: Question) -> str:
    """The name under which stage 1 finds the photo, whatever its format."""
    return f"{question.name}.png"


def check_vllm(options: DrawingOptions, folder: Path, width: int | None) -> None:
    """Checks before stage 1 is started that it can be, and that its features fit the checkpoint.

    Raises:
        UserError: its Python or the folder is not there, or the features are of another width.
    """
    if not options.vllm_python.exists():
        raise UserError(
            f"--vllm-python {options.vllm_python}: not found; run bash scripts/setup.sh vllm, or name the "
            "Python of stage 1's environment"
        )
    if not folder.is_dir():
        what = "is a file, expected a folder" if folder.exists() else "no such folder"
        raise UserError(f"--vllm {folder}: {what}; name the VLLM that llava.train wrote")
    found = vllm_width(folder)
    if found not in (None, width):
        raise UserError(
            f"--vllm {folder}: its features are {found} wide, {options.ckpt} takes {width}; give the VLLM "
            "whose features the checkpoint was trained on"
        )


def vllm_width(folder: Path) -> int | None:
    """Width of a VLLM's features by its settings, or by those of its adapters' base; None if they do not say.

    Raises:
        UserError: the settings cannot be read.
    """
    adapters = folder / "adapter_config.json"
    if adapters.is_file():
        base = check_object(read_json(adapters), f"{adapters}", "settings").get("base_model_name_or_path")
        folder = Path(f"{base}")
    path = folder / "config.json"
    if not path.is_file():  # stage 1 says what is wrong with the folder
        return None
    settings = check_object(read_json(path), f"{path}", "settings")
    text = settings.get("text_config", settings)  # Hugging Face's form nests it
    width = text.get("hidden_size") if isinstance(text, dict) else None
    return width if isinstance(width, int) else None

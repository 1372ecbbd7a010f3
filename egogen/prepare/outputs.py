"""What a run writes for people and programs: annotations, metadata, and a manifest with every decision."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from egogen.annotations import check_object
from egogen.files import atomic_open, read_json, write_json
from egogen.json_stream import member, write_members
from egogen.layout import Layout, Split
from egogen.prepare.pair_plan import ActionPair, ClipFacts, ClipSize, PairPlan

MANIFEST = "manifest.jsonl"
OTHER_SIZE = "another size than its clip's"


def write_outputs(
    plan: PairPlan,
    layout: Layout,
    splits: Sequence[Split],
    known: Mapping[str, ClipSize],
    folder: Path,
) -> None:
    """Writes metadata, annotations and manifest; leaves out pairs whose size is not that of their clip.

    The metadata of other splits stay; `known` are sizes and rates that are known better than from frames.
    """
    clips = clip_facts(plan, known)
    if layout.metadata.exists():
        clips = check_object(read_json(layout.metadata), f"{layout.metadata}", "clips by clip_id") | clips
    write_json(layout.metadata, dict(sorted(clips.items())), indent=None)  # whatever came first
    kept: dict[Split, dict[str, dict[str, ActionPair]]] = {split: {} for split in splits}
    for pair in plan.kept():
        assert pair.split is not None
        kept[pair.split].setdefault(pair.clip, {})[pair.id] = pair
    for split, pairs in kept.items():
        members = (member(clip, {key: entry(its) for key, its in own.items()}) for clip, own in pairs.items())
        write_members(layout.annotations(split), members)
    with atomic_open(folder / MANIFEST) as file:
        for pair in plan.pairs:
            file.write(json.dumps(manifest_row(pair)).encode() + b"\n")


def entry(pair: ActionPair) -> dict[str, object]:
    """An action as the annotation file has it."""
    image_0, image_1 = pair.images
    return {"image_0": image_0, "image_1": image_1, "action": pair.text, **pair.extra}


def clip_facts(plan: PairPlan, known: Mapping[str, ClipSize]) -> dict[str, ClipFacts]:
    """Metadata by clip: size and rate of its video; below `actions`, what each action's frames show."""
    clips: dict[str, ClipFacts] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for pair in plan.kept():
        assert pair.row is not None
        size = pair.row["width"], pair.row["height"]
        if sizes.setdefault(pair.clip, size) != size:
            pair.reason = OTHER_SIZE
            continue
        own: ClipSize = {"height": size[1], "width": size[0]}
        if pair.row["fps"] is not None:
            own["fps"] = pair.row["fps"]
        clip = clips.setdefault(pair.clip, {**(known.get(pair.clip) or own), "actions": {}})
        clip["actions"][pair.id] = {
            name: to_size(value, pair.box_size, (clip["width"], clip["height"]))
            for name, value in pair.facts.items()
        }
    return clips


def to_size(value: object, old: tuple[int, int] | None, new: tuple[int, int]) -> object:
    """A box in pixels of another size of the same picture; other facts as they are."""
    if old is None or not isinstance(value, dict):
        return value
    across, down = new[0] / old[0], new[1] / old[1]
    scales = {"x": across, "y": down, "width": across, "height": down}
    return {name: round(value[name] * scale, 2) for name, scale in scales.items()}


def manifest_row(pair: ActionPair) -> dict[str, object]:
    """All that was decided about an action."""
    row: dict[str, object] = {
        "clip": pair.clip,
        "id": pair.id,
        "split": pair.split,
        "action": pair.text,
        "kept": pair.reason is None,
        "reason": pair.reason,
        **pair.scores,
    }
    for slot, path in enumerate(pair.files):
        row[f"source_{slot}"] = str(path)
    if pair.row is not None:
        for slot, (image, frame) in enumerate(zip(pair.images, pair.row["frames"], strict=True)):
            row[f"image_{slot}"] = image
            row |= {f"{name}_{slot}": value for name, value in frame.items()}
    return row

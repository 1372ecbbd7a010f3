"""Seeds that are given: the same draws as those of any run that makes them itself; faults named."""

from __future__ import annotations

from pathlib import Path

import pytest

from egogen.errors import UserError
from egogen.files import read_json, write_json
from egogen.seeds import item_seed
from llava.describe import main
from llava.describing.given_seeds import read_seeds
from tests.llava.test_given_texts import ITEMS, flags


def seeds(run_seed: int) -> dict[str, dict[str, int]]:
    made: dict[str, dict[str, int]] = {}
    for item in ITEMS:
        made.setdefault(item.clip, {})[item.id] = item_seed(run_seed, item.clip, item.id)
    return made


def test_given_seeds_are_those_of_the_draws(tiny: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "seeds.json", seeds(7))
    short = ("--max-new-tokens", "6", "--temperature", "2")
    runs = {"own": ["--seed", "7"], "given": ["--seeds", str(tmp_path / "seeds.json")], "other": []}
    texts = {}
    for name, how in runs.items():
        main(flags(tiny, tmp_path / name, *short, *how))
        texts[name] = read_json(tmp_path / name / "texts/chunk_1_of_1.json")
    assert texts["given"] == texts["own"]
    assert texts["other"] != texts["own"]
    write_json(tmp_path / "seeds.json", seeds(8))
    with pytest.raises(UserError, match="given_seeds of another content"):
        main(flags(tiny, tmp_path / "given", *short, *runs["given"]))


@pytest.mark.parametrize("bad", [None, -1, 2**63, True, 1.0, "1"])
def test_a_seed_that_is_none_is_named(tmp_path: Path, bad: object) -> None:
    made: dict[str, dict[str, object]] = {**seeds(0)}
    first = ITEMS[0]
    made[first.clip] = {**made[first.clip], first.id: bad}
    write_json(tmp_path / "seeds.json", made)
    with pytest.raises(UserError, match=f"{first.clip}.*{first.id}.*: the seed is .*expected a whole number"):
        read_seeds(tmp_path / "seeds.json", ITEMS)

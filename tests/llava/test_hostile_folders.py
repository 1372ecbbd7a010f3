"""Hostile LLaVA folders: nothing in them is run, and what would never end is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from egogen.errors import UserError
from llava.model import load

MARKED = "import pathlib; pathlib.Path(__file__).with_name('ran').touch()\n"


def change(path: Path, **settings: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize("layers", [10**9, 0, -1, True, "2", 10**400, [2]])
def test_layers_without_end(layers: object, own_tiny: Path) -> None:
    change(own_tiny / "config.json", num_hidden_layers=layers)
    with pytest.raises(UserError, match=r"config\.json: num_hidden_layers: got .*, allowed: 1 to 200$"):
        load(own_tiny)


def test_code_beside_the_weights_is_never_run(own_tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `trust_remote_code` would: `auto_map` in settings of the model, its tokenizer and its CLIP."""
    auto = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"), "evil.Evil")
    monkeypatch.chdir(own_tiny)
    for path in own_tiny.parent.rglob("*config.json"):
        change(path, auto_map=auto, trust_remote_code=True)
        (path.parent / "evil.py").write_text(MARKED)
    load(own_tiny)
    assert not list(own_tiny.parent.rglob("ran"))

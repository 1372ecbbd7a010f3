"""Tables of photos and actions for `ldm.edit` that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from egogen.errors import UserError
from ldm.sampling.photo_list import read_wishes
from tests.ldm.test_many_photos import options


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("photo,label\na.png,x\n", "its columns are 'photo', 'label'; allowed are 'photo', 'action', 'desc"),
        ("photo,action,sed\na.png,x,1\n", "its columns are 'photo', 'action', 'sed'"),
        ("photo,action\n", "no photos here to draw"),
        ("photo,action,description\na.png,x,y\n", "column 'description': its features are made by --vllm"),
        ("photo,action\na.png,x,y\n", "line 2 has more fields"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, text: str, said: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    table = tmp_path / "pairs.csv"
    table.write_text(text)
    with pytest.raises(UserError, match=said):
        read_wishes(options(f"{table}"))

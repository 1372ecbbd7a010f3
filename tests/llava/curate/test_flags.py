from __future__ import annotations

import pytest

from egogen import cli
from llava.curate.flags import CurationOptions


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "m", "--local", "x"], "not allowed with argument"),
        (["--dataset", "ego4d"], "one of the arguments --model --local is required"),
        (["--model", "m", "--max-cost", "1"], "--max-cost: needs --price-in and --price-out"),
        (["--model", "m", "--price-in", "1"], "give both or neither"),
        (["--model", "m", "--price-in", "nan"], "found 'nan', expected a number of at least 0"),
        (["--model", "m", "--limit", "ten"], "found 'ten', expected a whole number of at least 1"),
        (["--model", "m", "--limit", "0"], "found '0', expected a whole number of at least 1"),
        (["--model", "m", "--requests-per-minute", "0"], "expected a number above 0"),
        (["--model", "m", "--base-url", "localhost:8000"], "expected such as http://localhost:8000/v1"),
        (["--model", "m", "--base-url", "http://a:99999/v1"], "expected such as http://localhost:8000/v1"),
        (["--model", "m", "--base-url", "http://u:p@h/v1"], "a key goes into OPENAI_API_KEY"),
        (["--model", "m", "--split", "val"], "EgoGen has no place for its conversations; add --out"),
        (["--local", "x", "--images"], "--images: is for endpoints"),
        (["--local", "x", "--tokens-per-minute", "5"], "--tokens-per-minute: is for endpoints"),
        (["--model", "m", "--dataset", "kitchen"], "invalid choice: 'kitchen'"),
        (["--model", "m", "--api-key", "k"], "unrecognized arguments: --api-key"),
    ],
)
def test_flags_that_make_no_sense(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.options(CurationOptions, ["--dataset", "ego4d", *flags], "curate", None)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_a_broken_address_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "nonsense")
    with pytest.raises(SystemExit):
        cli.options(CurationOptions, ["--dataset", "ego4d", "--model", "m"], "curate", None)
    assert "expected such as http://localhost:8000/v1" in capsys.readouterr().err

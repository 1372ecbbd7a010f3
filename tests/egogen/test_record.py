import subprocess
from pathlib import Path

import pytest

from egogen import record
from egogen.record import git_state, run_record


def test_a_record_names_versions_command_and_commit() -> None:
    made = run_record(["pydantic", "no-such-package"])
    assert made["versions"]["pydantic"][0].isdigit()
    assert made["versions"]["no-such-package"] is None
    assert made["command"]
    assert made["python"].startswith("3.")


def test_the_state_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "ROOT", tmp_path)
    assert git_state() is None

    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True
        )

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    state = git_state()
    assert state is not None
    assert len(state["commit"]) == 40
    assert state["changed"] is False
    (tmp_path / "new").touch()
    state = git_state()
    assert state is not None
    assert state["changed"] is True
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(record, "ROOT", tmp_path / "site-packages")  # installed in somebody's repository
    assert git_state() is None

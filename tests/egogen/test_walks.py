"""Walks through folders follow links, come to an end, and name what they cannot list."""

import os
from pathlib import Path

import pytest

from egogen.errors import UserError
from egogen.walks import is_hidden, shown, walk, walk_files


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder whose content lies elsewhere, behind links to folders and to a file, with two loops."""
    for name in ("disk/b/2.npy", "disk/b/deep/1.npy", "disk/c/3.txt", "root/a/9.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    root = tmp_path / "root"
    (root / "b").symlink_to(tmp_path / "disk/b")
    (root / "b again").symlink_to("b")
    (root / "c.npy").symlink_to("a/9.npy")
    (tmp_path / "disk/b/up").symlink_to(root)
    (root / "a/here").symlink_to(".")
    (root / "a/.#lock").symlink_to("nobody@nowhere")
    os.mkfifo(root / "pipe.npy")
    return root


def test_a_walk_follows_links_and_comes_to_an_end(linked: Path) -> None:
    below_b = ["2.npy", "deep/1.npy"]
    found = [path.relative_to(linked).as_posix() for path in walk_files(linked, "*.npy")]
    assert found == ["a/9.npy", *(f"{b}/{name}" for b in ("b", "b again") for name in below_b), "c.npy"]
    assert walk_files(linked) == walk_files(linked, "*.npy")
    assert not walk_files(linked / "absent")


def test_hidden_names_fit_no_pattern(tmp_path: Path) -> None:
    """As shells read `*`: on disks of other systems macOS puts a `._x.npy`, which is none, beside each."""
    for name in ("x.npy", "._x.npy", ".clip/y.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert walk_files(tmp_path, "*.npy") == [tmp_path / ".clip/y.npy", tmp_path / "x.npy"]
    assert len(walk_files(tmp_path)) == 3
    assert shown(tmp_path.iterdir()) == [tmp_path / "x.npy"]
    assert [is_hidden(name) for name in ("a/x", ".a/x", "a/.x", "a.b/x.c")] == [False, True, True, False]


def test_a_walk_may_be_cut(linked: Path) -> None:
    seen = []
    for here in walk(linked):
        seen.append(here.folder.name)
        here.folders[:] = [name for name in here.folders if name != "b"]
    assert "b" not in seen
    assert "deep" in seen, "by its other name"


@pytest.mark.parametrize("target", ["gone", "clip", "x/y"])
def test_a_link_to_nothing_is_named(tmp_path: Path, target: str) -> None:
    (tmp_path / "clip").symlink_to(target)  # one of them leads to itself
    with pytest.raises(UserError, match=f"clip: is a link to {target}, which is not there"):
        walk_files(tmp_path, "*.npy")


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shut").mkdir()
    real = os.scandir

    def closed(path: Path) -> object:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UserError, match=r"shut: cannot be listed \(Permission denied\)"):
        walk_files(tmp_path)

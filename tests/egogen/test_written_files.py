"""What becomes of a file's name: never that of a device, and readable as files of the machine are."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from egogen.errors import UserError
from egogen.files import atomic_folder, atomic_open


def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    """As root, a rename onto /dev/null would leave a file in its place for the whole machine."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    for path, kind in ((pipe, "a named pipe"), (link, "a device"), (Path("/dev/null"), "a device")):
        with pytest.raises(UserError, match=f"{path}: is {kind}; expected a file"), atomic_open(path):
            pytest.fail("it is opened")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert link.is_symlink()


def test_what_a_library_writes_for_its_owner_alone_is_for_all(tmp_path: Path) -> None:
    """As files made in the usual way are, by the umask."""
    (tmp_path / "usual").touch()
    usual = stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    with atomic_open(tmp_path / "file") as file:
        secret = Path(file.name).with_name("library")
        secret.touch(0o600)
        secret.replace(file.name)
    with atomic_folder(tmp_path / "folder") as part:
        (part / "inner").mkdir()
        (part / "inner" / "file").touch(0o600)
    for path in (tmp_path / "file", tmp_path / "folder" / "inner" / "file"):
        assert stat.S_IMODE(path.stat().st_mode) == usual

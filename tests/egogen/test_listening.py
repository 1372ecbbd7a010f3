"""Where a page cannot listen, the line says whether its address or its port is at fault."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from egogen.listening import FAULTS, cannot_listen


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)), "choose another --port"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES)), "ports below 1024 are the system's"),
        (OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL)), "--host is an address of this"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "--host is an address of this"),
        (UnicodeError("label too long"), r"\(no name of a machine\); --host is an address of this"),
        (OverflowError("bind(): port must be 0-65535."), "choose another --port"),
    ],
)
def test_what_is_at_fault_is_said(error: Exception, told: str) -> None:
    assert isinstance(error, FAULTS)
    with pytest.raises(ValueError, match=f"--host h --port 80: cannot be listened on .*{told}"):
        raise cannot_listen("h", 80, error)


def test_names_that_are_none_are_faults_that_sockets_raise() -> None:
    for host in ("a..b", "x" * 300, "nowhere.invalid"):
        with pytest.raises(FAULTS):
            socket.create_server((host, 0))

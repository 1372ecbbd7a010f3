"""What to tell where a page cannot listen: whether its address or its port is at fault, and what to do."""

from __future__ import annotations

import errno

from egogen.errors import UserError, reason

OTHER_PORT = "choose another --port, or 0 for any that is free"
OWN_ADDRESS = "--host is an address of this machine: 127.0.0.1 for it alone, 0.0.0.0 for the network too"
OF_SYSTEM = "ports below 1024 are the system's; choose a higher --port"
BY_NUMBER = {
    errno.EACCES: OF_SYSTEM,
    errno.EADDRINUSE: OTHER_PORT,
    errno.EADDRNOTAVAIL: OWN_ADDRESS,
    errno.EAFNOSUPPORT: OWN_ADDRESS,
}
# What `socket` raises; of a name that is none, that it cannot be encoded.
FAULTS = (OSError, OverflowError, UnicodeError)


def cannot_listen(host: str, port: int, error: Exception) -> UserError:
    """Makes one line of what a socket raises (`FAULTS`): names that cannot be found are the address's too."""
    number = error.errno if isinstance(error, OSError) else None
    unknown = OTHER_PORT if isinstance(error, OverflowError) else OWN_ADDRESS
    why = "no name of a machine" if isinstance(error, UnicodeError) else reason(error)
    advice = BY_NUMBER.get(number or 0, unknown)
    return UserError(f"--host {host} --port {port}: cannot be listened on ({why}); {advice}")

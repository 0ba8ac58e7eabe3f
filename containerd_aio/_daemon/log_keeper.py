"""Keep the log of a detached daemon from growing for ever, when nobody reads it.

A small process of its own, run as a script with ``python -I -S``: standard library only, and nothing here may import from
the package. It ends with the daemon. The beginning of the log is given back to the file system and the end of it kept; the
file is not made shorter or replaced, as the daemon goes on writing to it and others may be reading it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import sys

#: Bytes of the log that are kept.
KEPT = 8 << 20
#: So many bytes more may be there before they are given back.
SLACK = 8 << 20
#: Seconds between looks.
INTERVAL = 5.0

_PUNCH_HOLE_AND_KEEP_SIZE = 0x3
_BLOCK = 4096


def trim(path: str, *, kept: int = KEPT, slack: int = SLACK) -> bool:
    """Give the beginning of a log back to the file system if it is long.

    Args:
        path: The log.
        kept: Bytes at its end that are kept.
        slack: So many bytes more it may have.

    Returns:
        Whether anything was given back.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        info = os.fstat(fd)
        end = (info.st_size - kept) // _BLOCK * _BLOCK
        if end <= 0 or info.st_blocks * 512 <= kept + slack:
            return False
        libc = ctypes.CDLL(None, use_errno=True)
        given = libc.fallocate(fd, _PUNCH_HOLE_AND_KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(end))
        if given != 0:  # a file system without holes: better an empty log than a full disk
            os.ftruncate(fd, 0)
        return True
    finally:
        os.close(fd)


def keep(path: str, pid: int, *, interval: float = INTERVAL) -> None:
    """Look after a log until a process has ended."""
    try:
        daemon = os.pidfd_open(pid)
    except OSError:
        return
    poll = select.poll()
    poll.register(daemon, select.POLLIN)
    while not poll.poll(interval * 1000):
        trim(path)


def main(path: str, pid: int) -> None:
    """Leave our parent, which need not wait for us, and look after the log."""
    if os.fork():
        os._exit(0)
    with contextlib.suppress(OSError):
        os.chdir("/")
    keep(path, pid)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

"""The terminal of our user: raw mode that is always undone, and its size.

Nothing here changes the descriptor's flags: a terminal left non-blocking breaks the shell that started us.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import termios
import threading
import tty
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import anyio

from containerd_aio._log import get_logger
from containerd_aio.errors import InvalidArgument

__all__ = ["WindowSize", "check_terminal", "raw_mode", "window_size", "window_sizes"]

_log = get_logger(__name__)


class WindowSize(NamedTuple):
    """Size of a terminal in character cells.

    Attributes:
        width: Columns.
        height: Rows.
    """

    width: int
    height: int


def check_terminal(fd: int) -> None:
    """Refuse a descriptor that is no terminal.

    Raises:
        InvalidArgument: It is closed, or something else.
    """
    if not os.isatty(fd):
        raise InvalidArgument(f"descriptor {fd} is not a terminal: run from one, or use stdio.inherit()")


def window_size(fd: int) -> WindowSize:
    """Ask a terminal for its size.

    Args:
        fd: A descriptor of the terminal.

    Raises:
        OSError: It is no terminal, or it was hung up.
    """
    try:
        height, width = termios.tcgetwinsize(fd)
    except termios.error as exc:
        raise OSError(*exc.args) from exc
    return WindowSize(width=width, height=height)


@contextlib.contextmanager
def raw_mode(fd: int) -> Iterator[None]:
    """Put a terminal in raw mode, and back to what it was when the block is left, however it is left.

    Also undone when the interpreter exits inside the block. Only a signal that kills Python outright can't be
    caught: let SIGTERM cancel your program if you use this.

    Args:
        fd: A descriptor of the terminal.

    Raises:
        InvalidArgument: `fd` is no terminal.
    """
    check_terminal(fd)
    before = termios.tcgetattr(fd)

    def restore() -> None:
        # A terminal that was hung up meanwhile has nothing to restore. TCSANOW: draining would block if it is stopped.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSANOW, before)

    atexit.register(restore)
    try:
        tty.setraw(fd, termios.TCSANOW)
        yield
    finally:
        restore()
        atexit.unregister(restore)


@contextlib.contextmanager
def window_sizes(fd: int) -> Iterator[AsyncIterator[WindowSize]]:
    """Follow the size of a terminal.

    The iterator yields the size at once, then each new one (SIGWINCH). A size of zero, which a terminal reports
    that was never given one, is left out. Signals reach only an event loop in the main thread; elsewhere the size
    is yielded once.

    Args:
        fd: A descriptor of the terminal.
    """
    if threading.current_thread() is not threading.main_thread():
        _log.warning("window size is not followed: signals need the event loop in the main thread")
        yield _sizes(fd, None)
        return
    previous = signal.getsignal(signal.SIGWINCH)
    try:
        with anyio.open_signal_receiver(signal.SIGWINCH) as signals:
            yield _sizes(fd, signals)
    finally:
        # asyncio leaves the default in place; another library (a pager, a prompt) may have had its own.
        if previous is not None:
            signal.signal(signal.SIGWINCH, previous)


async def _sizes(fd: int, signals: AsyncIterator[signal.Signals] | None) -> AsyncIterator[WindowSize]:
    last = WindowSize(0, 0)
    while True:
        size = window_size(fd)
        if size != last and 0 not in size:
            yield size
        last = size
        if signals is None:
            return
        await anext(signals)

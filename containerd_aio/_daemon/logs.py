"""The daemon's log: a file that it writes and we follow.

A file and not a pipe: the daemon must never wait for a reader, and must outlive one.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import os
import re
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from containerd_aio._log import Logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_PAIR = re.compile(r'([^\s="]+)=("(?:[^"\\]|\\.)*"|[^\s"]*)(?:\s+|$)')
# logrus' levels -> structlog's
_LEVELS = {
    "trace": "debug",
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "warn": "warning",
    "error": "error",
    "fatal": "critical",
    "panic": "critical",
}
_ORDER = ("debug", "info", "warning", "error", "critical")
_CHUNK = 1 << 16
_SHOWN_LINES = 8
# Once read, the beginning of the file is given back to the file system in steps of this size.
_RECLAIM = 4 << 20
_IN_MODIFY = 0x2
_KEEP_SIZE_AND_PUNCH_HOLE = 0x3


@dataclass(frozen=True, slots=True)
class Line:
    """One line of containerd's log.

    Attributes:
        level: The structlog method for it: ``debug`` ... ``critical``.
        message: The message, or the whole line when it has no fields (a Go stack trace, for example).
        fields: Every other field.
    """

    level: str
    message: str
    fields: Mapping[str, str] = field(default_factory=dict)


def parse(text: str) -> Line:
    """Read one line as logrus writes it: ``time="..." level=info msg="..." key=value``."""
    fields: dict[str, str] = {}
    position = 0
    while match := _PAIR.match(text, position):
        fields[match[1]] = _unquote(match[2])
        position = match.end()
    if position != len(text) or "msg" not in fields or "level" not in fields:
        serious = text.startswith(("panic:", "fatal error:", "containerd:"))
        return Line("error" if serious else "warning", text)
    level = _LEVELS.get(fields.pop("level"), "warning")
    return Line(level, fields.pop("msg"), fields)


def blame(lines: Sequence[str]) -> str:
    """Say why a daemon ended, going by its last error; empty when the log names none."""
    for text in reversed(lines):
        line = parse(text)
        if line.level in {"error", "critical"}:
            error = line.fields.get("error")
            return f"{line.message}: {error}" if error else line.message.removeprefix("containerd: ")
    return ""


def last_words(lines: Iterable[str]) -> str:
    """Return what a daemon logged last, for an error message, with the cause in front if the log names one."""
    shown = list(lines)[-_SHOWN_LINES:]
    if not shown:
        return "; it logged nothing"
    cause = blame(shown)
    return "".join(
        [f": {cause}" if cause else "", "\nThe end of its log:", *(f"\n  {line}" for line in shown)]
    )


def _unquote(text: str) -> str:
    if not text.startswith('"'):
        return text
    if "\\" not in text:
        return text[1:-1]
    try:
        # Go's %q and Python share every escape that it can produce.
        return str(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return text[1:-1]


def emit(line: Line, logger: Logger) -> None:
    """Hand a line on to structlog. Fields that structlog or its processors use themselves get a prefix."""
    fields = {
        (f"containerd_{key}" if key in {"event", "time", "timestamp", "logger", "exc_info"} else key): value
        for key, value in line.fields.items()
    }
    getattr(logger, line.level)(line.message, **fields)


class Follower:
    """Follows a log file, from its present end on, and hands on every line.

    Args:
        path: The file, made if need be.
        logger: Where lines go.
        level: containerd's level below which lines are left out: shims log on their own terms.
    """

    def __init__(self, path: str, logger: Logger, *, level: str = "trace") -> None:
        self._left_out = _ORDER[: _ORDER.index(_LEVELS[level])]
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._offset = self._reclaimed = os.lseek(self._fd, 0, os.SEEK_END)
        self._draining = anyio.Lock()
        self._partial = b""
        self._logger = logger
        self._path = path
        #: The last lines, for error messages.
        self.recent: deque[str] = deque(maxlen=20)

    async def run(self) -> None:
        """Follow until cancelled; then hand on what is there by that time and close the file."""
        try:
            await self._follow()
        finally:
            with anyio.CancelScope(shield=True):
                await self.drain()
            os.close(self._fd)

    async def _follow(self) -> None:
        try:
            watch = _watch(self._path)
        except OSError as error:  # the user's limit of inotify instances
            self._logger.warning("containerd's log is not followed", error=str(error))
            return
        try:
            while True:
                await self.drain()
                await anyio.wait_readable(watch)
                os.read(watch, _CHUNK)
        finally:
            anyio.notify_closing(watch)
            os.close(watch)

    async def drain(self) -> None:
        """Hand on everything written so far."""
        async with self._draining:
            while data := await anyio.to_thread.run_sync(self._read):
                *lines, self._partial = (self._partial + data).split(b"\n")
                for raw in lines:
                    text = raw.decode(errors="replace")
                    self.recent.append(text)
                    # a broken processor of the application must not end the daemon it logs for
                    with contextlib.suppress(Exception):
                        line = parse(text)
                        if line.level not in self._left_out:
                            emit(line, self._logger)

    def _read(self) -> bytes:
        data = os.pread(self._fd, _CHUNK, self._offset)
        if not data and self._offset > os.fstat(self._fd).st_size:
            self._offset = self._reclaimed = 0  # truncated: somebody rotates it
            return os.pread(self._fd, _CHUNK, 0)
        self._offset += len(data)
        if self._offset - self._reclaimed >= _RECLAIM:
            # Not all file systems can; the file is then as long as it is.
            offset, length = ctypes.c_long(self._reclaimed), ctypes.c_long(self._offset - self._reclaimed)
            ctypes.CDLL(None).fallocate(self._fd, _KEEP_SIZE_AND_PUNCH_HOLE, offset, length)
            self._reclaimed = self._offset
        return data


def _watch(path: str) -> int:
    """An inotify descriptor that becomes readable when a file is written to."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0 or libc.inotify_add_watch(fd, os.fsencode(path), _IN_MODIFY) < 0:
        error = ctypes.get_errno()
        if fd >= 0:
            os.close(fd)
        raise OSError(error, f"inotify: {os.strerror(error)}", path)
    return fd

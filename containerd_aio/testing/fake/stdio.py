"""The shim's side of a process's standard streams: FIFOs and files, without ever blocking the loop."""

from __future__ import annotations

import asyncio
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from grpclib.const import Status

from containerd_aio.testing.fake.call import refuse_plainly


@dataclass(frozen=True, slots=True)
class StreamPaths:
    """The standard streams that a request names: paths of FIFOs, ``file://`` URIs, or empty."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


class ShimIO:
    """Open standard streams of one process.

    Args:
        paths: What the request names.

    Raises:
        GRPCError: A path can't be opened; the text is the shim's.
    """

    def __init__(self, paths: StreamPaths) -> None:
        self._open: list[int] = []
        self._stdin_writer: int | None = None
        try:
            self._stdout = self._output(paths.stdout)
            self._stderr = self._stdout if paths.terminal else self._output(paths.stderr)
            self._stdin = self._input(paths.stdin)
        except BaseException:
            self.close()
            raise

    def _keep(self, descriptor: int) -> int:
        self._open.append(descriptor)
        return descriptor

    def _output(self, uri: str) -> int | None:
        if not uri:
            return None
        parts = urlsplit(uri)
        if parts.scheme == "file":
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            return self._keep(os.open(unquote(parts.path), flags, 0o644))
        if parts.scheme not in {"", "fifo"}:
            raise _failure(f"failed to create init process I/O: unknown STDIO scheme {parts.scheme}")
        return self._keep(_open_fifo(parts.path, os.O_RDWR))

    def _input(self, path: str) -> int | None:
        if not path:
            return None
        reader = self._keep(_open_fifo(path, os.O_RDONLY))
        # As the shim: while it has a writer of its own, the process sees no end, until CloseIO.
        self._stdin_writer = _open_fifo(path, os.O_WRONLY)
        return reader

    async def write(self, data: bytes, *, stderr: bool) -> None:
        """Write all of `data`; with no stream to write to it is gone."""
        descriptor = self._stderr if stderr else self._stdout
        view = memoryview(data)
        while view and descriptor is not None:
            try:
                view = view[os.write(descriptor, view) :]
            except BlockingIOError:
                await _ready(descriptor, write=True)

    async def read(self, size: int) -> bytes:
        """Read from stdin; empty at its end, or when there is none."""
        if self._stdin is None:
            return b""
        while True:
            try:
                return os.read(self._stdin, size)
            except BlockingIOError:  # it is empty, and has a writer
                await _ready(self._stdin, write=False)

    def close_stdin(self) -> None:
        """Close the shim's own writer of stdin, so that the process sees its end when the client's is closed too."""
        writer, self._stdin_writer = self._stdin_writer, None
        if writer is not None:
            os.close(writer)

    def close(self) -> None:
        """Close everything."""
        self.close_stdin()
        opened, self._open = self._open, []
        self._stdin = self._stdout = self._stderr = None
        for descriptor in opened:
            os.close(descriptor)


def _open_fifo(path: str, mode: int) -> int:
    try:
        descriptor = os.open(path, mode | os.O_NONBLOCK)
    except OSError as exc:
        reason = (
            "no such file or directory" if isinstance(exc, FileNotFoundError) else str(exc.strerror).lower()
        )
        text = f'containerd-shim: opening file "{path}" failed: open {path}: {reason}'
        raise _failure(f"failed to start io pipe copy: unable to copy pipes: {text}") from exc
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode) and mode != os.O_RDONLY:
        os.lseek(descriptor, 0, os.SEEK_END)
    return descriptor


def _failure(text: str) -> Exception:
    return refuse_plainly(Status.UNKNOWN, text)


async def _ready(descriptor: int, *, write: bool) -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    if write:
        loop.add_writer(descriptor, wake)
    else:
        loop.add_reader(descriptor, wake)
    try:
        await future
    finally:
        with suppress(OSError, ValueError):
            (loop.remove_writer if write else loop.remove_reader)(descriptor)

"""The other side of the FIFOs: a shim as containerd's, without a container."""

import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import anyio
import pytest
from anyio import to_thread
from anyio.abc import TaskGroup

from containerd_aio.stdio.fifo import IOConfig, is_path
from containerd_aio.stdio.process_io import ProcessIO


def write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


class Shim:
    """Opens what a shim opens, in its order: of each output the write end and then a read end, so that a client that
    leaves does not break the pipe; of stdin the read end and a write end, which CloseIO closes.
    """

    def __init__(self, config: IOConfig) -> None:
        self.config = config
        self.write_ends: dict[str, int] = {}
        self.read_ends: list[int] = []
        self.stdin: int | None = None
        self.stdin_closer: int | None = None
        self.close_io_calls = 0
        self.sizes: list[tuple[int, int]] = []
        self.resized = anyio.Event()

    def open_outputs(self) -> None:
        for name, path in (("stdout", self.config.stdout), ("stderr", self.config.stderr)):
            if is_path(path):
                # Non-blocking: a client that has not opened its end yet fails the test with ENXIO.
                fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
                os.set_blocking(fd, True)
                self.write_ends[name] = fd
                self.read_ends.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))

    def open_stdin(self) -> None:
        self.stdin = os.open(self.config.stdin, os.O_RDONLY | os.O_NONBLOCK)
        self.stdin_closer = os.open(self.config.stdin, os.O_WRONLY | os.O_NONBLOCK)

    async def write(self, data: bytes, name: str = "stdout") -> None:
        await to_thread.run_sync(write_all, self.write_ends[name], data)

    async def read_stdin(self, max_bytes: int = 65536) -> bytes:
        assert self.stdin is not None
        await anyio.wait_readable(self.stdin)
        return os.read(self.stdin, max_bytes)

    async def read_stdin_to_end(self) -> bytes:
        data = b""
        while chunk := await self.read_stdin():
            data += chunk
        return data

    def close_outputs(self, *names: str) -> None:
        for name in names or list(self.write_ends):
            os.close(self.write_ends.pop(name))
        if not self.write_ends:
            while self.read_ends:
                os.close(self.read_ends.pop())

    async def close_io(self) -> None:
        self.close_io_calls += 1
        if self.stdin_closer is not None:
            closer, self.stdin_closer = self.stdin_closer, None
            os.close(closer)

    async def resize(self, width: int, height: int) -> None:
        self.sizes.append((width, height))
        self.resized.set()
        self.resized = anyio.Event()

    def vanish(self) -> None:
        self.close_outputs()
        for fd in (self.stdin, self.stdin_closer):
            if fd is not None:
                os.close(fd)
        self.stdin = self.stdin_closer = None

    def start(self, io: ProcessIO, task_group: TaskGroup) -> None:
        """Go through Create and Start."""
        io.start(task_group, close_stdin=self.close_io, resize=self.resize)
        self.open_outputs()
        if self.config.stdin:
            self.open_stdin()
        io.started()


@pytest.fixture
def shim_for() -> Iterator[Callable[[ProcessIO], Shim]]:
    """Make the shim of a `ProcessIO`; what it holds is closed after the test."""
    with contextlib.ExitStack() as stack:

        def make(io: ProcessIO) -> Shim:
            shim = Shim(io.config)
            stack.callback(shim.vanish)
            return shim

        yield make


def open_files() -> Counter[str]:
    targets: Counter[str] = Counter()
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = str(fd.readlink())
            # Pipes and sockets have numbers, which are never the same twice.
            targets[target.partition(":")[0] if target.startswith(("pipe:", "socket:")) else target] += 1
    return targets


@pytest.fixture
async def no_leak(fifo_root) -> AsyncIterator[None]:
    """Fail the test when it leaves a descriptor, a FIFO or a directory behind."""
    before = open_files()
    yield
    assert open_files() == before
    assert not fifo_root.exists() or list(fifo_root.rglob("*")) == []


@pytest.fixture
def fifo_root(tmp_path):
    return tmp_path / "fifo"

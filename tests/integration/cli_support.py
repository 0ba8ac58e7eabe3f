"""The command ``containerd-aio`` as a process, for tests."""

from __future__ import annotations

import os
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from subprocess import DEVNULL, PIPE, CompletedProcess
from typing import Any

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

PATIENCE = 60.0
BUSYBOX = "docker.io/library/busybox:latest"  # what the fixture `busybox_archive` is named


@dataclass(frozen=True)
class CLI:
    """The command, pointed at one daemon and, if so wanted, one namespace."""

    address: str
    namespace: str | None = None

    def argv(self, *args: str) -> list[str]:
        options = ["--address", self.address]
        if self.namespace is not None:
            options += ["--namespace", self.namespace]
        return [sys.executable, "-m", "containerd_aio", *options, *args]

    async def __call__(self, *args: str, stdin: bytes = b"") -> CompletedProcess[bytes]:
        """Run it to its end."""
        with anyio.fail_after(PATIENCE):
            return await anyio.run_process(self.argv(*args), input=stdin, check=False)

    @asynccontextmanager
    async def start(self, *args: str) -> AsyncIterator[Running]:
        """Start it; what still runs at the end is killed."""
        async with running(*self.argv(*args)) as process:
            yield process


class Running:
    """A command that runs, and its output line by line."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._stdout = BufferedByteReceiveStream(process.stdout)
        self._stderr = BufferedByteReceiveStream(process.stderr)

    def send(self, signum: int) -> None:
        self._process.send_signal(signum)

    async def line(self, containing: str = "") -> str:
        """Return the next line of stdout that has `containing` in it."""
        return await self._next(self._stdout, containing)

    async def error_line(self, containing: str = "") -> str:
        """Return the next line of stderr that has `containing` in it."""
        return await self._next(self._stderr, containing)

    @staticmethod
    async def _next(stream: BufferedByteReceiveStream, containing: str) -> str:
        seen: list[str] = []
        try:
            with anyio.fail_after(PATIENCE):
                while True:
                    seen.append((await stream.receive_until(b"\n", 1 << 20)).decode())
                    if containing in seen[-1]:
                        return seen[-1]
        except (TimeoutError, anyio.IncompleteRead) as exc:
            raise AssertionError(f"no line with {containing!r}; there were {seen}") from exc

    async def rest(self) -> str:
        """Return what is left of stdout."""
        with anyio.fail_after(PATIENCE):
            return b"".join([part async for part in self._stdout]).decode()

    async def wait(self) -> int:
        """Return the exit code."""
        with anyio.fail_after(PATIENCE):
            return await self._process.wait()


@asynccontextmanager
async def running(*argv: str) -> AsyncIterator[Running]:
    """Start a command in a session of its own; what still runs at the end is killed."""
    async with await anyio.open_process(
        argv, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
    ) as process:
        try:
            yield Running(process)
        finally:
            if process.returncode is None:
                process.kill()


class Terminal:
    """A pseudo terminal: `keys` types, `read_until` reads the screen, `slave` is what a command gets."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        os.set_blocking(self.master, False)
        self._read = b""

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)

    @property
    def attributes(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    @property
    def raw(self) -> bool:
        return not self.attributes[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def resize(self, width: int, height: int) -> None:
        termios.tcsetwinsize(self.master, (height, width))

    def keys(self, data: bytes) -> None:
        os.write(self.master, data)

    async def read_until(self, text: bytes) -> bytes:
        """Return the output up to and with `text`."""
        with anyio.fail_after(PATIENCE):
            while text not in self._read:
                await anyio.wait_readable(self.master)
                self._read += os.read(self.master, 65536)
        end = self._read.index(text) + len(text)
        found, self._read = self._read[:end], self._read[end:]
        return found

    @asynccontextmanager
    async def run(self, *argv: str) -> AsyncIterator[Process]:
        """Run a command whose controlling terminal this is."""

        # setsid keeps its pid, and makes the terminal the controlling one
        async with await anyio.open_process(
            ["setsid", "--ctty", *argv], stdin=self.slave, stdout=self.slave, stderr=self.slave
        ) as process:
            try:
                yield process
            finally:
                if process.returncode is None:
                    process.kill()

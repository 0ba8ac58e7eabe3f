"""What wires the standard streams of a process: the `IOCreator` protocol and its kinds.

Users make them through the functions of `constructors.py`.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import anyio.lowlevel
from anyio.abc import AnyByteReceiveStream, AnyByteSendStream, ByteSendStream

from containerd_aio.errors import FailedPrecondition, PermissionDenied
from containerd_aio.stdio.descriptors import (
    BytesReceiveStream,
    BytesSendStream,
    DescriptorReceiveStream,
    DescriptorSendStream,
)
from containerd_aio.stdio.fifo import FIFOSet, IOConfig, create_fifos, is_path
from containerd_aio.stdio.fifo_streams import OutputStream, StdinStream
from containerd_aio.stdio.process_io import CopyPlan, ProcessIO

__all__ = ["Capture", "Descriptors", "Files", "IOCreator", "Named", "Pipes", "Streams"]


class IOCreator(Protocol):
    """Makes the `ProcessIO` of a process. Holds no resources itself, so that one can serve many processes."""

    @property
    def terminal(self) -> bool:
        """Whether the process gets a terminal; its OCI spec must say the same."""

    async def create(self, process_id: str, *, fifo_root: Path) -> ProcessIO:
        """Make and open the FIFOs of a process that does not exist yet.

        Args:
            process_id: Container id or exec id.
            fifo_root: Directory for the FIFOs' directory, absolute.

        Raises:
            InvalidArgument: The id or a path can't be used.
            PermissionDenied: A path may not be written.
            FailedPrecondition: A path is unusable for another reason.
        """

    async def attach(self, config: IOConfig) -> ProcessIO:
        """Open the FIFOs of a process that exists. Bytes go to one reader only: two attached clients share them.

        Streams the process does not have are left out, and so are URIs. `ProcessIO.aclose` removes the FIFOs
        unless it is told to keep them.

        Args:
            config: What the daemon says of the process.

        Raises:
            NotFound: A FIFO is gone.
            FailedPrecondition: Our terminal was to be used, and the process has none.
        """


@dataclass(frozen=True, slots=True)
class Named:
    """Streams that are only named in the request: the shim does the rest."""

    config: IOConfig

    @property
    def terminal(self) -> bool:
        """Whether the process gets a terminal."""
        return self.config.terminal

    async def create(self, process_id: str, *, fifo_root: Path) -> ProcessIO:  # noqa: ARG002
        """As `IOCreator.create`, without a FIFO."""
        await anyio.lowlevel.checkpoint()
        return ProcessIO(FIFOSet(self.config))

    async def attach(self, config: IOConfig) -> ProcessIO:
        """As `IOCreator.attach`, opening nothing: the FIFOs, if any, are only removed in the end."""
        await anyio.lowlevel.checkpoint()
        return ProcessIO(FIFOSet(config))


@dataclass(frozen=True, slots=True, kw_only=True)
class FIFOCreator(ABC):
    """Streams that pass through FIFOs. Subclasses say where they go from there.

    Attributes:
        terminal: Whether the process gets a terminal.
    """

    terminal: bool = False

    @property
    @abstractmethod
    def has_stdin(self) -> bool:
        """Whether a new process gets a stdin, and that of an existing one is opened."""

    @abstractmethod
    def plan(self, opened: contextlib.ExitStack) -> CopyPlan | None:
        """Open our side, putting what must be closed on the stack. None leaves the streams to the caller."""

    async def create(self, process_id: str, *, fifo_root: Path) -> ProcessIO:
        """As `IOCreator.create`."""
        await anyio.lowlevel.checkpoint()
        fifos = create_fifos(fifo_root, process_id, stdin=self.has_stdin, terminal=self.terminal)
        try:
            return self._open(fifos)
        except BaseException:
            fifos.remove()
            raise

    async def attach(self, config: IOConfig) -> ProcessIO:
        """As `IOCreator.attach`."""
        await anyio.lowlevel.checkpoint()
        return self._open(FIFOSet(config))

    def _open(self, fifos: FIFOSet) -> ProcessIO:
        config = fifos.config
        stdin = stdout = stderr = None
        with contextlib.ExitStack() as opened:
            plan = self.plan(opened)
            if config.stdin and self.has_stdin:
                stdin = StdinStream(config.stdin)
                opened.callback(stdin.abandon)
            if is_path(config.stdout):
                stdout = OutputStream(config.stdout)
                opened.callback(stdout.close)
            if is_path(config.stderr) and not config.terminal:
                stderr = OutputStream(config.stderr)
                opened.callback(stderr.close)
            return ProcessIO(
                fifos, stdin=stdin, stdout=stdout, stderr=stderr, plan=plan, resources=opened.pop_all()
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipes(FIFOCreator):
    """The caller reads and writes."""

    stdin: bool

    @property
    def has_stdin(self) -> bool:
        """As asked for."""
        return self.stdin

    def plan(self, opened: contextlib.ExitStack) -> CopyPlan | None:  # noqa: ARG002
        """Copy nothing."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptors(FIFOCreator):
    """To and from descriptors of our own. With a terminal, `stdin` is ours, and is put in raw mode."""

    stdin: int | None
    stdout: int
    stderr: int

    @property
    def has_stdin(self) -> bool:
        """Whether there is a descriptor for it."""
        return self.stdin is not None

    async def attach(self, config: IOConfig) -> ProcessIO:
        """As `IOCreator.attach`; our terminal serves only a process that has one."""
        if self.terminal and not config.terminal:
            raise FailedPrecondition("the process has no terminal: attach with stdio.inherit()")
        return await super(Descriptors, self).attach(config)

    def plan(self, opened: contextlib.ExitStack) -> CopyPlan:
        """Copy from and to the descriptors."""
        source = None
        if self.stdin is not None:
            source = DescriptorReceiveStream(self.stdin)
            opened.callback(source.close)
        return CopyPlan(
            source=source,
            stdout=_writer(self.stdout, opened),
            stderr=None if self.terminal else _writer(self.stderr, opened),
            terminal=self.stdin if self.terminal else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Files(FIFOCreator):
    """To files of ours."""

    stdout: Path | None
    stderr: Path | None
    append: bool

    @property
    def has_stdin(self) -> bool:
        """No."""
        return False

    def plan(self, opened: contextlib.ExitStack) -> CopyPlan:
        """Open the files. Always in append mode: both outputs may go to the same file."""
        return CopyPlan(stdout=self._file(self.stdout, opened), stderr=self._file(self.stderr, opened))

    def _file(self, path: Path | None, opened: contextlib.ExitStack) -> ByteSendStream | None:
        if path is None:
            return None
        # A FIFO without a reader must not block the open, nor a terminal become our controlling one.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        try:
            fd = os.open(path, flags if self.append else flags | os.O_TRUNC, 0o666)
        except PermissionError as exc:
            raise PermissionDenied(f"output file {path} may not be written by uid {os.geteuid()}") from exc
        except OSError as exc:
            raise FailedPrecondition(f"cannot open output file {path}: {exc.strerror}") from exc
        try:
            return _writer(fd, opened)
        finally:
            os.close(fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture(FIFOCreator):
    """To memory."""

    stdin: bytes | None
    limit: int | None

    @property
    def has_stdin(self) -> bool:
        """Whether there are bytes for it, be it none."""
        return self.stdin is not None

    def plan(self, opened: contextlib.ExitStack) -> CopyPlan:  # noqa: ARG002
        """Make the buffers."""
        return CopyPlan(
            source=None if self.stdin is None else BytesReceiveStream(self.stdin),
            stdout=BytesSendStream(self.limit),
            stderr=BytesSendStream(self.limit),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams(FIFOCreator):
    """To and from streams of the caller, which stay theirs."""

    stdin: AnyByteReceiveStream | bytes | None
    stdout: AnyByteSendStream | None
    stderr: AnyByteSendStream | None

    @property
    def has_stdin(self) -> bool:
        """Whether there is a source for it."""
        return self.stdin is not None

    def plan(self, opened: contextlib.ExitStack) -> CopyPlan:  # noqa: ARG002
        """Copy from and to the streams."""
        source = BytesReceiveStream(self.stdin) if isinstance(self.stdin, bytes) else self.stdin
        return CopyPlan(source=source, stdout=self.stdout, stderr=self.stderr)


def _writer(fd: int, opened: contextlib.ExitStack) -> DescriptorSendStream:
    stream = DescriptorSendStream(fd)
    opened.callback(stream.close)
    return stream

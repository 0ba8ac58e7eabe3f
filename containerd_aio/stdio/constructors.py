"""The ways to wire the standard streams of a process. Each returns a small immutable `IOCreator`.

Input that can be judged at once is refused here, before a container or a process depends on it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

from anyio.abc import (
    AnyByteReceiveStream,
    AnyByteSendStream,
    ByteReceiveStream,
    ByteSendStream,
    ObjectReceiveStream,
    ObjectSendStream,
)

from containerd_aio.errors import InvalidArgument
from containerd_aio.stdio import uris
from containerd_aio.stdio.console import check_terminal
from containerd_aio.stdio.creators import Capture, Descriptors, Files, IOCreator, Named, Pipes, Streams
from containerd_aio.stdio.descriptors import BinaryWriter, WriterSendStream, check_descriptor
from containerd_aio.stdio.fifo import IOConfig

__all__ = [
    "capture",
    "files",
    "inherit",
    "log_binary",
    "log_file",
    "log_uri",
    "null",
    "pipes",
    "streams",
    "terminal",
]


def null() -> IOCreator:
    """No streams: stdin is empty and output is thrown away, by the shim. Go's ``cio.NullIO``."""
    return Named(IOConfig())


def log_uri(uri: str, *, terminal: bool = False) -> IOCreator:
    """Let the shim write stdout and stderr to a log; no client is needed for it. Go's ``cio.LogURI``.

    Args:
        uri: ``file:///path`` or ``binary:///path?key=value``, on the daemon's host.
        terminal: Give the process a terminal; ``binary`` only.

    Raises:
        InvalidArgument: Not such a URI.
    """
    uris.check_log_uri(uri, terminal=terminal)
    return Named(IOConfig(stdout=uri, stderr="" if terminal else uri, terminal=terminal))


def log_file(path: str | os.PathLike[str]) -> IOCreator:
    """Let the shim append stdout and stderr to a file. Go's ``cio.LogFile``.

    What a process writes to stderr in the moment of its end may be missing: the shims of containerd 1.6 to 2.1 close the file
    for both streams when stdout ends. `files` loses nothing.

    Args:
        path: Absolute, on the daemon's host; made when missing.

    Raises:
        InvalidArgument: The path is relative or names a directory.
    """
    return log_uri(uris.file_uri(path))


def log_binary(
    path: str | os.PathLike[str], args: Mapping[str, str] | None = None, *, terminal: bool = False
) -> IOCreator:
    """Let the shim start a logging program for stdout and stderr. Go's ``cio.BinaryIO`` and ``cio.TerminalBinaryIO``.

    Args:
        path: Absolute path of the program, on the daemon's host.
        args: Its arguments, handed over as key, value, key, value...
        terminal: Give the process a terminal.

    Raises:
        InvalidArgument: The path is relative or names a directory.
    """
    return log_uri(uris.binary_uri(path, args), terminal=terminal)


def pipes(*, stdin: bool = False, terminal: bool = False) -> IOCreator:
    """Give the streams to the caller, as anyio byte streams: `ProcessIO.stdin`, ``.stdout`` and ``.stderr``.

    Read both outputs, at the same time: a process that fills one (1 MiB, or 64 KiB for an unprivileged user with
    many) waits until it is read.

    Args:
        stdin: Give the process a stdin; without, it is empty.
        terminal: Give the process a terminal: one output, and no stderr.
    """
    return Pipes(stdin=stdin, terminal=terminal)


def inherit(*, stdin: bool = False) -> IOCreator:
    """Use our own stdout and stderr (descriptors 1 and 2), as a child process would. Go's ``cio.WithStdio``.

    What `print` has buffered must be flushed by the caller to keep the order.

    Args:
        stdin: Pass our stdin (descriptor 0) on, too.

    Raises:
        InvalidArgument: A descriptor is closed.
    """
    for fd in range(0 if stdin else 1, 3):
        check_descriptor(fd)
    return Descriptors(stdin=0 if stdin else None, stdout=1, stderr=2)


def terminal(*, tty: int = 0, stdout: int = 1) -> IOCreator:
    """Give the process a terminal and connect it with our own. Go's ``cio.WithTerminal`` with ``cio.WithStdio``.

    From the start of the process to the end of its output ours is in raw mode (all keys go to the process, also
    Ctrl-C) and its size is forwarded.

    Args:
        tty: Descriptor of our terminal: read, and set to raw mode.
        stdout: Descriptor for the output.

    Raises:
        InvalidArgument: `tty` is no terminal, or `stdout` is closed.
    """
    check_terminal(tty)
    check_descriptor(stdout)
    return Descriptors(stdin=tty, stdout=stdout, stderr=stdout, terminal=True)


def files(
    *,
    stdout: str | os.PathLike[str] | None = None,
    stderr: str | os.PathLike[str] | None = None,
    append: bool = True,
) -> IOCreator:
    """Write the output to files of ours, on this host. With `log_file` the shim would do it.

    Args:
        stdout: File for stdout, made when missing; None throws stdout away. May be the same as `stderr`.
        stderr: File for stderr.
        append: Add to what is in a file; False empties it first.

    Raises:
        InvalidArgument: No file is named, or its directory does not exist.
    """
    paths = [Path(path) for path in (stdout, stderr) if path is not None]
    if not paths:
        raise InvalidArgument("name a file for stdout= or stderr=, or use stdio.null()")
    for path in paths:
        if not path.parent.is_dir():
            raise InvalidArgument(f"the directory {str(path.parent)!r} for output does not exist")
    return Files(
        stdout=None if stdout is None else Path(stdout),
        stderr=None if stderr is None else Path(stderr),
        append=append,
    )


def capture(*, stdin: bytes | None = None, limit: int | None = None) -> IOCreator:
    """Collect the output in memory: `ProcessIO.captured`.

    Args:
        stdin: Sent to the process, followed by the end of its stdin; None gives it none.
        limit: Most bytes to keep of each output; what follows is read and thrown away. None keeps all.

    Raises:
        InvalidArgument: `limit` is negative, or `stdin` is not bytes.
    """
    if stdin is not None and not isinstance(stdin, bytes | bytearray | memoryview):
        raise InvalidArgument(f"stdin must be bytes, not {type(stdin).__name__}; a text has .encode()")
    if limit is not None and limit < 0:
        raise InvalidArgument(f"limit must not be negative: {limit}")
    return Capture(stdin=stdin, limit=limit)


def streams(
    *,
    stdin: AnyByteReceiveStream | bytes | None = None,
    stdout: AnyByteSendStream | BinaryWriter | None = None,
    stderr: AnyByteSendStream | BinaryWriter | None = None,
    terminal: bool = False,
) -> IOCreator:
    """Copy to and from streams of the caller, who keeps and closes them. Go's ``cio.WithStreams``.

    A stream that fails does not stop the process: its output is thrown away from then on (`ProcessIO.failures`).

    Args:
        stdin: Copied to the process, whose stdin ends with it; None gives it none.
        stdout: An anyio stream, or a binary file object, which is written and flushed in a worker thread. None
            throws the output away.
        stderr: The same for stderr.
        terminal: Give the process a terminal: one output, which goes to `stdout`.

    Raises:
        InvalidArgument: Not a stream; or stderr together with a terminal.
    """
    if stdin is not None and not isinstance(stdin, bytes | ByteReceiveStream | ObjectReceiveStream):
        raise InvalidArgument(f"stdin must be bytes or an anyio byte stream, not {type(stdin).__name__}")
    if terminal and stderr is not None:
        raise InvalidArgument("a terminal has a single output: leave stderr out")
    return Streams(
        stdin=stdin,
        stdout=_destination(stdout, "stdout"),
        stderr=_destination(stderr, "stderr"),
        terminal=terminal,
    )


def _destination(value: AnyByteSendStream | BinaryWriter | None, name: str) -> AnyByteSendStream | None:
    if value is None or isinstance(value, ByteSendStream | ObjectSendStream):
        return value
    if not callable(getattr(value, "write", None)) or isinstance(value, io.TextIOBase):
        kind = type(value).__name__
        raise InvalidArgument(f"{name} must be an anyio byte stream or a binary file object, not {kind}")
    return WriterSendStream(value)

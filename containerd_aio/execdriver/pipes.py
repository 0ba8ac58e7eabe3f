"""The streams of a caller for a process."""

from __future__ import annotations

from dataclasses import dataclass

from anyio.abc import AnyByteReceiveStream, AnyByteSendStream

from containerd_aio.stdio.descriptors import BinaryWriter


@dataclass(slots=True)
class Pipes:
    """Where a process reads and writes. The streams stay the caller's, who closes them.

    Attributes:
        stdin: An anyio byte stream, or bytes; None gives the process an empty stdin.
        stdout: An anyio byte stream, or a binary file object; None throws the output away.
        stderr: The same; with a terminal there is none.
    """

    stdin: AnyByteReceiveStream | bytes | None = None
    stdout: AnyByteSendStream | BinaryWriter | None = None
    stderr: AnyByteSendStream | BinaryWriter | None = None


def new_pipes(
    stdin: AnyByteReceiveStream | bytes | None,
    stdout: AnyByteSendStream | BinaryWriter | None,
    stderr: AnyByteSendStream | BinaryWriter | None,
    use_stdin: bool,
) -> Pipes:
    """Return `Pipes`, without stdin unless `use_stdin` (Docker: NewPipes)."""
    return Pipes(stdin if use_stdin else None, stdout, stderr)

"""Where archives come from and where they go: pipes that stall, files that cannot be written."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import anyio
import pytest
from anyio.lowlevel import checkpoint

from containerd_aio.distribution._source import opened, written

MANY = 3 << 20

pytestmark = pytest.mark.timeout(20)  # what is not cancelled hangs


@pytest.fixture
def pipe() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The two ends of a pipe."""
    ends = os.pipe()
    with os.fdopen(ends[0], "rb") as reader, os.fdopen(ends[1], "wb", buffering=0) as writer:
        yield reader, writer


async def pieces(*items: bytes) -> AsyncIterator[bytes]:
    for item in items:
        await checkpoint()
        yield item


@pytest.mark.parametrize("kind", ["file", "path", "anyio's"])
async def test_a_pipe_from_which_nothing_comes_holds_nobody_up(
    pipe: tuple[BinaryIO, BinaryIO], kind: str
) -> None:
    reader, writer = pipe
    source: Any = {
        "file": reader,
        "path": f"/proc/self/fd/{reader.fileno()}",
        "anyio's": anyio.wrap_file(reader),
    }
    got: list[bytes] = []
    first = anyio.Event()

    async def read() -> None:
        async with opened(source[kind]) as chunks:
            async for chunk in chunks:
                got.append(chunk)
                first.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        writer.write(b"begun")
        await first.wait()
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert got == [b"begun"]


async def test_a_pipe_that_nobody_empties_holds_nobody_up(pipe: tuple[BinaryIO, BinaryIO]) -> None:
    reader, writer = pipe
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(written, writer, pieces(bytes(MANY)))
        await anyio.wait_readable(reader)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert os.get_blocking(writer.fileno()), "it is shared with others"


async def test_what_goes_through_a_pipe_is_whole_or_an_error(pipe: tuple[BinaryIO, BinaryIO]) -> None:
    reader, writer = pipe
    data = os.urandom(MANY)
    received: list[bytes] = []

    async def receive() -> None:
        async with opened(reader) as chunks:
            received.extend([chunk async for chunk in chunks])

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        assert await written(writer, pieces(data[:10], data[10:])) == MANY
        writer.close()
    assert b"".join(received) == data
    ends = os.pipe()
    os.close(ends[0])
    with os.fdopen(ends[1], "wb") as alone, pytest.raises(BrokenPipeError):
        await written(alone, pieces(data))


async def test_a_file_that_cannot_be_opened_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "old.tar"
    path.write_bytes(b"as it was")

    async def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(anyio.Path, "open", refuse)
    with pytest.raises(PermissionError):
        await written(path, pieces(b"new"))
    assert path.read_bytes() == b"as it was"


async def test_what_fails_before_its_first_byte_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "old.tar"
    path.write_bytes(b"as it was")

    async def fails() -> AsyncIterator[bytes]:
        raise LookupError
        yield b""

    with pytest.raises(LookupError):
        await written(path, fails())
    assert path.read_bytes() == b"as it was"


@pytest.mark.parametrize("when", ["write", "aclose"])
async def test_nothing_half_made_is_left_behind_a_link_and_the_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    path, made = tmp_path / "link.tar", tmp_path / "made.tar"
    path.symlink_to(made)
    real = getattr(anyio.AsyncFile, when)

    async def full(self: Any, *args: Any) -> None:
        await real(self, *args)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(anyio.AsyncFile, when, full)
    with pytest.raises(OSError, match=r"No space left on device: .*link"):
        await written(path, pieces(b"some", b"more"))
    assert path.is_symlink()
    assert not made.exists()

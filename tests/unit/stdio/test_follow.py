"""Following a log: nothing left out, nothing twice, whatever is done to the file."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from containerd_aio import InvalidArgument, stdio


async def _read(log: stdio.LogStream, count: int) -> bytes:
    data = b""
    with anyio.fail_after(10):
        while len(data) < count:
            data += await log.receive()
    return data


async def test_as_it_comes_and_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    done = anyio.Event()
    async with stdio.follow(path, until=done.wait) as log:  # there is no file yet
        with path.open("ab", buffering=0) as file:
            file.write(b"one")
            assert await _read(log, 3) == b"one"
            file.write(b"two")
            assert await _read(log, 3) == b"two"
            file.write(b"last")
        done.set()
        with anyio.fail_after(10):
            assert b"".join([chunk async for chunk in log]) == b"last"


@pytest.mark.parametrize("from_end", [False, True])
async def test_what_is_there_already(tmp_path: Path, from_end: bool) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"before ")
    async with stdio.follow(path, from_end=from_end) as log:
        with path.open("ab") as file:
            file.write(b"after")
        expected = b"after" if from_end else b"before after"
        assert await _read(log, len(expected)) == expected


async def test_rotated_by_renaming(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a")
    async with stdio.follow(path) as log:
        assert await _read(log, 1) == b"a"
        with path.open("ab") as old:
            path.rename(tmp_path / "log.1")
            old.write(b"b")  # the writer has it open still
        path.write_bytes(b"c")
        assert await _read(log, 2) == b"bc"


async def test_cut_and_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"long line")
    async with stdio.follow(path) as log:
        assert await _read(log, 9) == b"long line"
        path.write_bytes(b"new")
        assert await _read(log, 3) == b"new"


async def test_leaving_early_ends_what_was_awaited(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x")
    with anyio.fail_after(10):
        async with stdio.follow(tmp_path / "log", until=anyio.sleep_forever) as log:
            assert await log.receive() == b"x"
    with pytest.raises(anyio.ClosedResourceError):
        await log.receive()


async def test_until_that_fails_is_told(tmp_path: Path) -> None:
    async def fail() -> None:
        raise RuntimeError("lost")

    with pytest.raises(ExceptionGroup) as raised:
        async with stdio.follow(tmp_path / "log", until=fail) as log:
            await log.receive()
    assert raised.group_contains(RuntimeError, match="lost")


async def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="is a directory"):
        async with stdio.follow(tmp_path):
            pass

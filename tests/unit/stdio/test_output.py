"""`OutputStream`: reading what a process writes, to the last byte."""

import os
from pathlib import Path

import anyio
import pytest
from anyio import to_thread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from containerd_aio.stdio.fifo_streams import OutputStream

pytestmark = pytest.mark.usefixtures("no_leak")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "out"
    os.mkfifo(path)
    return str(path)


def open_writer(path: str) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.set_blocking(fd, True)
    return fd


def put(path: str, *chunks: bytes) -> None:
    """Write and go away."""
    fd = open_writer(path)
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(fd, rest) :]
    os.close(fd)


async def read_all(stream: OutputStream, max_bytes: int = 65536) -> bytes:
    data = bytearray()
    with pytest.raises(anyio.EndOfStream):
        while True:
            data += await stream.receive(max_bytes)
    return bytes(data)


async def read_into(stream, data, max_bytes=65536):
    async for chunk in stream:
        data += chunk


async def test_no_writer_yet_is_not_the_end(path):
    stream = OutputStream(path)
    received = []

    async def read():
        received.append(await stream.receive())

    async with anyio.create_task_group() as tg:
        tg.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        assert received == []
        put(path, b"hello")
    assert received == [b"hello"]
    await stream.aclose()


async def test_a_megabyte_from_a_process_that_vanishes(path):
    stream = OutputStream(path)
    data = bytearray()
    async with anyio.create_task_group() as tg:
        tg.start_soon(read_into, stream, data)
        await anyio.run_process(["sh", "-c", 'head -c 1000000 /dev/zero | tr "\\0" x > "$0"', path])
    assert data == b"x" * 1_000_000
    await stream.aclose()


async def test_the_tail_survives_writer_and_file(path):
    stream = OutputStream(path)
    put(path, b"tail" * 10_000)
    Path(path).unlink()
    assert await read_all(stream, 1000) == b"tail" * 10_000
    await stream.aclose()


async def test_the_end_stays_the_end(path):
    stream = OutputStream(path)
    put(path, b"x")
    assert await read_all(stream) == b"x"
    with pytest.raises(anyio.EndOfStream):
        await stream.receive()
    await stream.aclose()
    with pytest.raises(anyio.ClosedResourceError):
        await stream.receive()
    await stream.aclose()


async def test_iteration_ends_with_the_stream(path):
    stream = OutputStream(path)
    put(path, b"a", b"b")
    assert b"".join([chunk async for chunk in stream]) == b"ab"
    await stream.aclose()


@pytest.mark.parametrize("writer_came", [False, True])
async def test_closing_wakes_a_waiting_reader(path, writer_came):
    stream = OutputStream(path)
    writer = open_writer(path) if writer_came else None
    if writer is not None:
        os.write(writer, b"x")
        assert await stream.receive() == b"x"

    async def read():
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()

    async with anyio.create_task_group() as tg:
        tg.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        await stream.aclose()
    if writer is not None:
        os.close(writer)


async def test_one_reader_at_a_time(path):
    stream = OutputStream(path)
    async with anyio.create_task_group() as tg:
        tg.start_soon(stream.receive)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await stream.receive()
        tg.cancel_scope.cancel()
    put(path, b"still usable")
    assert await stream.receive() == b"still usable"
    await stream.aclose()


async def test_max_bytes(path):
    stream = OutputStream(path)
    put(path, b"abcdef")
    assert await stream.receive(4) == b"abcd"
    assert await stream.receive(4) == b"ef"
    with pytest.raises(ValueError, match="max_bytes"):
        await stream.receive(0)
    await stream.aclose()


async def test_a_cancelled_read_loses_nothing(path):
    stream = OutputStream(path)
    put(path, b"kept")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await stream.receive()
    assert scope.cancelled_caught
    assert await read_all(stream) == b"kept"
    await stream.aclose()


async def test_a_busy_writer_does_not_starve_the_loop(path):
    """Reading yields to other tasks also while there is always something to read."""
    stream = OutputStream(path)
    done = anyio.Event()
    turns = 0

    async def other():
        nonlocal turns
        while not done.is_set():
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tg:
        tg.start_soon(other)
        writer = open_writer(path)
        os.write(writer, b"x" * 1000)
        for _ in range(1000):
            await stream.receive(1)
        done.set()
    assert turns >= 1000
    os.close(writer)
    await stream.aclose()


async def test_complete_only_when_every_writer_left(path):
    stream = OutputStream(path)
    assert not stream.complete
    first, second = open_writer(path), open_writer(path)
    os.write(first, b"unread")
    os.close(first)
    assert not stream.complete
    finished = anyio.Event()

    async def wait():
        await stream.wait_complete()
        finished.set()

    async with anyio.create_task_group() as tg:
        tg.start_soon(wait)
        tg.start_soon(wait)
        await anyio.wait_all_tasks_blocked()  # unread bytes must not keep it spinning
        assert not finished.is_set()
        os.close(second)
    assert stream.complete
    assert await read_all(stream) == b"unread"
    assert stream.complete
    await stream.aclose()
    await stream.wait_complete()


async def test_closing_ends_wait_complete(path):
    stream = OutputStream(path)
    async with anyio.create_task_group() as tg:
        tg.start_soon(stream.wait_complete)
        await anyio.wait_all_tasks_blocked()
        await stream.aclose()


async def test_expect_end_when_no_writer_ever_came(path):
    stream = OutputStream(path)
    stream.expect_end()
    assert stream.complete
    assert await read_all(stream) == b""
    await stream.aclose()
    stream.expect_end()


async def test_expect_end_does_not_cut_off_a_writer(path):
    stream = OutputStream(path)
    writer = open_writer(path)
    Path(path).unlink()
    stream.expect_end()
    assert not stream.complete
    os.write(writer, b"more")
    os.close(writer)
    assert await read_all(stream) == b"more"
    await stream.aclose()


async def test_expect_end_wakes_a_waiting_reader(path):
    stream = OutputStream(path)
    data = bytearray()
    async with anyio.create_task_group() as tg:
        tg.start_soon(read_into, stream, data)
        await anyio.wait_all_tasks_blocked()
        stream.expect_end()
    assert data == b""
    await stream.aclose()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chunks=st.lists(st.binary(max_size=5000), max_size=30), max_bytes=st.integers(1, 9000))
async def test_bytes_in_are_bytes_out(tmp_path_factory, chunks, max_bytes):
    path = str(tmp_path_factory.mktemp("fifo") / "out")
    os.mkfifo(path)
    stream = OutputStream(path)
    async with anyio.create_task_group() as tg:
        tg.start_soon(to_thread.run_sync, lambda: put(path, *chunks))
        assert await read_all(stream, max_bytes) == b"".join(chunks)
    await stream.aclose()

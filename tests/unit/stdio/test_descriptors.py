"""Streams over our own descriptors: never block the loop, never change the descriptor."""

import io
import os
import socket
import threading

import anyio
import anyio.to_thread
import pytest

from containerd_aio.errors import InvalidArgument
from containerd_aio.stdio.descriptors import (
    BytesReceiveStream,
    BytesSendStream,
    DescriptorReceiveStream,
    DescriptorSendStream,
    WriterSendStream,
)

BIG = bytes(range(256)) * 4000


@pytest.fixture
def pair(request):
    """A reading and a writing descriptor of the kind asked for, both blocking."""
    if request.param == "pipe":
        reader, writer = os.pipe()
    elif request.param == "socket":
        reader, writer = (end.detach() for end in socket.socketpair())
    else:
        writer, reader = os.openpty()  # what is written to the master is typed on the terminal
    yield reader, writer
    os.close(reader)
    os.close(writer)


@pytest.fixture(params=["reopened", "shared"])
def reopening(request, monkeypatch):
    """Also as if the descriptor could not be opened a second time."""
    if request.param == "shared":
        real = os.open

        def refuse(path, *args, **kwargs):
            if str(path).startswith("/proc/self/fd/"):
                raise PermissionError(13, "Permission denied")
            return real(path, *args, **kwargs)

        monkeypatch.setattr(os, "open", refuse)


pytestmark = pytest.mark.usefixtures("no_leak")
PIPE_AND_SOCKET = pytest.mark.parametrize("pair", ["pipe", "socket"], indirect=True)
ALL = pytest.mark.parametrize("pair", ["pipe", "socket", "tty"], indirect=True)


@PIPE_AND_SOCKET
async def test_everything_written_arrives(pair, reopening):
    reader, writer = DescriptorReceiveStream(pair[0]), DescriptorSendStream(pair[1])
    received = bytearray()
    async with anyio.create_task_group() as tg:
        tg.start_soon(writer.send, BIG)
        while len(received) < len(BIG):
            received += await reader.receive()
    assert received == BIG
    await writer.aclose()
    await reader.aclose()


@ALL
async def test_the_descriptor_stays_blocking_and_open(pair, reopening):
    reader, writer = DescriptorReceiveStream(pair[0]), DescriptorSendStream(pair[1])
    await writer.send(b"line\n")
    assert await reader.receive() == b"line\n"
    await reader.aclose()
    await writer.aclose()
    for fd in pair:
        assert os.get_blocking(fd)
    os.write(pair[1], b"more\n")
    assert os.read(pair[0], 100) == b"more\n"


@ALL
async def test_waiting_to_read_can_be_cancelled_and_closed(pair, reopening):
    reader = DescriptorReceiveStream(pair[0])
    async with anyio.create_task_group() as tg:
        tg.start_soon(reader.receive)
        await anyio.wait_all_tasks_blocked()
        tg.cancel_scope.cancel()
    os.write(pair[1], b"kept\n")
    assert await reader.receive() == b"kept\n"

    async def read():
        with pytest.raises(anyio.ClosedResourceError):
            await reader.receive()

    async with anyio.create_task_group() as tg:
        tg.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        await reader.aclose()


@PIPE_AND_SOCKET
async def test_a_full_destination_waits_and_can_be_cancelled(pair):
    writer = DescriptorSendStream(pair[1])
    async with anyio.create_task_group() as tg:
        tg.start_soon(writer.send, BIG)
        await anyio.wait_all_tasks_blocked()
        tg.cancel_scope.cancel()
    await writer.aclose()


async def test_the_end_of_a_pipe():
    read_end, write_end = os.pipe()
    reader = DescriptorReceiveStream(read_end)
    os.write(write_end, b"x")
    os.close(write_end)
    assert await reader.receive() == b"x"
    with pytest.raises(anyio.EndOfStream):
        await reader.receive()
    await reader.aclose()
    os.close(read_end)


@PIPE_AND_SOCKET
async def test_nobody_reads_any_more(pair):
    writer = DescriptorSendStream(pair[1])
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, pair[0])
    os.close(null)
    with pytest.raises(anyio.BrokenResourceError) as caught:
        await writer.send(BIG)
    assert isinstance(caught.value.__cause__, BrokenPipeError)
    await writer.aclose()


async def test_a_regular_file_keeps_its_offset(tmp_path):
    """As with ``>file 2>&1``: the open file is shared, and so is the place where the next byte goes."""
    with (tmp_path / "out").open("w+b", buffering=0) as file:
        file.write(b"before ")
        writer = DescriptorSendStream(file.fileno())
        await writer.send(b"ours ")
        await writer.aclose()
        file.write(b"after")
        file.seek(0)
        reader = DescriptorReceiveStream(file.fileno())
        assert await reader.receive() == b"before ours after"
        with pytest.raises(anyio.EndOfStream):
            await reader.receive()
        await reader.aclose()


async def test_a_full_disk():
    fd = os.open("/dev/full", os.O_WRONLY)
    writer = DescriptorSendStream(fd)
    with pytest.raises(anyio.BrokenResourceError) as caught:
        await writer.send(b"x")
    assert "No space left" in str(caught.value.__cause__)
    await writer.aclose()
    os.close(fd)


async def test_the_null_device():
    fd = os.open(os.devnull, os.O_RDWR)
    reader, writer = DescriptorReceiveStream(fd), DescriptorSendStream(fd)
    await writer.send(BIG)
    with pytest.raises(anyio.EndOfStream):
        await reader.receive()
    await reader.aclose()
    await writer.aclose()
    os.close(fd)


async def test_a_terminal_that_was_hung_up():
    master, slave = os.openpty()
    reader, writer = DescriptorReceiveStream(slave), DescriptorSendStream(slave)
    os.close(master)
    with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
        await reader.receive()
    with pytest.raises(anyio.BrokenResourceError):
        await writer.send(b"x")
    await reader.aclose()
    await writer.aclose()
    os.close(slave)


@pytest.mark.parametrize("stream", [DescriptorReceiveStream, DescriptorSendStream])
def test_a_closed_descriptor_is_refused(stream):
    with pytest.raises(InvalidArgument, match="not open"):
        stream(987_654)


async def test_a_closed_stream():
    fd = os.open(os.devnull, os.O_RDWR)
    reader, writer = DescriptorReceiveStream(fd), DescriptorSendStream(fd)
    os.close(fd)
    for stream in (reader, writer):
        await stream.aclose()
        await stream.aclose()
    with pytest.raises(anyio.ClosedResourceError):
        await reader.receive()
    with pytest.raises(anyio.ClosedResourceError):
        await writer.send(b"x")


async def test_a_file_object_is_flushed(tmp_path):
    with (tmp_path / "out").open("wb") as file:
        await WriterSendStream(file).send(b"visible")
        assert (tmp_path / "out").read_bytes() == b"visible"


async def test_a_file_object_that_writes_little():
    class Slow(io.RawIOBase):
        data = b""

        def writable(self):
            return True

        def write(self, data):
            self.data += bytes(data[:3])
            return min(3, len(data))

    slow = Slow()
    stream = WriterSendStream(slow)
    await stream.send(b"0123456789")
    await stream.aclose()
    assert slow.data == b"0123456789"
    assert not slow.closed


async def test_bytes_in_memory():
    source = BytesReceiveStream(b"abcdef")
    assert [await source.receive(4), await source.receive(4)] == [b"abcd", b"ef"]
    with pytest.raises(anyio.EndOfStream):
        await source.receive()
    await source.aclose()


@pytest.mark.parametrize(
    ("limit", "kept", "truncated"),
    [(None, b"abcdef", False), (6, b"abcdef", False), (4, b"abcd", True), (0, b"", True)],
)
async def test_collecting_up_to_a_limit(limit, kept, truncated):
    sink = BytesSendStream(limit)
    for part in (b"abc", b"def", b""):
        await sink.send(part)
    await sink.aclose()
    assert (sink.data, sink.truncated) == (kept, truncated)


async def test_a_writer_that_blocks_does_not_hold_up_who_gives_it_up():
    started, released, waited = threading.Event(), threading.Event(), []

    class Stuck:
        def write(self, _data):
            started.set()
            if not released.wait(10):
                waited.append(True)

    async with anyio.create_task_group() as group:
        group.start_soon(WriterSendStream(Stuck()).send, b"x")
        await anyio.to_thread.run_sync(started.wait)
        group.cancel_scope.cancel()
    released.set()
    assert not waited

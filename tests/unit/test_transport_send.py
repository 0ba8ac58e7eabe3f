"""Large messages: cut into frames as they are, however small the peer's windows, and given up when nobody wants them."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from grpclib.config import Configuration
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server
from hpack import Decoder
from hypothesis import given
from hypothesis import strategies as st

from containerd_aio._transport.channel import Channel
from containerd_aio._transport.dial import Address
from containerd_aio._transport.gathering import GatheringTransport
from containerd_aio._transport.headers import HeaderEncoder
from containerd_aio._transport.protocol import ReceivingProtocol
from containerd_aio._transport.receive import Receiver
from containerd_aio._transport.send import _Cutter, write_vector
from containerd_aio.api.containerd.services.content.v1 import (
    ContentBase,
    WriteContentRequest,
    WriteContentResponse,
)
from containerd_aio.errors import OutOfRange

METHOD = "/containerd.services.content.v1.Content/Write"


class Writes(ContentBase):
    """Answers each message with the size of its data, and fails at `fail_at` messages."""

    fail_at = -1

    async def write(
        self, messages: AsyncIterator[WriteContentRequest]
    ) -> AsyncIterator[WriteContentResponse]:
        seen = 0
        async for message in messages:
            seen += 1
            if seen == self.fail_at:
                raise GRPCError(Status.OUT_OF_RANGE, "enough")
            assert message.data == pattern(len(message.data))
            yield WriteContentResponse(offset=len(message.data), digest=message.ref)


def pattern(size: int) -> bytes:
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


@asynccontextmanager
async def serving(path: Path, window: int) -> AsyncIterator[tuple[Writes, Channel]]:
    writes = Writes()
    config = Configuration(http2_connection_window_size=window, http2_stream_window_size=window)
    server = Server([writes], config=config)
    await server.start(path=str(path))
    channel = Channel(Address.parse(str(path)), timeout=5, connect_timeout=5)
    try:
        yield writes, channel
    finally:
        channel.close()
        server.close()
        await server.wait_closed()


def call(channel: Channel) -> Any:
    return channel.request(METHOD, Cardinality.STREAM_STREAM, WriteContentRequest, WriteContentResponse)


@pytest.mark.parametrize("window", [65_535, 4 << 20])
async def test_messages_of_any_size_arrive(tmp_path: Path, window: int) -> None:
    sizes = [0, 1, 16_000, 16_384, 16_385, 65_535, 300_000, 3_000_000, 0, 7]
    async with serving(tmp_path / "s", window) as (_, channel), call(channel) as stream:
        for index, size in enumerate(sizes):
            request = WriteContentRequest(ref="r", data=pattern(size))
            await stream.send_message(request, end=index == len(sizes) - 1)
        answers = [reply.offset async for reply in stream]
    assert answers == sizes


async def test_calls_beside_a_large_message_are_not_mixed_up_with_it(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", 65_535) as (_, channel):

        async def send(name: str, size: int) -> None:
            async with call(channel) as stream:
                for last in (False, False, True):
                    await stream.send_message(WriteContentRequest(ref=name, data=pattern(size)), end=last)
                answers = [(reply.digest, reply.offset) async for reply in stream]
            assert answers == [(name, size)] * 3

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for number in range(6):
                    group.start_soon(send, f"n{number}", 10 ** (number + 1))


async def test_who_sends_to_a_call_that_has_ended_learns_its_status(tmp_path: Path) -> None:
    """The window is full, and would never open again."""
    async with serving(tmp_path / "s", 65_535) as (writes, channel):
        writes.fail_at = 2
        with anyio.fail_after(5), pytest.raises(OutOfRange, match="enough"):
            async with call(channel) as stream:
                for _ in range(10):
                    await stream.send_message(WriteContentRequest(ref="r", data=pattern(1_000_000)))
                while await stream.recv_message() is not None:
                    pass
                await stream.raise_status()
        writes.fail_at = -1
        async with call(channel) as stream:  # the connection is none the worse for it
            await stream.send_message(WriteContentRequest(data=pattern(500_000)), end=True)
            assert [reply.offset async for reply in stream] == [500_000]


async def test_a_cancelled_sender_leaves_the_connection_whole(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", 65_535) as (_, channel):
        for _ in range(3):
            with anyio.CancelScope() as scope:
                async with call(channel) as stream:
                    asyncio.get_running_loop().call_soon(scope.cancel)
                    await stream.send_message(WriteContentRequest(data=pattern(8_000_000)))
            assert scope.cancelled_caught
        async with call(channel) as stream:
            await stream.send_message(WriteContentRequest(data=pattern(500_000)), end=True)
            assert [reply.offset async for reply in stream] == [500_000]


@given(st.lists(st.binary(max_size=100)), st.lists(st.integers(1, 70), min_size=1), st.integers(1, 40))
def test_cutting(pieces: list[bytes], sizes: list[int], largest: int) -> None:
    whole, cutter, position, turn = b"".join(pieces), _Cutter(5, list(pieces)), 0, 0
    while position < len(whole):
        size = min(sizes[turn % len(sizes)], len(whole) - position)
        sent = b"".join(cutter.cut(size, largest))
        payload = b""
        while sent:
            length = int.from_bytes(sent[:3], "big")
            assert 0 < length <= largest
            assert sent[3:9] == b"\0\0\0\0\0\x05"
            payload += sent[9 : 9 + length]
            sent = sent[9 + length :]
        assert payload == whole[position : position + size]
        position += size
        turn += 1


def test_a_socket_takes_what_it_can() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        pieces: list[bytes | memoryview] = [pattern(3), memoryview(pattern(5_000_000)), pattern(9)]
        rest = write_vector(ours.fileno(), pieces)
        left = b"".join(rest)
        assert 0 < len(left) < 5_000_012
        assert write_vector(ours.fileno(), rest) == rest  # it is full
        got = b""
        while len(got) + len(left) < 5_000_012:
            got += theirs.recv(1 << 20)
        assert got + left == b"".join(pieces)
        assert write_vector(ours.fileno(), [b"now"]) == []
        theirs.close()
        with pytest.raises(OSError, match="pipe"):
            write_vector(ours.fileno(), [b"x"])


async def test_what_is_written_at_once_does_not_overtake(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
        gathering = GatheringTransport(transport)
        gathering.write(b"one ")
        gathering.writelines([b"two ", b"three "])
        gathering.write(b"four ")
        gathering.writelines([os.urandom(0), b"five"])
        assert theirs.recv(100) == b"one two three four five"
        gathering.close()


@given(st.lists(st.binary(max_size=60), max_size=12), st.lists(st.integers(1, 40), min_size=1))
def test_frames_cut_anywhere_by_the_socket(messages: list[bytes], cuts: list[int]) -> None:
    """Frames of a stream with a ping between each two: none is lost, none is taken twice."""
    written: list[bytes] = []
    wire: Any = SimpleNamespace(write=written.append)
    protocol: Any = ReceivingProtocol.__new__(ReceivingProtocol)
    stream: Any = SimpleNamespace(id=1, data_received=0, buffer=None)
    stream.buffer = Receiver(stream, window=1 << 20, limit=1 << 20, write=written.append)
    protocol.processor = SimpleNamespace(streams={1: stream})
    protocol.config = SimpleNamespace(http2_connection_window_size=1 << 30)
    protocol._gathering = SimpleNamespace(write_soon=written.append)
    protocol.connection = SimpleNamespace(_transport=wire, is_closing=lambda: False)
    data = b""
    for number, message in enumerate(messages):
        payload = b"\0" + len(message).to_bytes(4, "big") + message
        data += len(payload).to_bytes(3, "big") + b"\0\0\0\0\0\x01" + payload
        data += b"\0\0\x08\x06\0\0\0\0\0" + number.to_bytes(8, "big")
    position, turn = 0, 0
    while position < len(data):
        size = cuts[turn % len(cuts)]
        protocol.data_received(data[position : position + size])
        position += size
        turn += 1
    assert stream.buffer.take_all() == messages
    assert [frame[9:] for frame in written] == [n.to_bytes(8, "big") for n in range(len(messages))]


# -- headers ----------------------------------------------------------------------------------------------------

_TEXT = st.binary(max_size=300)


@given(
    st.lists(st.lists(st.tuples(_TEXT.filter(bool), _TEXT), max_size=12), max_size=5), st.integers(0, 4096)
)
def test_any_hpack_decoder_reads_our_headers(blocks: list[list[tuple[bytes, bytes]]], limit: int) -> None:
    """Whatever limit it sets for a table that we don't use."""
    encoder, decoder = HeaderEncoder(), Decoder(max_header_list_size=1 << 20)
    decoder.max_allowed_table_size = limit
    for block in blocks:
        assert [(h[0], h[1]) for h in decoder.decode(encoder.encode(block), raw=True)] == block


def test_the_encoder_remembers_only_so_much() -> None:
    encoder = HeaderEncoder()
    for number in range(3000):
        encoder.encode([(b"grpc-timeout", b"%dm" % number)])
    assert len(encoder._encoded) <= 512


async def test_streams_that_were_closed_are_forgotten_in_time(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", 65_535) as (_, channel):
        for _ in range(300):
            async with call(channel) as stream:
                await stream.send_message(WriteContentRequest(data=b""), end=True)
                assert [reply.offset async for reply in stream] == [0]
        assert channel._protocol is not None
        assert len(channel._protocol.connection._connection.streams) <= 256

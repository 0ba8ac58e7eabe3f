"""Writing content, message by message, against a scripted content service."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import anyio
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server

from containerd_aio._transport.connections import Connections
from containerd_aio._transport.dial import Address
from containerd_aio.api.containerd.services.content.v1 import (
    AbortRequest,
    ContentBase,
    WriteAction,
    WriteContentRequest,
    WriteContentResponse,
)
from containerd_aio.api.google.protobuf import Empty
from containerd_aio.errors import Aborted, AlreadyExists, Internal, InvalidArgument, Unavailable
from containerd_aio.services._chunks import LARGEST, SMALLEST, pieces
from containerd_aio.services.content import ContentStore
from containerd_aio.services.stubs import Services

Script = Callable[[WriteContentRequest], WriteContentResponse | None]


class FakeContent(ContentBase):
    """Answers each message of a write by `script`, keeps them, and counts the calls. None ends the call."""

    def __init__(self) -> None:
        self.script: Script = self.obey
        self.seen: list[WriteContentRequest] = []
        self.calls = 0
        self.aborted: list[str] = []
        self.data = b""

    def obey(self, message: WriteContentRequest) -> WriteContentResponse:
        if message.action != WriteAction.STAT:
            assert message.offset == len(self.data)
            self.data += message.data
        return WriteContentResponse(action=message.action, offset=len(self.data), digest=digest_of(self.data))

    async def write(
        self, messages: AsyncIterator[WriteContentRequest]
    ) -> AsyncIterator[WriteContentResponse]:
        self.calls += 1
        async for message in messages:
            self.seen.append(message)
            answer = self.script(message)
            if answer is None:
                return
            yield answer
            if message.action == WriteAction.COMMIT:
                yield answer  # as containerd does
                return

    async def abort(self, message: AbortRequest) -> Empty:
        self.aborted.append(message.ref)
        return Empty()


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@asynccontextmanager
async def serving(tmp_path: Path) -> AsyncIterator[tuple[FakeContent, ContentStore]]:
    fake = FakeContent()
    server = Server([fake])
    path = str(tmp_path / "s")
    await server.start(path=path)
    connections = Connections(Address.parse(path), timeout=5, connect_timeout=5)
    try:
        yield fake, ContentStore(Services(connections, "test"))
    finally:
        connections.close()
        server.close()
        await server.wait_closed()


async def in_pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [0],
        [1],
        [1, 1, 1],
        [SMALLEST],
        [SMALLEST - 1, 1, 5],
        [LARGEST * 3 + 1],
        [0, LARGEST, 0, 1, SMALLEST],
    ],
)
async def test_pieces_are_neither_tiny_nor_huge(sizes: list[int]) -> None:
    parts = [bytes([i % 256]) * size for i, size in enumerate(sizes)]
    found = [piece async for piece in pieces(in_pieces(*parts))]
    assert b"".join(found) == b"".join(parts)
    assert all(found)
    assert all(len(piece) <= LARGEST for piece in found)
    assert all(len(a) + len(b) >= SMALLEST for a, b in pairwise(found))
    assert b"".join([piece async for piece in pieces(b"".join(parts))]) == b"".join(parts)


async def test_the_messages_of_a_write(tmp_path: Path) -> None:
    data = bytes(range(256)) * (LARGEST // 64)
    async with serving(tmp_path) as (fake, content):
        assert await content.write("ref", data, labels={"a": "b"}) == digest_of(data)
        actions = [message.action for message in fake.seen]
        assert actions == [WriteAction.STAT, *[WriteAction.WRITE] * (len(actions) - 2), WriteAction.COMMIT]
        first, last = fake.seen[0], fake.seen[-1]
        assert (first.ref, first.total, first.expected) == ("ref", len(data), digest_of(data))
        assert (last.total, last.expected, last.labels) == (len(data), digest_of(data), {"a": "b"})
        assert last.data
        assert fake.data == data


async def test_a_small_blob_takes_two_messages(tmp_path: Path) -> None:
    async with serving(tmp_path) as (fake, content):
        assert await content.write("ref", in_pieces(b"a", b"b")) == digest_of(b"ab")
        assert [message.action for message in fake.seen] == [WriteAction.STAT, WriteAction.COMMIT]
        assert fake.seen[0].expected == ""
        assert fake.seen[1].expected == digest_of(b"ab")


async def test_a_locked_ingest_is_tried_again(tmp_path: Path) -> None:
    async with serving(tmp_path) as (fake, content):

        def locked(message: WriteContentRequest) -> WriteContentResponse:
            if fake.calls < 4:
                raise GRPCError(Status.UNAVAILABLE, "ref locked")
            return fake.obey(message)

        fake.script = locked
        assert await content.write("ref", b"data") == digest_of(b"data")
        assert fake.calls == 4


async def test_unavailable_later_is_not_tried_again(tmp_path: Path) -> None:
    async with serving(tmp_path) as (fake, content):

        def breaks(message: WriteContentRequest) -> WriteContentResponse:
            if message.action == WriteAction.COMMIT:
                raise GRPCError(Status.UNAVAILABLE, "shutting down")
            return fake.obey(message)

        fake.script = breaks
        with pytest.raises(Unavailable, match="shutting down"):
            await content.write("ref", b"data")
        assert fake.calls == 1


async def test_a_call_that_ends_without_an_answer(tmp_path: Path) -> None:
    async with serving(tmp_path) as (fake, content):
        fake.script = lambda _: None
        with pytest.raises(Internal, match="without an answer"):
            await content.write("ref", b"data")


async def test_complete_ingests_are_only_committed(tmp_path: Path) -> None:
    async with serving(tmp_path) as (fake, content):
        fake.data = b"data"
        assert await content.write("ref", b"data") == digest_of(b"data")
        assert [message.data for message in fake.seen] == [b"", b""]
        assert fake.seen[1].offset == 4


async def test_found_at_the_commit_it_is_put_under_the_lease(tmp_path: Path) -> None:
    async with serving(tmp_path) as (fake, content):

        def exists(message: WriteContentRequest) -> WriteContentResponse:
            if message.expected:
                raise GRPCError(Status.ALREADY_EXISTS, "there")
            return fake.obey(message)

        fake.script = exists
        assert await content.write("ref", in_pieces(b"data")) == digest_of(b"data")
        assert [m.action for m in fake.seen] == [WriteAction.STAT, WriteAction.COMMIT, WriteAction.STAT]
        assert fake.aborted == []


async def test_found_at_the_commit_and_collected_then(tmp_path: Path) -> None:
    async with serving(tmp_path) as (fake, content):

        def vanishes(message: WriteContentRequest) -> WriteContentResponse:
            if message.action == WriteAction.COMMIT:
                raise GRPCError(Status.ALREADY_EXISTS, "there")
            return fake.obey(message)

        fake.script = vanishes
        with pytest.raises(Aborted, match="write again"):
            await content.write("ref", in_pieces(b"data"))
        assert fake.aborted == ["ref"]


@pytest.mark.parametrize("error", [OSError("disk"), AlreadyExists("not yours"), InvalidArgument("mine")])
async def test_what_the_source_raises_comes_out_as_it_is(tmp_path: Path, error: Exception) -> None:
    async def fails() -> AsyncIterator[bytes]:
        yield b"x"
        raise error

    async with serving(tmp_path) as (fake, content):
        with pytest.raises(type(error)) as caught:
            await content.write("ref", fails())
        assert caught.value is error
        assert getattr(error, "method", None) is None
        assert fake.calls == 1


async def test_a_cancellation_leaves_the_task_as_it_was(tmp_path: Path) -> None:
    async def waits() -> AsyncIterator[bytes]:
        yield b"x" * SMALLEST
        yield b"x" * SMALLEST
        scope.cancel()
        await anyio.sleep_forever()

    async with serving(tmp_path) as (fake, content):
        with anyio.CancelScope() as scope:
            await content.write("ref", waits())
        assert scope.cancelled_caught
        assert len(fake.data) == SMALLEST
        fake.data = b""
        assert await content.write("other", b"y") == digest_of(b"y")


@pytest.mark.parametrize(
    ("ref", "data", "options", "text"),
    [
        ("", b"x", {}, "ref of a write is empty"),
        ("r", "text", {}, "cannot write a str"),
        ("r", [b"x"], {}, "cannot write a list"),
        ("r", b"x", {"expected": "nonsense"}, "not a digest"),
        ("r", b"x", {"expected": "sha512:" + "0" * 128}, "sha256 digests only"),
        ("r", b"x", {"size": 2}, "size 1, not 2"),
        ("r", in_pieces(), {"size": -1}, "size of a write is -1"),
    ],
)
async def test_bad_arguments(
    tmp_path: Path, ref: str, data: object, options: dict[str, object], text: str
) -> None:
    async with serving(tmp_path) as (fake, content):
        with pytest.raises(InvalidArgument, match=text):
            await content.write(ref, data, **options)  # type: ignore[arg-type]
        assert fake.calls == 0

"""The content store of real daemons: writing, resuming, aborting, reading, labels."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import aclosing

import anyio
import pytest

from containerd_aio._transport.connections import Connections
from containerd_aio._transport.dial import Address
from containerd_aio.daemon import Daemon
from containerd_aio.errors import FailedPrecondition, InvalidArgument, NotFound, OutOfRange, ResourceExhausted
from containerd_aio.services.content import ContentStore
from containerd_aio.services.leases import lease
from containerd_aio.services.stubs import Services

DATA = random.Random(7).randbytes(5 << 20)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
async def services(daemon: Daemon, namespace: str) -> AsyncIterator[Services]:
    connections = Connections(Address.parse(daemon.address), timeout=30, connect_timeout=10)
    yield Services(connections, namespace)
    connections.close()


@pytest.fixture
async def content(services: Services) -> AsyncIterator[ContentStore]:
    async with lease(services):
        yield ContentStore(services)


async def stream(data: bytes, size: int = 100_000, *, fail_at: int | None = None) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        if fail_at is not None and at >= fail_at:
            raise ConnectionResetError("the source broke")
        yield data[at : at + size]


async def test_write_bytes_and_read_them_back(content: ContentStore) -> None:
    digest = await content.write("blob", DATA, labels={"a": "b"})
    assert digest == digest_of(DATA)
    info = await content.info(digest)
    assert (info.size, info.labels) == (len(DATA), {"a": "b"})
    assert info.created_at is not None
    assert await content.read_all(digest) == DATA
    assert b"".join([c async for c in content.read(digest, offset=3, size=1000)]) == DATA[3:1003]
    assert b"".join([c async for c in content.read(digest, offset=len(DATA) - 5)]) == DATA[-5:]
    assert [c async for c in content.read(digest, size=0)] == []
    assert await content.statuses() == []


async def test_read_leaves_early(content: ContentStore) -> None:
    digest = await content.write("blob", DATA)
    for _ in range(10):
        async with aclosing(content.read(digest)) as chunks:
            async for chunk in chunks:
                assert DATA.startswith(chunk)
                break
    assert await content.exists(digest)


async def test_read_refuses(content: ContentStore) -> None:
    digest = await content.write("blob", b"12345")
    with pytest.raises(InvalidArgument, match="negative"):
        content.read(digest, offset=-1)
    with pytest.raises(InvalidArgument, match="not a digest"):
        content.read("nonsense")
    with pytest.raises(OutOfRange):
        await anext(content.read(digest, offset=6))
    with pytest.raises(NotFound):
        await content.read_all(digest_of(b"no"))
    with pytest.raises(ResourceExhausted, match="larger than 4 bytes"):
        await content.read_all(digest, limit=4)


@pytest.mark.parametrize("size", [1, 5, 300_000, 4_000_000])
async def test_write_a_stream_of_any_chunks(content: ContentStore, size: int) -> None:
    data = DATA[: min(len(DATA), size * 40 + 7)]
    assert await content.write("s", stream(data, size)) == digest_of(data)
    assert await content.read_all(digest_of(data)) == data


async def test_write_nothing(content: ContentStore) -> None:
    digest = await content.write("empty", b"")
    assert (await content.info(digest)).size == 0
    assert await content.read_all(digest) == b""
    await content.delete(digest)
    assert await content.write("empty", stream(b"")) == digest


async def test_write_what_is_there_reads_nothing_and_sets_labels(content: ContentStore) -> None:
    digest = await content.write("one", b"one", labels={"old": "1"})

    async def untouched() -> AsyncIterator[bytes]:
        raise AssertionError("the data was read")
        yield b""

    assert await content.write("two", untouched(), expected=digest, labels={"new": "2"}) == digest
    assert (await content.info(digest)).labels == {"old": "1", "new": "2"}
    assert await content.statuses() == []


async def test_what_another_namespace_has_is_shared(services: Services, content: ContentStore) -> None:
    """Under the default policy such a blob opens complete: nothing is sent, it is only committed."""
    digest = await content.write("one", DATA)
    # With a name that the fixture cleans up after: the daemon forgets empty namespaces by itself.
    other = Services(services.connections, services.namespace + "-other")
    theirs = ContentStore(other)

    async def untouched() -> AsyncIterator[bytes]:
        raise AssertionError("the data was read")
        yield b""

    async with lease(other):
        assert not await theirs.exists(digest)
        assert await theirs.write("x", untouched(), size=len(DATA), expected=digest) == digest
        assert (await theirs.info(digest)).size == len(DATA)
        await theirs.delete(digest)
    from containerd_aio.services.namespaces import Namespaces

    await Namespaces(other).delete(other.namespace)


@pytest.mark.parametrize("known", [True, False], ids=["digest known", "digest not known"])
async def test_a_broken_write_is_resumed(content: ContentStore, known: bool) -> None:
    expected = digest_of(DATA) if known else None
    with pytest.raises(ConnectionResetError, match="source broke"):
        await content.write("r", stream(DATA, fail_at=4_000_000), expected=expected)
    status = await content.status("r")
    assert 0 < status.offset <= 4_000_000
    assert [s.ref for s in await content.statuses()] == ["r"]
    assert await content.write("r", stream(DATA), expected=expected, size=len(DATA)) == digest_of(DATA)
    assert await content.read_all(digest_of(DATA)) == DATA
    assert await content.statuses() == []


async def test_a_cancelled_write_is_resumed(content: ContentStore) -> None:
    with anyio.CancelScope() as scope:

        async def cancels() -> AsyncIterator[bytes]:
            async for chunk in stream(DATA):
                yield chunk
                if chunk == DATA[3_000_000:3_100_000]:
                    scope.cancel()

        await content.write("r", cancels())
    assert scope.cancelled_caught
    assert 0 < (await content.status("r")).offset < len(DATA)
    assert await content.write("r", DATA) == digest_of(DATA)


async def test_other_bytes_under_the_ref_of_a_broken_write(content: ContentStore) -> None:
    other = bytes(len(DATA))
    with pytest.raises(ConnectionResetError):
        await content.write("r", stream(other, fail_at=4_000_000))
    with pytest.raises(FailedPrecondition, match="held other bytes"):
        await content.write("r", stream(DATA))
    assert await content.write("r", stream(DATA)) == digest_of(DATA)
    with pytest.raises(ConnectionResetError):
        await content.write("s", stream(other, fail_at=4_000_000))
    # Bytes can be had again from the start, so the ingest is simply begun anew.
    assert await content.write("s", DATA[1:]) == digest_of(DATA[1:])


async def test_a_shorter_blob_under_the_ref_of_a_broken_write(content: ContentStore) -> None:
    with pytest.raises(ConnectionResetError):
        await content.write("r", stream(DATA, fail_at=4_000_000))
    assert await content.write("r", b"short") == digest_of(b"short")


async def test_abort(content: ContentStore) -> None:
    with pytest.raises(ConnectionResetError):
        await content.write("r", stream(DATA, fail_at=2_000_000))
    await content.abort("r")
    assert await content.statuses() == []
    with pytest.raises(NotFound):
        await content.abort("r")
    await content.discard("r")


async def test_what_was_promised_is_checked(content: ContentStore) -> None:
    with pytest.raises(InvalidArgument, match="size 3, not 4"):
        await content.write("a", b"abc", size=4)
    with pytest.raises(InvalidArgument, match="the digest sha256"):
        await content.write("a", b"abc", expected=digest_of(b"x"))
    assert await content.statuses() == []
    with pytest.raises(InvalidArgument, match="ended after 3 of 4"):
        await content.write("b", stream(b"abc"), size=4)
    with pytest.raises(InvalidArgument, match="more than the 2 bytes"):
        await content.write("c", stream(b"abc"), size=2)
    with pytest.raises(FailedPrecondition):
        await content.write("d", stream(b"abc"), expected=digest_of(b"x"))
    assert sorted(s.ref for s in await content.statuses()) == ["b", "c"]
    for ref in ("b", "c"):
        await content.abort(ref)
    assert await content.list() == []


async def test_two_writers_of_one_ref_take_turns(content: ContentStore) -> None:
    """The second waits for the lock and finds the blob there."""
    started, go_on = anyio.Event(), anyio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield DATA[:2_000_000]
        started.set()
        await go_on.wait()
        yield DATA[2_000_000:]

    digests: list[str] = []

    async def first() -> None:
        digests.append(await content.write("r", slow()))

    async def second() -> None:
        digests.append(await content.write("r", DATA))

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        await started.wait()
        group.start_soon(second)
        with anyio.move_on_after(0.2):
            await anyio.sleep_forever()
        assert digests == []
        go_on.set()
    assert digests == [digest_of(DATA)] * 2


async def test_labels(content: ContentStore) -> None:
    digest = await content.write("x", b"x", labels={"a": "1", "b": "2"})
    info = await content.update_labels(
        digest, {"a": "3", "b": None, "containerd.io/gc.ref.content.0": digest}
    )
    assert info.labels == {"a": "3", "containerd.io/gc.ref.content.0": digest}
    assert (await content.update_labels(digest, {})).labels == info.labels
    assert (await content.update_labels(digest, {"z": "1"}, replace=True)).labels == {"z": "1"}
    assert [i.digest for i in await content.list("labels.z==1")] == [digest]
    assert await content.list("labels.z==2") == []
    with pytest.raises(InvalidArgument):
        await content.update_labels(digest, {"long": "x" * 4096})
    with pytest.raises(NotFound):
        await content.update_labels(digest_of(b"no"), {"a": "b"})


async def test_many_blobs_are_listed_and_deleted(content: ContentStore) -> None:
    digests: set[str] = set()

    async def write(number: int) -> None:
        digests.add(await content.write(f"n{number}", b"%d" % number))

    async with anyio.create_task_group() as group:
        for number in range(250):  # more than the hundred that come in one message
            group.start_soon(write, number)
    assert {info.digest for info in await content.list()} == digests
    await content.delete(digests.pop())
    assert {info.digest for info in await content.list()} == digests

"""What containerd's own test suite asks of a content store, asked through this client of real daemons.

The suite is the one behind Go's ``TestContentClient``; what it asks within one process of several namespaces is asked of two
namespaces of one daemon here.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import AsyncIterator

import anyio
import pytest

from containerd_aio._transport.connections import Connections
from containerd_aio._transport.dial import Address
from containerd_aio.client import Client
from containerd_aio.daemon import Daemon
from containerd_aio.errors import (
    AlreadyExists,
    Closed,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from containerd_aio.services.content import ContentStore
from containerd_aio.services.descriptor import Descriptor
from containerd_aio.services.gc import CONTENT_LABEL, ROOT_LABEL, reference_labels
from containerd_aio.services.leases import Leases, lease
from containerd_aio.services.namespaces import Namespaces
from containerd_aio.services.snapshots import Snapshotter
from containerd_aio.services.stubs import Services

suite = pytest.mark.shows("go:TestContentClient")
DATA = random.Random(11).randbytes(3 << 20)


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


@pytest.fixture
async def elsewhere(services: Services) -> AsyncIterator[ContentStore]:
    """The store of another namespace of the same daemon."""
    other = Services(services.connections, services.namespace + "-other")
    async with lease(other):
        store = ContentStore(other)
        yield store
        for info in await store.list():
            await store.delete(info.digest)
    await Namespaces(other).delete(other.namespace)


class Parts:
    """A source that can be read from anywhere, and notes from where it was."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offsets: list[int] = []

    async def read_from(self, offset: int) -> AsyncIterator[bytes]:
        self.offsets.append(offset)
        yield self.data[offset:]


async def begin(content: ContentStore, ref: str, data: bytes) -> None:
    """Leave an ingest behind that has come as far as `data`."""
    async with content.writer(ref) as writer:
        await writer.write(data)


@suite
@pytest.mark.shows("seed:containerd.Client.ContentStore")
async def test_a_writer(content: ContentStore) -> None:
    async with content.writer("w", size=len(DATA), expected=digest_of(DATA)) as writer:
        assert writer.offset == 0
        status = await content.status("w")
        assert (status.ref, status.offset, status.total) == ("w", 0, len(DATA))
        for at in range(0, len(DATA), 700_000):
            await writer.write(DATA[at : at + 700_000])
        assert writer.offset == len(DATA)
        assert await writer.digest() == digest_of(DATA)
        assert await content.list() == []
        assert await writer.commit(size=len(DATA), labels={"a": "b"}) == digest_of(DATA)
        with pytest.raises(FailedPrecondition, match="has committed"):
            await writer.write(b"more")
    assert (await content.info(digest_of(DATA))).labels == {"a": "b"}
    assert await content.statuses() == []
    assert await content.read_all(digest_of(DATA)) == DATA


@suite
async def test_the_status_follows_the_writes(content: ContentStore) -> None:
    async with content.writer("s") as writer:
        before = await content.status("s")
        assert before.started_at is not None
        for size in (1, 20, 65_000):
            await writer.write(bytes(size))
            await writer.digest()
            status = await content.status("s")
            assert status.offset == writer.offset
            assert status.started_at == before.started_at
            assert status.updated_at is not None
            assert status.updated_at >= before.started_at
        assert [found.ref for found in await content.statuses("ref==s")] == ["s"]
        assert await content.statuses("ref==t") == []


@suite
async def test_a_commit_of_what_exists(content: ContentStore) -> None:
    digest = await content.write("one", DATA)
    with pytest.raises(AlreadyExists):
        async with content.writer("two", expected=digest):
            raise AssertionError("not reached")
    with pytest.raises(AlreadyExists):
        async with content.writer("three") as writer:
            await writer.write(DATA)
            await writer.commit()
    assert await content.statuses() == []


@suite
async def test_resuming_a_writer(content: ContentStore) -> None:
    await begin(content, "r", DATA[:1_000_000])
    async with content.writer("r", expected=digest_of(DATA)) as writer:
        assert writer.offset == 1_000_000
        assert await writer.digest() in {"", digest_of(DATA[:1_000_000])}
        await writer.write(memoryview(DATA)[1_000_000:])
        assert await writer.commit() == digest_of(DATA)
    assert await content.read_all(digest_of(DATA)) == DATA


@suite
async def test_beginning_anew(content: ContentStore) -> None:
    await begin(content, "r", bytes(500_000))
    async with content.writer("r") as writer:
        with pytest.raises(InvalidArgument, match="begin it anew"):
            await writer.truncate(7)
        await writer.truncate()
        await writer.write(bytearray(DATA))
        assert await writer.commit(expected=digest_of(DATA)) == digest_of(DATA)


@suite
@pytest.mark.parametrize("known", [True, False], ids=["digest known", "digest not known"])
async def test_a_source_that_can_be_read_from_anywhere(content: ContentStore, known: bool) -> None:
    """With the digest known, containerd vouches for what has come; without, it has to be hashed here."""
    await begin(content, "r", DATA[:1_000_000])
    source = Parts(DATA)
    assert await content.write("r", source, expected=digest_of(DATA) if known else None) == digest_of(DATA)
    assert source.offsets == ([1_000_000] if known else [0])
    assert await content.read_all(digest_of(DATA)) == DATA


@suite
async def test_a_source_that_is_not_what_was_begun(content: ContentStore) -> None:
    await begin(content, "r", bytes(1_000_000))
    with pytest.raises(FailedPrecondition):
        await content.write("r", Parts(DATA), expected=digest_of(DATA))
    assert await content.statuses() == []
    assert await content.write("r", Parts(DATA), expected=digest_of(DATA)) == digest_of(DATA)


@suite
async def test_a_commit_that_fails_leaves_the_ingest(content: ContentStore) -> None:
    for number, (size, expected) in enumerate(((5, None), (0, digest_of(b"other")), (4, digest_of(b"x")))):
        ref = f"c{number}"
        with pytest.raises(FailedPrecondition):
            async with content.writer(ref) as writer:
                await writer.write(b"data")
                await writer.commit(size=size, expected=expected)
        assert (await content.status(ref)).offset == 4
        async with content.writer(ref) as writer:
            assert await writer.commit(size=4, expected=digest_of(b"data")) == digest_of(b"data")
        await content.delete(digest_of(b"data"))


@suite
async def test_small_blobs(content: ContentStore) -> None:
    for size in (0, 1, 3, 100):
        data = bytes(range(size))
        async with content.writer(f"b{size}") as writer:
            await writer.write(data)
            digest = await writer.commit(size=size, expected=digest_of(data))
        assert (await content.info(digest)).size == size
        async with content.open(digest) as reader:
            assert await reader.read() == data


@suite
async def test_labels_and_the_times_they_were_changed(content: ContentStore) -> None:
    digest = await content.write("l", b"labelled", labels={"k1": "v1"})
    first = await content.info(digest)
    second = await content.update_labels(digest, {"k2": "v2"})
    assert second.labels == {"k1": "v1", "k2": "v2"}
    assert first.updated_at is not None
    assert second.updated_at is not None
    assert second.updated_at >= first.updated_at
    assert second.created_at == first.created_at
    assert (await content.update_labels(digest, {}, replace=True)).labels == {}


@suite
async def test_across_namespaces_a_blob_is_appended_to_or_shared(
    content: ContentStore, elsewhere: ContentStore
) -> None:
    digest = await content.write("x", DATA)
    # Announced, it is there from the beginning; not announced, its bytes are taken as any others.
    async with elsewhere.writer("x", size=len(DATA), expected=digest) as writer:
        assert writer.offset == len(DATA)
        assert await writer.commit(size=len(DATA)) == digest
    await elsewhere.delete(digest)
    async with elsewhere.writer("y") as writer:
        assert writer.offset == 0
        await writer.write(DATA)
        assert await writer.commit() == digest
    assert (await elsewhere.info(digest)).size == len(DATA)
    await content.delete(digest)
    assert await elsewhere.read_all(digest) == DATA
    assert not await content.exists(digest)


@pytest.mark.shows("go:TestContentClient")
async def test_isolated_namespaces(private_daemon: type[Daemon], containerd_version: str) -> None:
    """Under the isolating policy the bytes have to be shown, unless their owner shares them (from 1.7 on)."""
    config = {"plugins": {"io.containerd.metadata.v1.bolt": {"content_sharing_policy": "isolated"}}}
    async with (
        private_daemon(config=config) as daemon,
        Client(daemon.address, namespace="owner") as client,
    ):
        owner, guest, sharer = (client.namespaced(n).services for n in ("owner", "guest", "sharer"))
        await client.namespaces.create("sharer", labels={"containerd.io/namespace.shareable": "true"})
        async with lease(owner), lease(guest), lease(sharer):
            own, shared = await ContentStore(owner).write("a", DATA), b"shared" * 1000
            digest = await ContentStore(sharer).write("a", shared)
            async with ContentStore(guest).writer("a", size=len(DATA), expected=own) as writer:
                assert writer.offset == 0
                await writer.write(DATA)
                assert await writer.commit() == own
            async with ContentStore(guest).writer("b", size=len(shared), expected=digest) as writer:
                assert writer.offset == (0 if containerd_version == "1.6" else len(shared))
                if writer.offset == 0:
                    await writer.write(shared)
                assert await writer.commit() == digest


async def test_a_cancelled_writer_leaves_an_ingest_that_anybody_may_go_on_with(content: ContentStore) -> None:
    with anyio.CancelScope() as scope:
        async with content.writer("c") as writer:
            await writer.write(DATA[:2_000_000])
            await writer.digest()
            scope.cancel()
            await writer.write(DATA[2_000_000:])
    assert scope.cancelled_caught
    with pytest.raises(RuntimeError):
        async with content.writer("c") as writer:  # it is not locked any more
            assert 2_000_000 <= writer.offset < len(DATA)
            raise RuntimeError
    assert await content.write("c", DATA) == digest_of(DATA)


# -- reading like a file, copying -------------------------------------------------------------------------------


@pytest.mark.shows("seed:containerd.Client.ContentStore")
async def test_a_reader(content: ContentStore) -> None:
    digest = await content.write("r", DATA)
    async with content.open(Descriptor("x/y", digest, len(DATA))) as reader:
        assert (reader.digest, reader.size, reader.tell()) == (digest, len(DATA), 0)
        assert await reader.read(10) == DATA[:10]
        assert await reader.read(2_000_000) == DATA[10:2_000_010]
        assert reader.tell() == 2_000_010
        assert await reader.read_at(5, 7) == DATA[5:12]
        assert await reader.read_at(len(DATA) - 2, 7) == DATA[-2:]
        assert await reader.read_at(len(DATA), 7) == await reader.read_at(len(DATA) + 9, 7) == b""
        assert await reader.read() == DATA[2_000_010:]
        assert await reader.read(5) == await reader.read() == b""
        assert await reader.seek(-4, os.SEEK_END) == len(DATA) - 4
        assert await reader.read(100) == DATA[-4:]
        assert await reader.seek(3) == 3
        assert await reader.seek(4, os.SEEK_CUR) == 7
        assert b"".join([part async for part in reader]) == DATA[7:]
        assert await reader.seek(10, os.SEEK_END) == len(DATA) + 10
        assert await reader.read(1) == b""
        for bad in ((-1, os.SEEK_SET), (-len(DATA) - 11, os.SEEK_CUR), (0, 9)):
            with pytest.raises(InvalidArgument):
                await reader.seek(*bad)
        with pytest.raises(InvalidArgument, match="negative"):
            await reader.read_at(-1, 1)
        await reader.seek(0)
        assert await reader.read(1) == DATA[:1]
    with pytest.raises(Closed):
        await reader.read()
    with pytest.raises(NotFound):
        async with content.open(digest_of(b"no")):
            raise AssertionError("not reached")


async def test_content_embedded_in_its_descriptor(content: ContentStore) -> None:
    data = b"embedded"
    assert await content.read_all(Descriptor("x", digest_of(data), len(data), data=data)) == data
    for wrong in (b"embeddes", b"longer than told"):
        with pytest.raises(NotFound):  # not what it says it is: the store is asked
            await content.read_all(Descriptor("x", digest_of(data), len(data), data=wrong))


@suite
async def test_copying_between_stores_goes_on_where_it_stopped(
    content: ContentStore, elsewhere: ContentStore, services: Services
) -> None:
    data = b"not shared by its digest" * 50_000
    digest = await content.write("a", data)
    async with elsewhere.writer(f"copy-{digest}") as writer:
        await writer.write(data[:500_000])
    assert await elsewhere.copy_from(content, digest, labels={"copied": "yes"}) == digest
    assert (await elsewhere.info(digest)).labels == {"copied": "yes"}
    assert await elsewhere.copy_from(content, digest) == digest
    assert await elsewhere.statuses() == []
    with pytest.raises(NotFound):
        await elsewhere.copy_from(content, digest_of(b"no"))


async def test_walking_in_blocks(content: ContentStore) -> None:
    digests = {
        await content.write(f"n{number}", b"%d" % number, labels={"n": str(number % 2)})
        for number in range(150)
    }
    assert {info.digest async for info in content.walk()} == digests
    assert len([info async for info in content.walk("labels.n==1")]) == 75
    assert len([info async for info in content.walk("labels.n==1", "labels.n==0")]) == 150
    with pytest.raises(InvalidArgument):
        await anext(content.walk("==="))


async def test_what_refers_to_content_and_snapshots_keeps_them(services: Services) -> None:
    content, snapshots, leases = ContentStore(services), Snapshotter(services), Leases(services)

    async def collect() -> set[str]:
        last = await leases.create()
        await leases.delete(last, sync=True)
        return {info.digest for info in await content.list()} | {info.name for info in await snapshots.list()}

    async with lease(services):
        leaf = await content.write("leaf", b"leaf")
        alone = await content.write("alone", b"alone")
        await snapshots.prepare("active")
        await snapshots.commit("base", "active")
        references = reference_labels(content=[leaf], snapshots={"overlayfs": ["base"]}, root=True)
        assert references.keys() >= {f"{CONTENT_LABEL}.0", ROOT_LABEL}
        index = await content.write("index", b"index", labels=references)
        assert await collect() == {leaf, alone, index, "base"}
    assert await collect() == {leaf, index, "base"}
    await content.update_labels(index, {f"{CONTENT_LABEL}.0": None})
    assert await collect() == {index, "base"}
    await content.update_labels(index, {ROOT_LABEL: None})
    assert await collect() == set()
    for bad in ({"content": ["x"]}, {"snapshots": {"": ["x"]}}, {"images": [""]}):
        with pytest.raises(InvalidArgument):
            reference_labels(**bad)

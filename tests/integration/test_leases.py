"""Leases on real daemons, above all which calls carry them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from containerd_aio._transport.connections import Connections
from containerd_aio._transport.dial import Address
from containerd_aio.client import Client
from containerd_aio.daemon import Daemon
from containerd_aio.errors import AlreadyExists, InvalidArgument, NotFound, Unimplemented
from containerd_aio.services.content import ContentStore
from containerd_aio.services.leases import EXPIRE_LABEL, Leases, Resource, lease
from containerd_aio.services.snapshots import Snapshotter
from containerd_aio.services.stubs import Services


@pytest.fixture
async def services(daemon: Daemon, namespace: str) -> AsyncIterator[Services]:
    connections = Connections(Address.parse(daemon.address), timeout=30, connect_timeout=10)
    yield Services(connections, namespace)
    connections.close()


async def test_create_list_delete(services: Services) -> None:
    leases = Leases(services)
    made = await leases.create(id="mine", labels={"a": "b"}, expires=timedelta(minutes=1))
    assert made.id == "mine"
    assert made.created_at is not None
    left = datetime.fromisoformat(made.labels[EXPIRE_LABEL]) - datetime.now(UTC)
    assert timedelta(seconds=50) < left <= timedelta(seconds=61)
    other = await leases.create()
    assert {found.id for found in await leases.list()} == {"mine", other.id}
    assert [found.id for found in await leases.list("labels.a==b")] == ["mine"]
    with pytest.raises(AlreadyExists):
        await leases.create(id="mine")
    with pytest.raises(InvalidArgument, match="protect nothing"):
        await leases.create(expires=timedelta(0))
    await leases.delete("mine")
    await leases.delete(other, sync=True)
    with pytest.raises(NotFound):
        await leases.delete("mine")


@pytest.mark.shows("go:TestLeaseResources")
async def test_resources(services: Services, containerd_version: str) -> None:
    """Of every kind, there or not; of a kind that is not known they are refused."""
    leases, content = Leases(services), ContentStore(services)
    made = await leases.create()
    with leases.use(made):
        digest = await content.write("blob", b"some content")
        await Snapshotter(services).prepare("active")
    held = {Resource("content", digest), Resource("snapshots/overlayfs", "active")}
    assert set(await leases.resources(made)) == held
    thing = Resource("snapshots/overlayfs", "not there yet")
    await leases.add_resource(made, thing)
    await leases.add_resource(made, Resource("ingests", "coming"))
    assert set(await leases.resources(made)) == {*held, thing, Resource("ingests", "coming")}
    for resource in (*held, thing, Resource("ingests", "coming")):
        await leases.delete_resource(made, resource)
    assert await leases.resources(made) == []
    # Nothing holds the blob any more: the next collection takes it.
    await leases.delete(made, sync=True)
    assert not await content.exists(digest)
    with pytest.raises(NotFound):
        await leases.add_resource("no such lease", thing)
    other = await leases.create()
    for unknown in (Resource("no such kind", "x"), Resource("snapshots", "x"), Resource("content/x", "x")):
        with pytest.raises((Unimplemented, InvalidArgument)):
            await leases.add_resource(other, unknown)
    image = Resource("images", "docker.io/library/a:b")
    if containerd_version in {"1.6", "1.7"}:
        with pytest.raises(Unimplemented):
            await leases.add_resource(other, image)
    else:
        await leases.add_resource(other, image)
        assert await leases.resources(other) == [image]


async def test_a_lease_in_use_is_found_and_the_one_before_comes_back(services: Services) -> None:
    leases = Leases(services)
    made = await leases.create(id="mine")
    assert leases.current is None
    async with lease(services) as outer:
        assert leases.current == outer
        with leases.use(made):
            assert leases.current == "mine"
            digest = await ContentStore(services).write("a", b"a")
        assert leases.current == outer
    assert leases.current is None
    assert await leases.resources(made) == [Resource("content", digest)]


async def test_options_of_the_block(services: Services) -> None:
    leases = Leases(services)
    async with lease(services, id="named", expires=None, labels={"a": "b"}, sync=True) as name:
        (held,) = await leases.list()
        assert (name, held.id, held.labels) == ("named", "named", {"a": "b"})  # no expiry among them
        digest = await ContentStore(services).write("a", b"a")
    # Collected by the time the block is left: nothing is waited for here.
    assert not await ContentStore(services).exists(digest)
    await leases.create(id="theirs")
    with pytest.raises(AlreadyExists):
        async with lease(services, id="theirs"):
            raise AssertionError("not reached")
    assert [found.id for found in await leases.list()] == ["theirs"]
    with pytest.raises(InvalidArgument, match="empty"):
        async with lease(services, id=""):
            raise AssertionError("not reached")


async def test_a_lease_of_a_client(daemon: Daemon, namespace: str) -> None:
    async with Client(daemon.address, namespace=namespace) as client:
        leases = Leases(client.services)
        async with client.lease() as name:
            (held,) = await leases.list()
            left = datetime.fromisoformat(held.labels[EXPIRE_LABEL]) - datetime.now(UTC)
            assert held.id == name
            assert timedelta(hours=23) < left <= timedelta(hours=24)
        async with client.lease(expires=None):
            (held,) = await leases.list()
            assert EXPIRE_LABEL not in held.labels
        with pytest.raises(InvalidArgument, match="protect nothing"):
            async with client.lease(expires=timedelta(0)):
                raise AssertionError("not reached")
        assert await leases.list() == []


async def test_the_block_holds_a_lease_for_everything_made_in_it(services: Services) -> None:
    leases, content, snapshots = Leases(services), ContentStore(services), Snapshotter(services)
    async with lease(services, labels={"for": "test"}) as name:
        (held,) = await leases.list()
        assert held.id == name
        assert held.labels["for"] == "test"
        left = datetime.fromisoformat(held.labels[EXPIRE_LABEL]) - datetime.now(UTC)
        assert timedelta(hours=23) < left <= timedelta(hours=24)
        digest = await content.write("a", b"a")
        await snapshots.prepare("key")
        expected = {Resource("content", digest), Resource("snapshots/overlayfs", "key")}
        assert set(await leases.resources(name)) == expected
        await snapshots.remove("key")
    assert await leases.list() == []


async def test_tasks_started_in_the_block_carry_it_and_others_do_not(services: Services) -> None:
    leases, content = Leases(services), ContentStore(services)
    names: dict[str, str] = {}
    all_hold, written = anyio.Event(), anyio.Event()
    done: list[str] = []

    async def child(data: bytes) -> None:
        await content.write(data.decode(), data)

    async def worker(data: bytes) -> None:
        async with lease(services) as name:
            names[name] = await content.write("own " + data.decode(), data)
            if len(names) == 2:
                all_hold.set()
            await all_hold.wait()
            async with anyio.create_task_group() as group:
                group.start_soon(child, b"child of " + data)
            assert len(await leases.resources(name)) == 2
            done.append(name)
            if len(done) == 2:
                written.set()
            await written.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(worker, b"one")
        group.start_soon(worker, b"two")
    assert len(names) == 2
    assert await leases.list() == []


async def test_a_block_in_a_block_uses_the_same_lease(services: Services) -> None:
    leases = Leases(services)
    async with lease(services) as outer:
        async with lease(services) as inner:
            assert inner == outer
        assert [found.id for found in await leases.list()] == [outer]
        other = Services(services.connections, services.namespace + "-b")
        async with lease(other) as elsewhere:
            assert elsewhere != outer
            # Each of the two is known in its own namespace only: had a call the wrong one, it would fail.
            await ContentStore(services).write("x", b"here")
            await ContentStore(other).write("x", b"there")
            await ContentStore(other).delete((await ContentStore(other).list())[0].digest)
    assert await leases.list() == []
    assert await Leases(other).list() == []
    from containerd_aio.services.namespaces import Namespaces

    await Namespaces(services).delete(other.namespace)


async def test_the_lease_goes_with_a_cancelled_or_failed_block(services: Services) -> None:
    leases = Leases(services)
    with pytest.raises(RuntimeError, match="oops"):
        async with lease(services):
            raise RuntimeError("oops")
    with anyio.CancelScope() as scope:
        async with lease(services):
            scope.cancel()
            await anyio.sleep_forever()
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with lease(services):
            await anyio.sleep_forever()
    assert await leases.list() == []


async def test_a_lease_deleted_under_the_block(services: Services) -> None:
    async with lease(services) as name:
        await Leases(services).delete(name)
        with pytest.raises(NotFound, match="lease"):
            await ContentStore(services).write("a", b"a")
    assert await Leases(services).list() == []
    assert await ContentStore(services).write("a", b"a")  # no lease is in force any more

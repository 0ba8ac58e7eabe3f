"""Leases on real daemons, above all which calls carry them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from containerd_aio._transport.connections import Connections
from containerd_aio._transport.dial import Address
from containerd_aio.daemon import Daemon
from containerd_aio.errors import AlreadyExists, InvalidArgument, NotFound
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


async def test_resources(services: Services) -> None:
    leases = Leases(services)
    made = await leases.create()
    thing = Resource("snapshots/overlayfs", "not there yet")
    await leases.add_resource(made, thing)
    assert await leases.resources(made) == [thing]
    await leases.delete_resource(made, thing)
    assert await leases.resources(made) == []
    with pytest.raises(NotFound):
        await leases.add_resource("no such lease", thing)


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
    digest = await ContentStore(services).write("a", b"a")  # no lease is in force any more
    await ContentStore(services).delete(digest)

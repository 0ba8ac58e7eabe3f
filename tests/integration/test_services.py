"""The thin services on real daemons: namespaces, introspection, snapshots, diff, image records."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from containerd_aio import mounts as mounted
from containerd_aio._transport.connections import Connections
from containerd_aio._transport.dial import Address
from containerd_aio.daemon import Daemon
from containerd_aio.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from containerd_aio.services.content import ContentStore
from containerd_aio.services.descriptor import Descriptor
from containerd_aio.services.diff import DIFF_MEDIA_TYPES, Diff
from containerd_aio.services.images import ImageStore
from containerd_aio.services.introspection import SNAPSHOTTER_PLUGIN, Introspection
from containerd_aio.services.leases import lease
from containerd_aio.services.namespaces import Namespaces
from containerd_aio.services.snapshots import Kind, Snapshotter, resolve_snapshotter
from containerd_aio.services.stubs import Services
from containerd_aio.testing.images import layer_tar

TARGET = Descriptor("application/vnd.oci.image.manifest.v1+json", "sha256:" + "ab" * 32, 7)
OTHER = Descriptor("application/vnd.oci.image.manifest.v1+json", "sha256:" + "cd" * 32, 8)


@pytest.fixture
async def services(daemon: Daemon, namespace: str) -> AsyncIterator[Services]:
    connections = Connections(Address.parse(daemon.address), timeout=30, connect_timeout=10)
    yield Services(connections, namespace)
    connections.close()


# -- namespaces -------------------------------------------------------------------------------------------------


@pytest.mark.shows("seed:containerd.Client.NamespaceService")
async def test_namespaces(services: Services, namespace: str) -> None:
    namespaces = Namespaces(services)
    assert not await namespaces.exists(namespace)
    assert await namespaces.labels(namespace) == {}
    made = await namespaces.create(namespace, labels={"a": "1"})
    assert (made.name, made.labels) == (namespace, {"a": "1"})
    assert namespace in {found.name for found in await namespaces.list()}
    with pytest.raises(AlreadyExists):
        await namespaces.create(namespace)
    await namespaces.update_labels(namespace, {"a": None, "b/c.d-e": "2"})
    assert await namespaces.labels(namespace) == {"b/c.d-e": "2"}
    await namespaces.update_labels(namespace, {"z": "3"})
    assert await namespaces.labels(namespace) == {"b/c.d-e": "2", "z": "3"}
    await namespaces.delete(namespace)
    with pytest.raises(NotFound):
        await namespaces.delete(namespace)
    with pytest.raises(InvalidArgument):
        await namespaces.create("not/a name")


async def test_a_namespace_in_use_is_not_deleted(services: Services, namespace: str) -> None:
    await ImageStore(services).create("image", TARGET)
    with pytest.raises(FailedPrecondition):
        await Namespaces(services).delete(namespace)


async def test_the_default_snapshotter_of_a_namespace(services: Services, namespace: str) -> None:
    assert await resolve_snapshotter(services) == "overlayfs"
    await Namespaces(services).create(namespace, labels={"containerd.io/defaults/snapshotter": "native"})
    assert await resolve_snapshotter(services) == "native"
    assert await resolve_snapshotter(services, "other") == "other"


# -- introspection ------------------------------------------------------------------------------------------------


async def test_server_and_plugins(services: Services, containerd_version: str) -> None:
    introspection = Introspection(services)
    server = await introspection.server()
    assert len(server.uuid) == 36
    assert (await introspection.server()).uuid == server.uuid
    if containerd_version == "1.6":
        assert (server.pid, server.pidns) == (None, None)
    else:
        assert server.pid is not None
        assert server.pid > 1
        assert server.pidns == Path("/proc/self/ns/pid").stat().st_ino
    (overlay,) = await introspection.plugins(f"type=={SNAPSHOTTER_PLUGIN},id==overlayfs")
    assert overlay.init_error is None
    assert [str(platform) for platform in overlay.platforms] == ["linux/amd64"] or overlay.platforms
    assert overlay.exports["root"].endswith("snapshotter.v1.overlayfs")
    assert len(await introspection.plugins()) > 10
    broken = [p for p in await introspection.plugins() if p.init_error]
    assert all(p.init_error for p in broken)
    with pytest.raises(InvalidArgument):
        await introspection.plugins("===")


# -- snapshots and diff ---------------------------------------------------------------------------------------------


async def test_the_life_of_a_snapshot(services: Services) -> None:
    snapshots = Snapshotter(services)
    async with lease(services):
        (mount,) = await snapshots.prepare("active", labels={"a": "b"})
        assert mount.type == "bind"
        assert "rw" in mount.options
        assert await snapshots.mounts("active") == [mount]
        info = await snapshots.stat("active")
        assert (info.kind, info.parent, info.labels) == (Kind.ACTIVE, "", {"a": "b"})
        with pytest.raises(AlreadyExists):
            await snapshots.prepare("active")
        await snapshots.commit("base", "active", labels={"c": "d"})
        assert not await snapshots.exists("active")
        assert (await snapshots.stat("base")).kind is Kind.COMMITTED
        with pytest.raises(FailedPrecondition):
            await snapshots.mounts("base")
        mounts = await snapshots.view("view", "base")
        assert "ro" in mounts[0].options
        with pytest.raises(FailedPrecondition):
            await snapshots.remove("base")
        assert (await snapshots.usage("base")).inodes >= 1
        updated = await snapshots.update_labels("base", {"c": None, "e": "f"})
        assert updated.labels == {"e": "f"}
        assert (await snapshots.update_labels("base", {"x": "y"}, replace=True)).labels == {"x": "y"}
        assert [i.name for i in await snapshots.list("kind==view")] == ["view"]
        assert [i.name for i in await snapshots.list("parent==base")] == ["view"]
        assert {i.name for i in await snapshots.list()} == {"base", "view"}
        await snapshots.remove("view")
        await snapshots.remove("base")
        with pytest.raises(NotFound):
            await snapshots.stat("base")
    with pytest.raises(Unimplemented):
        await snapshots.cleanup()
    with pytest.raises(InvalidArgument):
        await Snapshotter(services, "no-such-snapshotter").stat("x")
    with pytest.raises(InvalidArgument, match="empty"):
        await snapshots.prepare("")


async def test_diff_and_apply(services: Services) -> None:
    snapshots, diff, content = Snapshotter(services), Diff(services), ContentStore(services)
    async with lease(services):
        mounts = await snapshots.prepare("upper")
        data = layer_tar({"hello": b"world"})
        digest = await content.write("hello", data)
        made = await diff.apply(Descriptor(DIFF_MEDIA_TYPES[1], digest, len(data)), mounts)
        assert made.digest == digest
        with pytest.raises(NotFound):
            await diff.apply(OTHER, mounts)
        layers = [await diff.diff([], mounts, media_type=kind) for kind in DIFF_MEDIA_TYPES[:2]]
        assert [layer.media_type for layer in layers] == list(DIFF_MEDIA_TYPES[:2])
        plain = layers[1].digest
        assert (await content.info(layers[0].digest)).labels["containerd.io/uncompressed"] == plain
        for number, layer in enumerate(layers):
            target = await snapshots.prepare(f"copy{number}")
            applied = await diff.apply(layer, target)
            assert applied.digest == plain
            async with mounted.temporary_mount(target, readonly=True) as root:
                assert (root / "hello").read_text() == "world"
            await snapshots.remove(f"copy{number}")
        await snapshots.remove("upper")
        with pytest.raises(InvalidArgument, match="cannot make a layer of type"):
            await diff.diff([], [], media_type="application/x-tar")


# -- image records ----------------------------------------------------------------------------------------------------


async def test_image_records(services: Services) -> None:
    images = ImageStore(services)
    made = await images.create("a", TARGET, labels={"x": "1"})
    assert (made.name, made.target, made.labels) == ("a", TARGET, {"x": "1"})
    assert made.created_at is not None
    assert (await images.get("a")).target == TARGET
    with pytest.raises(AlreadyExists):
        await images.create("a", TARGET)
    assert (await images.update("a", OTHER)).labels == {"x": "1"}
    assert (await images.update("a", OTHER, labels={"y": "2"})).labels == {"y": "2"}
    updated = await images.update_labels("a", {"y": None, "z": "3"})
    assert (updated.labels, updated.target) == ({"z": "3"}, OTHER)
    assert (await images.create_or_update("b", TARGET)).target == TARGET
    assert (await images.create_or_update("b", OTHER)).target == OTHER
    assert [record.name for record in await images.list("name==b")] == ["b"]
    assert [record.name for record in await images.list("labels.z==3")] == ["a"]
    assert len(await images.list()) == 2
    with pytest.raises(NotFound, match="not deleted"):
        await images.delete("a", target=TARGET)
    await images.delete("a", target=OTHER)
    await images.delete("b", sync=True)
    for call in (images.get("a"), images.delete("a"), images.update("a", OTHER)):
        with pytest.raises(NotFound):
            await call
    for bad in (Descriptor("", OTHER.digest, 1), Descriptor("x", "y", 1), Descriptor("x", OTHER.digest, 0)):
        with pytest.raises(InvalidArgument):
            await images.create("c", bad)
    with pytest.raises(InvalidArgument, match="empty"):
        await images.get("")

"""Images on real daemons: unpacking, and that neither garbage collections nor cancellations do harm."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from containerd_aio._transport.connections import Connections
from containerd_aio._transport.dial import Address
from containerd_aio.daemon import Daemon
from containerd_aio.distribution import unpack
from containerd_aio.distribution.manifests import OCI_MANIFEST
from containerd_aio.errors import DataLoss
from containerd_aio.image import Image
from containerd_aio.services.content import ContentStore
from containerd_aio.services.descriptor import Descriptor
from containerd_aio.services.diff import Diff
from containerd_aio.services.images import ImageStore
from containerd_aio.services.leases import Leases, lease
from containerd_aio.services.snapshots import Kind, Mount, Snapshotter
from containerd_aio.services.stubs import Services
from containerd_aio.testing.images import (
    Compression,
    build_image_archive,
    busybox_image,
)
from tests.integration.image_support import (
    LAYERS,
    NAME,
    CancelAt,
    collect_garbage,
    eventually,
    import_one,
    in_chunks,
    in_pieces,
    leftovers,
)


@pytest.fixture
def cancel_at() -> CancelAt:
    return CancelAt()


@pytest.fixture
async def services(daemon: Daemon, namespace: str, cancel_at: CancelAt) -> AsyncIterator[Services]:
    connections = Connections(Address.parse(daemon.address), timeout=30, connect_timeout=10, hook=cancel_at)
    yield Services(connections, namespace)
    connections.close()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return build_image_archive(tmp_path / "sample.tar", NAME, layers=LAYERS)


# -- unpacking ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["gzip", "none", "zstd"])
async def test_unpack_commits_the_chain(services: Services, tmp_path: Path, compression: Compression) -> None:
    archive = build_image_archive(tmp_path / "i.tar", NAME, layers=LAYERS, compression=compression)
    image = await import_one(services, archive)
    chain = await image.unpack()
    assert chain == await image.chain_id()
    assert await image.is_unpacked()
    assert await image.unpack() == chain
    await collect_garbage(services)
    snapshots = {info.name: info for info in await Snapshotter(services).list()}
    assert len(snapshots) == 3
    name, depth = chain, 0
    while name:
        assert snapshots[name].kind is Kind.COMMITTED
        assert snapshots[name].labels["containerd.io/snapshot.ref"] == name
        name, depth = snapshots[name].parent, depth + 1
    assert depth == 3
    manifest = await image.manifest()
    content = ContentStore(services)
    config = await content.info(manifest.config.digest)
    assert config.labels == {"containerd.io/gc.ref.snapshot.overlayfs": chain}
    for layer, diff_id in zip(manifest.layers, await image.rootfs(), strict=True):
        assert (await content.info(layer.digest)).labels == {"containerd.io/uncompressed": diff_id}
    await image.delete(sync=True)
    assert await Snapshotter(services).list() == []
    assert await content.list() == []


async def test_unpack_elsewhere(services: Services, archive: Path) -> None:
    image = await import_one(services, archive)
    await image.unpack("native")
    assert await image.is_unpacked("native")
    assert not await image.is_unpacked()
    await services_label(services, "native")
    assert await image.is_unpacked()


async def services_label(services: Services, snapshotter: str) -> None:
    from containerd_aio.services.namespaces import Namespaces

    await Namespaces(services).update_labels(
        services.namespace, {"containerd.io/defaults/snapshotter": snapshotter}
    )


async def test_the_unpacked_files_are_those_of_the_layers(services: Services, tmp_path: Path) -> None:
    image = await import_one(services, busybox_image(tmp_path / "busybox.tar", extra_layers=LAYERS))
    snapshotter = Snapshotter(services)
    async with lease(services):
        chain = await image.unpack()
        mounts = await snapshotter.view("look", chain)
        from containerd_aio._mount import temporary_mount

        async with temporary_mount(mounts) as root:
            assert (root / "three").read_bytes() == LAYERS[2]["three"]
            assert (root / "etc/two").read_bytes() == b"2"
            assert not (root / "etc/one").exists()
            assert (root / "bin/sh").readlink() == Path("busybox")
            assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
        await snapshotter.remove("look")


async def test_two_unpacks_race_and_both_win(
    services: Services, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two processes do: within one, the second waits for the first."""
    monkeypatch.setattr(unpack, "alone", lambda *_: contextlib.nullcontext())
    image = await import_one(services, archive)
    apply = Diff.apply
    prepared = {"waiting": 0}
    both = anyio.Event()

    async def together(self: Diff, layer: Descriptor, mounts: list[Mount], **options: Any) -> Descriptor:
        """Let no layer be applied before both have prepared a snapshot for it."""
        prepared["waiting"] += 1
        if prepared["waiting"] == 2:
            both.set()
        await both.wait()
        return await apply(self, layer, mounts, **options)

    monkeypatch.setattr(Diff, "apply", together)
    results: list[str] = []

    async def work() -> None:
        results.append(await image.unpack())

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        group.start_soon(work)
    assert results == [await image.chain_id()] * 2
    assert prepared["waiting"] > 3
    await collect_garbage(services)
    assert len(await Snapshotter(services).list("kind==committed")) == 3
    assert await leftovers(services) == {"leases": [], "ingests": [], "active": []}


async def test_a_snapshot_that_was_there_is_under_the_lease_of_who_finds_it(
    services: Services, archive: Path
) -> None:
    image = await import_one(services, archive)
    chain = await image.unpack()
    async with lease(services) as name:
        await image.unpack()
        resources = await Leases(services).resources(name)
        await image.delete(sync=True)
        await Snapshotter(services).stat(chain)
    assert chain in {resource.id for resource in resources}


async def test_content_that_was_there_is_under_the_lease_of_who_writes_it(services: Services) -> None:
    """Whether containerd recognises it by the digest announced, or only at the commit."""
    content = ContentStore(services)
    digests = {await content.write("1", b"one"), await content.write("2", b"two")}
    async with lease(services) as name:
        await content.write("3", b"one")
        await content.write("4", in_pieces(b"t", b"wo"))
        assert {resource.id for resource in await Leases(services).resources(name)} == digests
        await collect_garbage(services)
        assert {info.digest for info in await content.list()} == digests


async def test_a_layer_that_is_not_what_the_config_says(services: Services, tmp_path: Path) -> None:
    archive = build_image_archive(tmp_path / "a.tar", NAME, layers=LAYERS)
    image = await import_one(services, archive)
    content = ContentStore(services)
    async with lease(services):
        config = await image.config()
        config["rootfs"]["diff_ids"][1] = "sha256:" + "1" * 64
        data = json.dumps(config).encode()
        digest = await content.write("bad-config", data)
        document = (await image.manifest()).document
        document["config"] |= {"digest": digest, "size": len(data)}
        data = json.dumps(document).encode()
        target = Descriptor(OCI_MANIFEST, await content.write("bad-manifest", data), len(data))
        bad = Image(services, await ImageStore(services).create("bad", target))
        with pytest.raises(DataLoss, match="image config says sha256:1111"):
            await bad.unpack()
        assert (await leftovers(services))["active"] == []


# -- garbage collection and cancellation ----------------------------------------------------------------------------


async def test_without_a_lease_content_is_collected(services: Services) -> None:
    """The control for the tests below: what they prevent does happen."""
    content = ContentStore(services)
    digest = await content.write("one", b"one")
    await collect_garbage(services)
    assert not await content.exists(digest)
    async with lease(services):
        digest = await content.write("one", b"one")
        await collect_garbage(services)
        assert await content.exists(digest)
    await collect_garbage(services)
    assert not await content.exists(digest)


async def test_collections_during_import_and_unpack_take_nothing(
    services: Services, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def source() -> AsyncIterator[bytes]:
        async for chunk in in_chunks(archive, 4_000):
            await collect_garbage(services)
            yield chunk

    def collecting_before(method: Callable[..., Any]) -> Callable[..., Any]:
        async def wrapped(*args: Any, **options: Any) -> Any:
            await collect_garbage(services)
            return await method(*args, **options)

        return wrapped

    monkeypatch.setattr(Diff, "apply", collecting_before(Diff.apply))
    monkeypatch.setattr(Snapshotter, "commit", collecting_before(Snapshotter.commit))
    monkeypatch.setattr(Snapshotter, "prepare", collecting_before(Snapshotter.prepare))
    monkeypatch.setattr(ContentStore, "update_labels", collecting_before(ContentStore.update_labels))
    image = await import_one(services, source())
    await collect_garbage(services)
    chain = await image.unpack()
    await collect_garbage(services)
    await Snapshotter(services).stat(chain)
    assert len(await ContentStore(services).list()) == 5


@pytest.mark.parametrize("after", [False, True], ids=["at the start of an RPC", "at the end of an RPC"])
async def test_a_cancellation_at_any_rpc_leaves_nothing(
    services: Services, archive: Path, cancel_at: CancelAt, after: bool
) -> None:
    async def work() -> None:
        image = await import_one(services, archive)
        await image.unpack()

    async def clean() -> bool:
        return await leftovers(services) == {"leases": [], "ingests": [], "active": []}

    number, finished = 0, False
    while not finished:
        number += 1
        with anyio.CancelScope() as scope:
            cancel_at.arm(number, scope, after=after)
            await work()
        cancel_at.scope = None
        finished = not scope.cancelled_caught
        await eventually(clean)
        for record in await ImageStore(services).list():
            if record.name == NAME:  # complete, or not there at all
                await Image(services, record).unpack()
                await ImageStore(services).delete(NAME)
        await collect_garbage(services)
        assert await ContentStore(services).list() == []
        assert await Snapshotter(services).list() == []
    assert number > 25

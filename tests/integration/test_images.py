"""Images on real daemons: import, unpack, and that neither loses or leaves anything."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from containerd_aio._transport.channel import Call
from containerd_aio._transport.connections import Connections
from containerd_aio._transport.dial import Address
from containerd_aio.daemon import Daemon
from containerd_aio.distribution.archive import import_archive
from containerd_aio.distribution.manifests import OCI_INDEX, OCI_MANIFEST
from containerd_aio.errors import DataLoss, InvalidArgument, NotFound
from containerd_aio.image import Image
from containerd_aio.services.content import ContentStore
from containerd_aio.services.descriptor import Descriptor, Platform
from containerd_aio.services.diff import Diff
from containerd_aio.services.images import ImageStore
from containerd_aio.services.leases import Leases, lease
from containerd_aio.services.snapshots import Kind, Mount, Snapshotter
from containerd_aio.services.stubs import Services
from containerd_aio.testing.images import (
    Compression,
    Variant,
    build_image_archive,
    build_index_archive,
    busybox_image,
)

NAME = "docker.io/library/sample:1.0"
LAYERS = [
    {"etc/one": b"1" * 5000},
    {"etc/two": b"2"},
    {"etc/.wh.one": b"", "three": random.Random(1).randbytes(300_000)},
]


class CancelAt:
    """Cancels a scope when the RPC of a certain number starts, or has ended."""

    def __init__(self) -> None:
        self.countdown = -1
        self.after = False
        self.scope: anyio.CancelScope | None = None
        self.calls: list[str] = []

    def arm(self, number: int, scope: anyio.CancelScope, *, after: bool) -> None:
        self.countdown, self.scope, self.after = number, scope, after

    def __call__(self, call: Call) -> Callable[[BaseException | None], None] | None:
        self.calls.append(call.method)
        self.countdown -= 1
        if self.countdown != 0 or self.scope is None:
            return None
        if not self.after:
            self.scope.cancel()
            return None
        scope = self.scope
        return lambda _error: scope.cancel()


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


async def collect_garbage(services: Services) -> None:
    """Run a garbage collection and wait for it."""
    store = ImageStore(services)
    target = Descriptor(OCI_MANIFEST, "sha256:" + "0" * 64, 1)
    await store.create_or_update("garbage", target)
    await store.delete("garbage", sync=True)


async def leftovers(services: Services) -> dict[str, list[Any]]:
    """What there is besides finished content, snapshots and images."""
    return {
        "leases": await Leases(services).list(),
        "ingests": await ContentStore(services).statuses(),
        "active": await Snapshotter(services).list("kind==active"),
    }


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what the daemon does in its own time: it carries out calls that were cancelled as well."""
    with anyio.fail_after(10):
        while not await condition():  # noqa: ASYNC110
            await anyio.sleep(0.02)


async def import_one(services: Services, source: Any, **options: Any) -> Image:
    (record,) = await import_archive(services, source, **options)
    return Image(services, record)


async def in_pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def bytes_of(path: Path) -> bytes:
    return path.read_bytes()


async def in_chunks(path: Path, size: int = 10_000) -> AsyncIterator[bytes]:
    data = await anyio.Path(path).read_bytes()
    for at in range(0, len(data), size):
        yield data[at : at + size]


# -- import -----------------------------------------------------------------------------------------------------


async def test_import_makes_a_record_and_labels_the_content(services: Services, archive: Path) -> None:
    image = await import_one(services, archive, labels={"a": "b"})
    assert image.name == NAME
    assert image.labels == {"a": "b"}
    assert image.created_at is not None
    assert image.target.media_type == OCI_MANIFEST
    manifest = await image.manifest()
    labels = (await ContentStore(services).info(image.target.digest)).labels
    assert labels == {
        "containerd.io/gc.ref.content.config": manifest.config.digest,
        **{f"containerd.io/gc.ref.content.l.{i}": layer.digest for i, layer in enumerate(manifest.layers)},
    }
    await collect_garbage(services)
    digests = {info.digest for info in await ContentStore(services).list()}
    assert digests == {image.target.digest, manifest.config.digest, *(d.digest for d in manifest.layers)}
    assert await leftovers(services) == {"leases": [], "ingests": [], "active": []}
    assert not await image.is_unpacked()


async def test_import_from_a_stream_of_bytes_and_from_gzip(
    services: Services, archive: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "sample.tar.gz"
    packed.write_bytes(gzip.compress(bytes_of(archive)))
    image = await import_one(services, in_chunks(archive, 777))
    assert (await import_one(services, packed)).target == image.target
    assert (await import_one(services, in_chunks(packed, 1))).target == image.target


async def test_import_again_changes_nothing(services: Services, archive: Path) -> None:
    first = await import_one(services, archive, labels={"keep": "me"})
    before = {info.digest: info.labels for info in await ContentStore(services).list()}
    second = await import_one(services, archive)
    assert second.target == first.target
    assert second.labels == {"keep": "me"}
    assert {info.digest: info.labels for info in await ContentStore(services).list()} == before


async def test_import_by_many_at_once(services: Services, archive: Path) -> None:
    targets: list[Descriptor] = []

    async def work() -> None:
        image = await import_one(services, archive)
        await image.unpack()
        targets.append(image.target)

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(work)
    assert len(targets) == 6
    assert len(set(map(str, targets))) == 1
    assert await leftovers(services) == {"leases": [], "ingests": [], "active": []}


async def test_import_picks_the_platform(services: Services, tmp_path: Path) -> None:
    archive = build_index_archive(
        tmp_path / "multi.tar",
        NAME,
        Variant([{"a": b"amd64"}], platform="linux/amd64"),
        Variant([{"a": b"arm64"}], platform="linux/arm64"),
        Variant([{"a": b"s390x"}], platform="linux/s390x"),
    )
    image = await import_one(services, archive, platform=Platform("linux", "arm64"))
    assert image.target.media_type == OCI_INDEX
    assert list(map(str, await image.platforms())) == ["linux/amd64", "linux/arm64", "linux/s390x"]
    await collect_garbage(services)
    assert len(await ContentStore(services).list()) == 4  # index, manifest, config, layer
    arm = await Image.get(services, NAME, platform=Platform("linux", "arm64"))
    assert (await arm.config())["architecture"] == "arm64"
    assert await arm.unpack()
    with pytest.raises(NotFound):
        await (await Image.get(services, NAME, platform=Platform("linux", "s390x"))).manifest()
    with pytest.raises(NotFound, match="linux/amd64, linux/arm64, linux/s390x"):
        await (await Image.get(services, NAME, platform=Platform("linux", "riscv64"))).manifest()
    await import_archive(services, archive, all_platforms=True)
    await collect_garbage(services)
    assert len(await ContentStore(services).list()) == 10
    with pytest.raises(NotFound, match="nothing for this platform"):
        await import_archive(services, archive, platform=Platform("windows", "amd64"))


async def test_import_of_an_index_under_a_name_of_its_own(services: Services, archive: Path) -> None:
    index, image = await import_archive(services, archive, index_name="whole")
    assert (index.name, image.name) == ("whole", NAME)
    assert index.target.media_type == OCI_INDEX
    await ImageStore(services).delete(NAME)
    await collect_garbage(services)
    assert (await Image(services, index).manifest()).target.digest == image.target.digest


def docker_archive(path: Path) -> Path:
    """What `docker save` wrote before version 25: layers by directory, one of them a link to another image's."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("file"))
    import hashlib

    digest = "sha256:" + hashlib.sha256(layer.getvalue()).hexdigest()
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest, digest]}}
    ).encode()
    manifest = [
        {"Config": "c.json", "RepoTags": ["old:2", "old:3"], "Layers": ["a/layer.tar", "b/layer.tar"]}
    ]
    with tarfile.open(path, mode="w") as tar:
        for name, data in (
            ("a/layer.tar", layer.getvalue()),
            ("a/VERSION", b"1.0"),
            ("c.json", config),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("b/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../a/layer.tar"
        tar.addfile(link)
    return path


async def test_import_of_an_old_docker_archive(services: Services, tmp_path: Path) -> None:
    records = await import_archive(services, docker_archive(tmp_path / "docker.tar"))
    assert [r.name for r in records] == ["docker.io/library/old:2", "docker.io/library/old:3"]
    await collect_garbage(services)
    image = Image(services, records[0])
    assert len(await image.rootfs()) == 2
    assert await image.unpack() == await image.chain_id()


# -- what is no image -------------------------------------------------------------------------------------------


def with_member(archive: Path, name: str, data: bytes | None) -> bytes:
    """The archive with one member replaced, or left out."""
    out = io.BytesIO()
    with tarfile.open(archive) as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in old:
            content = old.extractfile(member)
            if member.name != name:
                new.addfile(member, content)
            elif data is not None:
                member.size = len(data)
                new.addfile(member, io.BytesIO(data))
    return out.getvalue()


def a_layer(archive: Path) -> str:
    """Path of the biggest blob."""
    with tarfile.open(archive) as tar:
        return max((m for m in tar if m.isfile()), key=lambda m: m.size).name


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        pytest.param(lambda _: b"", "empty", id="empty"),
        pytest.param(lambda _: b"garbage" * 1000, "no tar archive", id="garbage"),
        pytest.param(lambda _: bytes(2048), "no image", id="zeros"),
        pytest.param(lambda _: b"\x28\xb5\x2f\xfd" + bytes(600), "compressed with zstd", id="zstd"),
        pytest.param(lambda p: p.read_bytes()[:2000], "cut short", id="cut in the first blob"),
        pytest.param(
            lambda p: with_member(p, a_layer(p), b"x" * 300), f"digest sha256:{'[0-9a-f]' * 64}", id="damaged"
        ),
        pytest.param(lambda p: with_member(p, a_layer(p), None), "layer.* is missing", id="no layer"),
        pytest.param(lambda p: with_member(p, "index.json", None), "without index.json", id="no index"),
        pytest.param(lambda p: with_member(p, "oci-layout", None), "no image", id="no oci-layout"),
        pytest.param(
            lambda p: with_member(p, "oci-layout", b'{"imageLayoutVersion":"9"}'), "version '9'", id="version"
        ),
        pytest.param(lambda p: with_member(p, "index.json", b"{"), "index.json is not JSON", id="bad JSON"),
        pytest.param(
            lambda p: with_member(p, "index.json", b'{"manifests":[{"digest":"x","size":1}]}'),
            "not a digest",
            id="bad digest",
        ),
        pytest.param(lambda p: gzip.compress(p.read_bytes())[:900], "cut short|damaged", id="gzip cut short"),
    ],
)
async def test_a_spoilt_archive_is_refused_and_leaves_nothing(
    services: Services, archive: Path, tmp_path: Path, spoil: Callable[[Path], bytes], text: str
) -> None:
    spoilt = tmp_path / "spoilt.tar"
    spoilt.write_bytes(spoil(archive))
    with pytest.raises(InvalidArgument, match=text) as caught:
        await import_archive(services, spoilt)
    assert caught.value.method is None
    await collect_garbage(services)
    assert await leftovers(services) == {"leases": [], "ingests": [], "active": []}
    assert await ContentStore(services).list() == []
    assert await ImageStore(services).list() == []


async def test_a_failing_source_is_reported_as_it_is_and_leaves_nothing(
    services: Services, archive: Path
) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield bytes_of(archive)[:3000]
        raise OSError("the disk is on fire")

    with pytest.raises(OSError, match="on fire"):
        await import_archive(services, breaks())
    await collect_garbage(services)
    assert await leftovers(services) == {"leases": [], "ingests": [], "active": []}
    assert await ContentStore(services).list() == []


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

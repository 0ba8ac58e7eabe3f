"""What an `Image` tells and does: records, content, history, usage; images built in Python."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from containerd_aio import AlreadyExists, Client, FailedPrecondition, Image, InvalidArgument, NotFound
from containerd_aio.distribution.build import Entry, Variant, build_index, directory_layer
from containerd_aio.services.content import ContentStore
from containerd_aio.services.descriptor import Descriptor, Platform
from containerd_aio.services.images import ImageStore
from containerd_aio.services.snapshots import Snapshotter
from tests.integration.image_support import LAYERS, collect_garbage, leftovers

if TYPE_CHECKING:
    from containerd_aio.daemon import Daemon

NAME = "example.com/app:1"
CONFIG = {"Cmd": ["/x"], "Env": ["A=1"], "User": "1:1", "ExposedPorts": {"80/tcp": {}}, "Labels": {"l": "v"}}


@pytest.fixture
async def client(daemon: Daemon, namespace: str) -> AsyncIterator[Client]:
    async with Client(daemon.address, namespace=namespace) as opened:
        yield opened


async def multi(client: Client) -> Image:
    platforms = ("linux/amd64", "linux/arm64")
    built = build_index(*(Variant([LAYERS[0], {"p": p.encode()}], platform=p) for p in platforms))
    [image] = await client.import_archive(io.BytesIO(built.archive(NAME)), all_platforms=True)
    return image


@pytest.mark.shows(
    "seed:containerd.Client.GetImage",
    "seed:containerd.Client.ListImages",
    "seed:containerd.Client.ImageService",
)
async def test_tags_labels_and_lists(client: Client) -> None:
    image = await client.build_image(NAME, layers=LAYERS, labels={"a": "1", "b": "2"})
    other = await image.tag("example.com/app:2")
    assert (other.target, other.labels) == (image.target, image.labels)
    with pytest.raises(AlreadyExists):
        await image.tag("example.com/app:2")
    assert (await image.tag("example.com/app:2", force=True)).name == "example.com/app:2"
    await image.update_labels({"a": None, "c": "3"})
    assert image.labels == {"b": "2", "c": "3"} == (await client.image(NAME)).labels
    assert [i.name for i in await client.images()] == [NAME, "example.com/app:2"]
    assert (await client.image_store.get(NAME)).target == image.target
    assert [i.name for i in await client.images('labels."c"==3')] == [NAME]
    await image.delete(sync=True)
    assert await other.unpack()
    await other.delete(sync=True)
    assert await ContentStore(client.services).list() == []
    with pytest.raises(NotFound):
        await image.update_labels({"x": "y"})


async def test_an_image_is_deleted_only_as_long_as_it_is_the_same(client: Client) -> None:
    """By target; containerd before 2.0 ignores that field, so it is compared by us."""
    old = await client.build_image(NAME, layers=LAYERS)
    new = await client.build_image(NAME, layers=LAYERS[:1])
    assert old.target != new.target
    with pytest.raises(NotFound, match="not deleted"):
        await old.delete()
    assert (await client.image(NAME)).target == new.target
    await new.delete(sync=True)
    assert await client.images() == []


async def test_spec_and_history(client: Client) -> None:
    image = await client.build_image(NAME, layers=LAYERS, config=CONFIG)
    spec = await image.spec()
    assert spec.platform == image.platform
    assert (spec.cmd, spec.env, spec.user, spec.entrypoint) == (("/x",), ("A=1",), "1:1", ())
    assert (spec.exposed_ports, spec.labels, spec.stop_signal) == (("80/tcp",), {"l": "v"}, "")
    assert list(spec.diff_ids) == await image.rootfs()
    assert spec.created == datetime(1970, 1, 1, tzinfo=UTC)
    assert spec.raw == await image.config()
    layers = (await image.manifest()).layers
    assert [(h.layer, h.empty_layer) for h in await image.history()] == [(layer, False) for layer in layers]
    await client.build_image(NAME, layers=[], config={"Env": "A=1"})
    with pytest.raises(InvalidArgument, match="Env in the image config is not a list of strings"):
        await (await client.image(NAME)).spec()


@pytest.mark.shows("go:TestImageUsage")
async def test_usage(client: Client) -> None:
    image = await multi(client)
    await collect_garbage(client.services)
    infos = {info.digest: info.size for info in await ContentStore(client.services).list()}
    assert (
        await image.usage(manifest_limit=0) == await image.usage(manifest_limit=None) == sum(infos.values())
    )
    assert await image.usage(manifest_limit=0, declared=True) == sum(infos.values())
    one = await image.usage()
    assert one == await image.size() + image.target.size
    arm = await Image.get(client.services, NAME, platform=Platform("linux", "arm64"))
    shared = (await image.manifest()).layers[0].size
    assert await arm.usage() + one - shared - image.target.size == sum(infos.values())
    await image.unpack()
    snapshotter = Snapshotter(client.services, "overlayfs")
    snapshots = sum([(await snapshotter.usage(info.name)).size for info in await snapshotter.list()])
    assert await image.usage(snapshots=True) == one + snapshots
    with pytest.raises(InvalidArgument, match="manifest_limit"):
        await image.usage(manifest_limit=-1)
    layer = (await arm.manifest()).layers[1]
    await ContentStore(client.services).delete(layer.digest)
    with pytest.raises(NotFound):
        await image.usage(manifest_limit=0)
    assert await image.usage(manifest_limit=None) == sum(infos.values()) - layer.size
    assert await image.usage(manifest_limit=0, declared=True) == sum(infos.values())


async def test_check_says_what_is_missing(client: Client) -> None:
    image = await multi(client)
    manifest = await image.manifest()
    check = await image.check()
    assert check.complete
    assert check.required == check.present == (manifest.config, *manifest.layers)
    assert check.size == check.present_size == await image.size() - manifest.target.size
    await ContentStore(client.services).delete(manifest.layers[0].digest)
    check = await image.check()
    assert not check.complete
    assert check.missing == (manifest.layers[0],)
    assert check.present_size == check.size - manifest.layers[0].size
    nowhere = Descriptor(image.target.media_type, "sha256:" + "0" * 64, 1)
    record = await ImageStore(client.services).create("gone", nowhere)
    check = await Image(client.services, record).check()
    assert (check.required, check.present, check.missing) == ((nowhere,), (), (nowhere,))


@pytest.mark.shows("go:TestImageIsUnpacked", "seed:containerd.Image")
async def test_is_unpacked(client: Client) -> None:
    image = await client.build_image(NAME, layers=LAYERS)
    assert not await image.is_unpacked()
    await image.unpack()
    assert await image.is_unpacked()
    again = await client.build_image("example.com/app:2", layers=LAYERS, unpack=True)
    assert (again.target, await again.is_unpacked()) == (image.target, True)


@pytest.mark.shows("go:TestImageSupportedBySnapshotter_Error")
async def test_a_snapshotter_for_another_platform(client: Client) -> None:
    here = await client.build_image(NAME, layers=LAYERS)
    assert await here.unpack(check_platform=True) == await here.chain_id()
    other = await client.build_image(NAME, layers=LAYERS, platform="linux/s390x")
    with pytest.raises(
        FailedPrecondition,
        match=f"overlayfs does not support platform linux/s390x of image {NAME}; it supports {here.platform}",
    ):
        await other.unpack(check_platform=True)
    assert await other.unpack(), "where nobody asks, it is the caller's affair"


async def test_a_built_image_runs(client: Client, tmp_path: Path, rootfs: str) -> None:
    (tmp_path / "hello").write_text("hello from a directory\n")
    (tmp_path / "link").symlink_to("hello")
    busybox = {"bin/busybox": Entry((Path(rootfs) / "bin/busybox").read_bytes(), mode=0o755)}
    config = {"Cmd": ["/bin/busybox", "cat", "/srv/link"]}
    layers = [busybox, directory_layer(tmp_path, at="srv")]
    image = await client.build_image(NAME, layers=layers, config=config, unpack=True)
    result = await client.run(image)
    assert result.stdout == b"hello from a directory\n"
    await image.delete(sync=True)
    assert await leftovers(client.services) == {"leases": [], "ingests": [], "active": []}

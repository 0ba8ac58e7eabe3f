"""Layers made from snapshots and applied to others, by real daemons."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import anyio
import pytest

from containerd_aio import Client, mounts
from containerd_aio.daemon import Daemon
from containerd_aio.errors import InvalidArgument, NotFound, Unimplemented
from containerd_aio.services.diff import DIFF_MEDIA_TYPES
from containerd_aio.services.snapshots import Snapshotter

GZIP, PLAIN, _ = DIFF_MEDIA_TYPES


@pytest.fixture
async def plain(daemon: Daemon, namespace: str) -> AsyncIterator[Client]:
    async with Client(daemon.address, namespace=namespace) as client, client.lease():
        yield client


async def base_and_active(snapshots: Snapshotter) -> None:
    """A committed ``base`` with two files, and an ``active`` on it where one is removed, one changed and one new."""
    async with mounts.temporary_mount(await snapshots.prepare("b")) as root:
        (root / "keep").write_text("1")
        (root / "gone").write_text("2")
    await snapshots.commit("base", "b")
    async with mounts.temporary_mount(await snapshots.prepare("active", "base")) as root:
        (root / "gone").unlink()
        (root / "keep").write_text("changed")
        (root / "new").write_text("3")


async def names_in(client: Client, digest: str, *, packed: bool) -> dict[str, tarfile.TarInfo]:
    data = await client.content.read_all(digest)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data) if packed else data)) as tar:
        return {member.name.lstrip("/"): member for member in tar.getmembers()}


@pytest.mark.shows("seed:containerd.Client.DiffService")
async def test_the_layer_of_a_snapshot(plain: Client) -> None:
    snapshots = await plain.snapshotter()
    await base_and_active(snapshots)
    layer = await plain.diff.of_snapshot(snapshots, "active", labels={"made": "here"})
    assert layer.media_type == GZIP
    info = await plain.content.info(layer.digest)
    assert info.labels["made"] == "here"
    assert (await names_in(plain, layer.digest, packed=True)).keys() >= {".wh.gone", "keep", "new"}
    assert {info.name for info in await snapshots.list()} == {"base", "active"}  # no view is left
    # Applied to the parent elsewhere it gives the same files.
    made = await snapshots.prepare("copy", "base")
    applied = await plain.diff.apply(layer, made)
    assert applied.digest == info.labels["containerd.io/uncompressed"]
    async with mounts.temporary_mount(made, readonly=True) as root:
        assert {p.name: p.read_text() for p in root.iterdir()} == {"keep": "changed", "new": "3"}


async def test_layers_of_other_kinds_of_snapshots(plain: Client) -> None:
    snapshots = await plain.snapshotter()
    await base_and_active(snapshots)
    await snapshots.commit("top", "active")
    layer = await plain.diff.of_snapshot(snapshots, "top", media_type=PLAIN)
    assert (await names_in(plain, layer.digest, packed=False)).keys() >= {".wh.gone", "keep", "new"}
    bottom = await plain.diff.of_snapshot(snapshots, "base", media_type=PLAIN)
    assert (await names_in(plain, bottom.digest, packed=False)).keys() >= {"keep", "gone"}
    await snapshots.view("look", "top")
    nothing = await plain.diff.of_snapshot(snapshots, "look", media_type=PLAIN)
    assert await names_in(plain, nothing.digest, packed=False) == {}
    empty = await plain.diff.diff([], [], media_type=PLAIN)
    assert (empty.digest, empty.size) == (nothing.digest, nothing.size)
    assert {info.name for info in await snapshots.list()} == {"base", "top", "look"}
    with pytest.raises(NotFound):
        await plain.diff.of_snapshot(snapshots, "no")


async def test_times_can_be_fixed(plain: Client, containerd_version: str) -> None:
    """From 1.7 on the same change gives the same layer, whenever it was made."""
    snapshots = await plain.snapshotter()
    await base_and_active(snapshots)
    epoch = datetime(2020, 1, 2, tzinfo=UTC)
    layer = await plain.diff.of_snapshot(snapshots, "active", media_type=PLAIN, source_date_epoch=epoch)
    new = (await names_in(plain, layer.digest, packed=False))["new"]
    if containerd_version == "1.6":
        assert new.mtime > epoch.timestamp()
    else:
        assert new.mtime == epoch.timestamp()
    with pytest.raises(InvalidArgument, match="time zone"):
        await plain.diff.diff([], [], source_date_epoch=datetime(2020, 1, 1))  # noqa: DTZ001


async def test_views_are_removed_when_the_diff_fails_or_is_cancelled(plain: Client) -> None:
    snapshots = await plain.snapshotter()
    await base_and_active(snapshots)
    with pytest.raises(InvalidArgument, match="cannot make a layer"):
        await plain.diff.of_snapshot(snapshots, "active", media_type="text/plain")
    with anyio.CancelScope() as scope:
        async with snapshots.viewed("base") as made:
            assert made
            scope.cancel()
            await anyio.sleep_forever()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await plain.diff.of_snapshot(snapshots, "active")
    assert {info.name for info in await snapshots.list()} == {"base", "active"}


@pytest.mark.parametrize("media_type", DIFF_MEDIA_TYPES)
async def test_an_ingest_of_the_callers_name(plain: Client, media_type: str, containerd_version: str) -> None:
    snapshots = await plain.snapshotter()
    await base_and_active(snapshots)
    if media_type.endswith("zstd") and containerd_version != "2.1":
        with pytest.raises(Unimplemented, match="zstd"):
            await plain.diff.of_snapshot(snapshots, "active", media_type=media_type)
        return
    async with plain.content.writer("mine") as writer:
        await writer.write(b"of an earlier try")
    layer = await plain.diff.of_snapshot(snapshots, "active", media_type=media_type, ref="mine")
    assert await plain.content.statuses() == []
    data = await plain.content.read_all(layer)
    assert layer.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert layer.media_type == media_type

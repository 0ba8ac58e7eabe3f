"""Snapshots and layers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from containerd_aio.api.containerd.services.diff.v1 import ApplyRequest, DiffRequest
from containerd_aio.api.containerd.services.snapshots.v1 import (
    CleanupRequest,
    CommitSnapshotRequest,
    Info,
    Kind,
    ListSnapshotsRequest,
    MountsRequest,
    PrepareSnapshotRequest,
    RemoveSnapshotRequest,
    StatSnapshotRequest,
    UpdateSnapshotRequest,
    UsageRequest,
    ViewSnapshotRequest,
)
from containerd_aio.api.containerd.types import Descriptor
from containerd_aio.api.google.protobuf import FieldMask
from tests.contract.backend import LONG_LABEL, Backend, refused

O = "overlayfs"  # noqa: E741
Z = "sha256:" + "0" * 64


class Snapshots:
    """The stub, with shorter calls, and keys that are the test's own."""

    def __init__(self, backend: Backend) -> None:
        self.stub = backend.client.services.snapshots
        self.mark = backend.id()

    def key(self, name: str) -> str:
        return f"{self.mark} {name}"

    async def prepare(self, name: str, parent: str = "", **labels: str) -> list[Any]:
        request = PrepareSnapshotRequest(snapshotter=O, key=self.key(name), parent=parent, labels=labels)
        return (await self.stub.prepare(request)).mounts

    async def view(self, name: str, parent: str = "") -> list[Any]:
        request = ViewSnapshotRequest(snapshotter=O, key=self.key(name), parent=parent)
        return (await self.stub.view(request)).mounts

    async def commit(self, name: str, key: str, **labels: str) -> None:
        request = CommitSnapshotRequest(snapshotter=O, name=self.key(name), key=self.key(key), labels=labels)
        await self.stub.commit(request)

    async def stat(self, name: str) -> Info:
        info = (await self.stub.stat(StatSnapshotRequest(snapshotter=O, key=self.key(name)))).info
        assert info is not None
        return info

    async def mounts(self, name: str) -> list[Any]:
        return (await self.stub.mounts(MountsRequest(snapshotter=O, key=self.key(name)))).mounts

    async def remove(self, name: str) -> None:
        await self.stub.remove(RemoveSnapshotRequest(snapshotter=O, key=self.key(name)))

    def missing(self, name: str, what: str = "snapshot") -> tuple[str, str]:
        return "NotFound", f"{what} {self.key(name)} does not exist: not found"


@pytest.fixture
async def snapshots(backend: Backend) -> AsyncIterator[Snapshots]:
    """Snapshots under a lease, or the collector would take them; those made by the test are removed."""
    async with backend.client.lease():
        made = Snapshots(backend)
        yield made
        listing = made.stub.list(ListSnapshotsRequest(snapshotter=O))
        infos = [info async for reply in listing for info in reply.info if info.name.startswith(made.mark)]
        for info in sorted(infos, key=lambda info: info.parent == ""):
            await made.stub.remove(RemoveSnapshotRequest(snapshotter=O, key=info.name))


async def test_a_stack_of_snapshots(snapshots: Snapshots) -> None:
    (mount,) = await snapshots.prepare("k1", a="b")
    assert (mount.type, sorted(mount.options)) == ("bind", ["rbind", "rw"])
    active = await snapshots.stat("k1")
    assert (active.name, active.parent, active.kind) == (snapshots.key("k1"), "", Kind.ACTIVE)
    assert active.labels == {"a": "b"}
    await snapshots.commit("n1", "k1", c="d")
    assert await refused(snapshots.stat("k1")) == snapshots.missing("k1")
    committed = await snapshots.stat("n1")
    assert (committed.kind, committed.labels) == (Kind.COMMITTED, {"c": "d"})
    below = snapshots.key("n1")
    await snapshots.prepare("k2", below)
    assert (await snapshots.stat("k2")).parent == below
    assert len(await snapshots.mounts("k2")) == 1
    (mount,) = await snapshots.view("v1", below)
    assert (mount.type, sorted(mount.options)) == ("bind", ["rbind", "ro"])
    assert (await snapshots.stat("v1")).kind == Kind.VIEW
    assert await refused(snapshots.remove("n1")) == (
        "FailedPrecondition",
        "cannot remove snapshot with child: failed precondition",
    )
    for name in ("k2", "v1", "n1"):
        await snapshots.remove(name)
    usage = snapshots.stub.usage(UsageRequest(snapshotter=O, key=below))
    assert await refused(usage) == snapshots.missing("n1")


async def test_what_snapshots_refuse(backend: Backend, snapshots: Snapshots) -> None:
    await snapshots.prepare("k1")
    await snapshots.prepare("base")
    await snapshots.commit("n1", "base")
    await snapshots.prepare("k2", snapshots.key("n1"))
    await snapshots.view("v1", snapshots.key("n1"))
    exists = "AlreadyExists"
    assert await refused(snapshots.prepare("k1")) == (
        exists,
        f'snapshot "{snapshots.key("k1")}": already exists',
    )
    assert await refused(snapshots.view("v1")) == (
        exists,
        f'snapshot "{snapshots.key("v1")}": already exists',
    )
    assert await refused(snapshots.commit("n1", "k2")) == (
        exists,
        f'snapshot "{snapshots.key("n1")}": already exists',
    )
    nowhere = snapshots.key("nowhere")
    missing_parent = snapshots.missing("nowhere", "parent snapshot")
    assert await refused(snapshots.prepare("k3", nowhere)) == missing_parent
    assert await refused(snapshots.view("k3", nowhere)) == missing_parent
    for call in (snapshots.stat("none"), snapshots.mounts("none"), snapshots.remove("none")):
        assert await refused(call) == snapshots.missing("none")
    assert await refused(snapshots.commit("n2", "none")) == snapshots.missing("none")
    for name in ("k1", "v1"):
        class_name, text = await refused(snapshots.prepare("k3", snapshots.key(name)))
        assert class_name == "InvalidArgument"
        assert text.startswith(f'failed to create snapshot: parent "{backend.client.namespace}/')
        assert text.endswith(f'/{snapshots.key(name)}" is not committed snapshot: invalid argument')
    class_name, text = await refused(snapshots.mounts("n1"))
    assert class_name == "FailedPrecondition"
    assert text.startswith(f"failed to get active mount: requested snapshot {backend.client.namespace}/")
    assert text.endswith(f"/{snapshots.key('n1')} not active or view: failed precondition")
    for name in ("n1", "v1"):
        class_name, text = await refused(snapshots.commit("n2", name))
        assert class_name == "FailedPrecondition"
        assert text.endswith(f'/{snapshots.key(name)}" is not active: failed precondition')
        colon = ":" if backend.release == "1.6" else " "
        assert text.startswith(f"failed to commit snapshot{colon}")
    await snapshots.prepare("k4", **{"containerd.io/snapshot.ref": "not there yet"})
    assert await refused(snapshots.prepare("k5", **{"containerd.io/snapshot.ref": snapshots.key("n1")})) == (
        exists,
        f'target snapshot "{snapshots.key("n1")}": already exists',
    )
    class_name, text = await refused(snapshots.prepare("k6", **LONG_LABEL))
    assert class_name == "InvalidArgument"
    assert text.startswith("info.Labels: label key and value ")
    stub = snapshots.stub
    assert await refused(stub.prepare(PrepareSnapshotRequest(snapshotter=O))) == (
        "Unknown",
        "key required",
    )
    for name, text in [("nosuch", "snapshotter not loaded: nosuch"), ("", "snapshotter argument missing")]:
        assert await refused(stub.stat(StatSnapshotRequest(snapshotter=name, key="x"))) == (
            "InvalidArgument",
            f"{text}: invalid argument",
        )
    assert await refused(stub.cleanup(CleanupRequest(snapshotter=O))) == (
        "Unimplemented",
        "snapshotter does not implement Cleanup method: not implemented",
    )


async def test_labels_and_filters(snapshots: Snapshots) -> None:
    await snapshots.prepare("k1")
    await snapshots.commit("n1", "k1")
    await snapshots.prepare("k2", snapshots.key("n1"))
    name = snapshots.key("n1")

    async def updated(paths: list[str] | None, **labels: str) -> dict[str, str]:
        mask = None if paths is None else FieldMask(paths=paths)
        info = Info(name=name, labels=labels)
        request = UpdateSnapshotRequest(snapshotter=O, info=info, update_mask=mask)
        reply = (await snapshots.stub.update(request)).info
        assert reply is not None
        return reply.labels

    assert await updated(["labels"], q="r") == {"q": "r"}
    assert await updated(["labels.z.y"], **{"z.y": "1"}) == {"q": "r", "z.y": "1"}
    assert await updated(["labels.q"], q="") == {"z.y": "1"}
    assert await updated(None, f="r") == {"f": "r"}
    assert await refused(updated(["parent"])) == (
        "InvalidArgument",
        f'cannot update "parent" field on snapshot "{name}": invalid argument',
    )
    nameless = UpdateSnapshotRequest(snapshotter=O, info=Info())
    assert await refused(snapshots.stub.update(nameless)) == ("InvalidArgument", "invalid argument")
    for text, expected in [
        ("kind==active", ["k2"]),
        ("kind==committed", ["n1"]),
        ("kind==Active", []),
        (f'name=="{name}"', ["n1"]),
        (f'parent=="{name}"', ["k2"]),
        ("labels.f==r", ["n1"]),
        ("foo==1", []),
    ]:
        listing = snapshots.stub.list(ListSnapshotsRequest(snapshotter=O, filters=[text]))
        found = [info.name async for reply in listing for info in reply.info]
        own = [each for each in found if each.startswith(snapshots.mark)]
        assert own == [snapshots.key(each) for each in expected], text
    listing = snapshots.stub.list(ListSnapshotsRequest(snapshotter=O, filters=["name=x"]))
    class_name, text = await refused(anext(aiter(listing)))
    assert class_name == "Unknown"
    assert text.startswith("filters: parse error: [")


async def test_events(backend: Backend, snapshots: Snapshots) -> None:
    async with backend.client.events("topic~=|^/snapshot/|") as events:
        await snapshots.prepare("k1")
        await snapshots.commit("n1", "k1")
        await snapshots.view("v1", snapshots.key("n1"))  # of this none tells
        await snapshots.remove("v1")
        await snapshots.remove("n1")
        seen: list[Any] = [await anext(events) for _ in range(4)]
    snapshotter = "" if backend.release == "1.6" else O
    assert [(event.topic, event.key, event.snapshotter) for event in seen] == [
        ("/snapshot/prepare", snapshots.key("k1"), snapshotter),
        ("/snapshot/commit", snapshots.key("k1"), snapshotter),
        ("/snapshot/remove", snapshots.key("v1"), snapshotter),
        ("/snapshot/remove", snapshots.key("n1"), snapshotter),
    ]
    assert seen[1].name == snapshots.key("n1")


async def test_layers(backend: Backend) -> None:
    diff = backend.client.services.diff
    layer = Descriptor(media_type="application/vnd.oci.image.layer.v1.tar+gzip", digest=Z, size=1)
    assert await refused(diff.apply(ApplyRequest(diff=layer))) == (
        "NotFound",
        f"failed to get reader from content store: content digest {Z}: not found",
    )
    assert await refused(diff.diff(DiffRequest(media_type="weird"))) == (
        "Unimplemented",
        "unsupported diff media type: weird: not implemented",
    )
    async with backend.client.lease():
        empty = (await diff.diff(DiffRequest(ref=backend.id()))).diff
        assert empty is not None
        assert empty.media_type == "application/vnd.oci.image.layer.v1.tar+gzip"
        applied = (await diff.apply(ApplyRequest(diff=empty))).applied
        assert applied is not None
        assert applied.media_type == "application/vnd.oci.image.layer.v1.tar"

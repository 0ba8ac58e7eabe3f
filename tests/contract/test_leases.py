"""Leases."""

from __future__ import annotations

from typing import Any

from containerd_aio.api.containerd.services.leases.v1 import (
    AddResourceRequest,
    CreateRequest,
    DeleteRequest,
    DeleteResourceRequest,
    ListRequest,
    ListResourcesRequest,
    Resource,
)
from containerd_aio.api.containerd.services.snapshots.v1 import (
    PrepareSnapshotRequest,
    RemoveSnapshotRequest,
    SnapshotsStub,
)
from tests.contract.backend import Backend, refused

Z = "sha256:" + "0" * 64


async def test_leases(backend: Backend) -> None:
    leases, name = backend.client.services.leases, f"any name! {backend.id()}"
    unnamed = (await leases.create(CreateRequest())).lease
    assert unnamed is not None
    number, _, rest = unnamed.id.partition("-")
    assert number.isdigit()
    assert len(rest) == 4
    lease = (await leases.create(CreateRequest(id=name, labels={"a": "b"}))).lease
    assert lease is not None
    assert (lease.id, lease.labels) == (name, {"a": "b"})
    assert await refused(leases.create(CreateRequest(id=name))) == (
        "AlreadyExists",
        f'lease "{name}": already exists',
    )
    assert (await leases.list(ListRequest(filters=["labels.a==b"]))).leases == [lease]
    class_name, text = await refused(leases.list(ListRequest(filters=["id=x"])))
    assert class_name == "InvalidArgument"
    assert text.startswith("filters: parse error: [")
    await leases.delete(DeleteRequest(id=name))
    await leases.delete(DeleteRequest(id=unnamed.id, sync=True))
    assert await refused(leases.delete(DeleteRequest(id=name))) == ("NotFound", f'lease "{name}": not found')


async def test_resources(backend: Backend) -> None:
    leases, name = backend.client.services.leases, backend.id()
    await leases.create(CreateRequest(id=name))

    def add(kind: str, key: str = "r1", lease: str = name) -> Any:
        return leases.add_resource(AddResourceRequest(id=lease, resource=Resource(id=key, type=kind)))

    for kind in ("ingests", "snapshots/overlayfs", "snapshots/nosuch"):
        await add(kind)
    await add("content", Z)
    for kind in ("snapshots", "snapshots/a/b"):
        assert await refused(add(kind)) == (
            "InvalidArgument",
            f"invalid snapshot resource type {kind}: invalid argument",
        )
    assert await refused(add("content")) == (
        "InvalidArgument",
        "invalid content resource id r1: invalid checksum digest format: invalid argument",
    )
    for kind in ("bogus", ""):
        text = f"resource type {kind} not supported yet: not implemented"
        assert await refused(add(kind)) == ("Unimplemented", text)
    if backend.release == "2.1":
        await add("images")
        await leases.delete_resource(
            DeleteResourceRequest(id=name, resource=Resource(id="r1", type="images"))
        )
    else:
        text = "resource type images not supported yet: not implemented"
        assert await refused(add("images")) == ("Unimplemented", text)
    assert await refused(add("ingests", lease="nobody")) == ("NotFound", 'lease "nobody": not found')
    held = (await leases.list_resources(ListResourcesRequest(id=name))).resources
    assert [(resource.type, resource.id) for resource in held] == [
        ("content", Z),
        ("ingests", "r1"),
        ("snapshots/nosuch", "r1"),
        ("snapshots/overlayfs", "r1"),
    ]
    ingest = DeleteResourceRequest(id=name, resource=Resource(id="r1", type="ingests"))
    for _ in range(2):  # what is not there is let go as well
        await leases.delete_resource(ingest)
    assert len((await leases.list_resources(ListResourcesRequest(id=name))).resources) == 3
    assert await refused(leases.list_resources(ListResourcesRequest(id="nobody"))) == (
        "NotFound",
        'lease "nobody": not found',
    )
    await leases.delete(DeleteRequest(id=name))


async def test_what_is_made_under_a_lease_is_held(backend: Backend) -> None:
    services, key = backend.client.services, backend.id()
    async with backend.client.lease() as lease:
        await services.snapshots.prepare(PrepareSnapshotRequest(snapshotter="overlayfs", key=key))
        held = (await services.leases.list_resources(ListResourcesRequest(id=lease))).resources
        assert [(resource.type, resource.id) for resource in held] == [("snapshots/overlayfs", key)]
        await services.snapshots.remove(RemoveSnapshotRequest(snapshotter="overlayfs", key=key))


async def test_a_lease_that_is_not_there(backend: Backend) -> None:
    snapshots: SnapshotsStub = backend.client.services.snapshots
    headers = {"containerd-lease": "nobody"}
    request = PrepareSnapshotRequest(snapshotter="overlayfs", key=backend.id())
    assert await refused(snapshots.prepare(request, metadata=headers)) == (
        "NotFound",
        "lease does not exist: not found",
    )
    leases = backend.client.services.leases
    await leases.list(ListRequest(), metadata=headers)  # calls that hold nothing do not look

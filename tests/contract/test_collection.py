"""Garbage: what nothing holds goes with the next collection, and nothing else."""

from __future__ import annotations

import hashlib
from typing import Any

from containerd_aio import SnapshotRemove
from containerd_aio.api.containerd.services.content.v1 import Info, InfoRequest, UpdateRequest, WriteAction
from containerd_aio.api.containerd.services.images.v1 import CreateImageRequest, DeleteImageRequest, Image
from containerd_aio.api.containerd.services.leases.v1 import (
    AddResourceRequest,
    CreateRequest,
    DeleteRequest,
    Resource,
)
from containerd_aio.api.containerd.services.snapshots.v1 import (
    CommitSnapshotRequest,
    PrepareSnapshotRequest,
    StatSnapshotRequest,
)
from containerd_aio.api.containerd.types import Descriptor
from containerd_aio.errors import NotFound
from tests.contract.backend import Backend
from tests.contract.test_content import message, talk


async def _write(backend: Backend, **labels: str) -> str:
    data = backend.id().encode()
    await talk(backend, message(backend.id(), WriteAction.COMMIT, data=data, labels=labels))
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def _collect(backend: Backend) -> None:
    leases, name = backend.client.services.leases, backend.id()
    await leases.create(CreateRequest(id=name))
    await leases.delete(DeleteRequest(id=name, sync=True))


async def _is_there(call: Any) -> bool:
    try:
        await call
    except NotFound:
        return False
    return True


async def test_content(backend: Backend) -> None:
    services = backend.client.services

    async def there(digest: str) -> bool:
        return await _is_there(services.content.info(InfoRequest(digest=digest)))

    async with backend.client.lease():
        layer = await _write(backend)
        manifest = await _write(backend, **{"containerd.io/gc.ref.content.0": layer})
        rooted = await _write(backend, **{"containerd.io/gc.root": "now"})
        loose = await _write(backend)
        await _collect(backend)
        assert [await there(digest) for digest in (layer, manifest, rooted, loose)] == [True] * 4
        target = Descriptor(media_type="m", digest=manifest, size=1)
        image = backend.id()
        await services.images.create(CreateImageRequest(image=Image(name=image, target=target)))
    await _collect(backend)
    assert [await there(digest) for digest in (layer, manifest, rooted, loose)] == [True, True, True, False]
    await services.images.delete(DeleteImageRequest(name=image, sync=True))
    assert [await there(digest) for digest in (layer, manifest, rooted)] == [False, False, True]
    await services.content.update(UpdateRequest(info=Info(digest=rooted)))
    await _collect(backend)
    assert not await there(rooted)


async def test_snapshots(backend: Backend) -> None:
    services, lease = backend.client.services, backend.id()
    below, above, loose = (backend.id() for _ in range(3))
    headers = {"containerd-lease": lease}
    await services.leases.create(CreateRequest(id=lease))

    def prepare(key: str, parent: str = "") -> Any:
        request = PrepareSnapshotRequest(snapshotter="overlayfs", key=key, parent=parent)
        return services.snapshots.prepare(request, metadata=headers)

    async def there(key: str) -> bool:
        request = StatSnapshotRequest(snapshotter="overlayfs", key=key)
        return await _is_there(services.snapshots.stat(request))

    async with backend.client.events("topic~=|^/snapshot/remove|") as events:
        await prepare("unnamed")
        commit = CommitSnapshotRequest(snapshotter="overlayfs", name=below, key="unnamed")
        await services.snapshots.commit(commit, metadata=headers)
        await prepare(above, below)
        await prepare(loose)
        keeper = backend.id()
        await services.leases.create(CreateRequest(id=keeper))
        resource = Resource(id=above, type="snapshots/overlayfs")
        await services.leases.add_resource(AddResourceRequest(id=keeper, resource=resource))
        await services.leases.delete(DeleteRequest(id=lease, sync=True))
        assert [await there(key) for key in (below, above, loose)] == [True, True, False]
        await services.leases.delete(DeleteRequest(id=keeper, sync=True))
        assert [await there(key) for key in (below, above)] == [False, False]
        await backend.client.barrier()
        removed = set()
        while events.pending:
            event = await anext(events)
            assert isinstance(event, SnapshotRemove)
            removed.add(event.key)
    assert removed == (set() if backend.release == "1.6" else {below, above, loose})


async def test_an_expired_lease_holds_nothing(backend: Backend) -> None:
    services, lease = backend.client.services, backend.id()
    labels = {"containerd.io/gc.expire": "2001-01-01T00:00:00Z"}
    await services.leases.create(CreateRequest(id=lease, labels=labels))
    async with backend.client.lease():
        digest = await _write(backend)
        resource = Resource(id=digest, type="content")
        await services.leases.add_resource(AddResourceRequest(id=lease, resource=resource))
    await _collect(backend)
    assert not await _is_there(services.content.info(InfoRequest(digest=digest)))
    assert not await _is_there(services.leases.delete(DeleteRequest(id=lease)))

"""containerd.services.containers.v1.Containers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from grpclib.const import Status

from containerd_aio.api.containerd.events import (
    ContainerCreate,
    ContainerCreateRuntime,
    ContainerDelete,
    ContainerUpdate,
)
from containerd_aio.api.containerd.services.containers.v1 import (
    Container,
    ContainersBase,
    CreateContainerRequest,
    CreateContainerResponse,
    DeleteContainerRequest,
    GetContainerRequest,
    GetContainerResponse,
    ListContainerMessage,
    ListContainersRequest,
    ListContainersResponse,
    UpdateContainerRequest,
    UpdateContainerResponse,
)
from containerd_aio.api.google.protobuf import Empty
from containerd_aio.testing.fake.call import identifier_fault, refuse, refuse_plainly, required_namespace
from containerd_aio.testing.fake.filters import select
from containerd_aio.testing.fake.labels import check_labels, updated_labels, without_empty

if TYPE_CHECKING:
    from containerd_aio.testing.fake.world import World

_REPLACED = ("labels", "spec", "extensions", "image", "snapshotkey")


class ContainersService(ContainersBase):
    """The container records."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._store = world.store

    async def get(self, message: GetContainerRequest) -> GetContainerResponse:
        """Return a record."""
        namespace = required_namespace()
        found = self._store.look(namespace).containers.get(message.id)
        if found is None:
            raise refuse(Status.NOT_FOUND, f'container "{message.id}" in namespace "{namespace}"')
        return GetContainerResponse(container=found)

    async def list(self, message: ListContainersRequest) -> ListContainersResponse:
        """Return the records that match."""
        return ListContainersResponse(containers=[*self._matching(message)])

    async def list_stream(self, message: ListContainersRequest) -> AsyncIterator[ListContainerMessage]:
        """Send the records that match, one by one."""
        for container in self._matching(message):
            yield ListContainerMessage(container=container)

    def _matching(self, message: ListContainersRequest) -> Sequence[Container]:
        containers = self._store.look(required_namespace()).containers
        ordered = [containers[key] for key in sorted(containers)]
        return select(ordered, message.filters, _fields, suffix=": invalid argument")

    async def create(self, message: CreateContainerRequest) -> CreateContainerResponse:
        """Create a record."""
        namespace = required_namespace()
        wanted = message.container or Container()
        self._check(wanted, "create container failed validation: ")
        containers = self._store.change(namespace).containers
        if wanted.id in containers:
            raise refuse(Status.ALREADY_EXISTS, f'container "{wanted.id}"')
        now = self._world.clock.timestamp()
        labels = without_empty(wanted.labels)
        made = containers[wanted.id] = replace(wanted, labels=labels, created_at=now, updated_at=now)
        runtime = made.runtime
        assert runtime is not None
        event = ContainerCreate(
            id=made.id,
            image=made.image,
            runtime=ContainerCreateRuntime(name=runtime.name, options=runtime.options),
        )
        self._world.exchange.publish(namespace, "/containers/create", event)
        return CreateContainerResponse(container=made)

    def _check(self, container: Container, prefix: str) -> None:
        def fault(text: str) -> Exception:
            return refuse(Status.INVALID_ARGUMENT, f"{prefix}{text}")

        bad_id = identifier_fault(container.id)
        if bad_id:
            raise fault(f"container.ID: {bad_id}")
        if "" in container.extensions:
            raise fault("container.Extension keys must not be zero-length")
        check_labels(self._world.release, container.labels, f"{prefix}containers.Labels")
        if container.runtime is None or not container.runtime.name:
            raise fault("container.Runtime.Name must be set")
        if container.spec is None and self._world.release.spec_required:
            raise fault("container.Spec must be set")
        if container.snapshot_key and not container.snapshotter:
            raise fault("container.Snapshotter must be set if container.SnapshotKey is set")

    async def update(self, message: UpdateContainerRequest) -> UpdateContainerResponse:
        """Change what the mask names of a record, or all that can be changed."""
        namespace = required_namespace()
        wanted = message.container or Container()
        if not wanted.id:
            raise refuse_plainly(Status.INVALID_ARGUMENT, "Container.ID required")
        containers = self._store.look(namespace).containers
        old = containers.get(wanted.id)
        if old is None:
            raise refuse(Status.NOT_FOUND, f'container "{wanted.id}"')
        paths = message.update_mask.paths if message.update_mask else []
        if not paths:
            if wanted.snapshotter != old.snapshotter:
                raise refuse(Status.INVALID_ARGUMENT, "container.Snapshotter field is immutable")
            if wanted.runtime != old.runtime and _runtime_name(wanted) != _runtime_name(old):
                raise refuse(Status.INVALID_ARGUMENT, "container.Runtime.Name field is immutable")
        new = replace(old, updated_at=self._world.clock.timestamp())
        for path in paths or _REPLACED:
            _update_path(new, wanted, path)
        self._check(new, "update failed validation: ")
        containers[new.id] = new
        event = ContainerUpdate(
            id=new.id, image=new.image, labels=dict(new.labels), snapshot_key=new.snapshot_key
        )
        self._world.exchange.publish(namespace, "/containers/update", event)
        return UpdateContainerResponse(container=new)

    async def delete(self, message: DeleteContainerRequest) -> Empty:
        """Delete a record; a task made from it runs on."""
        namespace = required_namespace()
        if self._store.look(namespace).containers.pop(message.id, None) is None:
            raise refuse(Status.NOT_FOUND, f"container {message.id}")
        self._world.exchange.publish(namespace, "/containers/delete", ContainerDelete(id=message.id))
        self._world.collector.deleted(self._world)
        return Empty()


def _update_path(new: Container, wanted: Container, path: str) -> None:
    labels = updated_labels(path, new.labels, wanted.labels)
    if labels is not None:
        new.labels = labels
    elif path.startswith("extensions."):
        key = path.removeprefix("extensions.")
        new.extensions = {**new.extensions, key: wanted.extensions[key]}
    elif path == "extensions":
        new.extensions = dict(wanted.extensions)
    elif path == "spec":
        new.spec = wanted.spec
    elif path == "image":
        new.image = wanted.image
    elif path == "snapshotkey":
        new.snapshot_key = wanted.snapshot_key
    else:
        raise refuse(Status.INVALID_ARGUMENT, f'cannot update "{path}" field on "{wanted.id}"')


def _runtime_name(container: Container) -> str:
    return container.runtime.name if container.runtime else ""


def _fields(container: Container) -> dict[str, object]:
    return {
        "id": container.id,
        "image": container.image,
        "labels": container.labels,
        "runtime": {"name": _runtime_name(container)},
    }

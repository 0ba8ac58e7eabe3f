"""containerd.services.namespaces.v1.Namespaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpclib.const import Status

from containerd_aio.api.containerd.events import NamespaceCreate, NamespaceDelete, NamespaceUpdate
from containerd_aio.api.containerd.services.namespaces.v1 import (
    CreateNamespaceRequest,
    CreateNamespaceResponse,
    DeleteNamespaceRequest,
    GetNamespaceRequest,
    GetNamespaceResponse,
    ListNamespacesRequest,
    ListNamespacesResponse,
    Namespace,
    NamespacesBase,
    UpdateNamespaceRequest,
    UpdateNamespaceResponse,
)
from containerd_aio.api.google.protobuf import Empty
from containerd_aio.testing.fake.call import current_call, identifier_fault, refuse, refuse_plainly
from containerd_aio.testing.fake.labels import check_labels, without_empty

if TYPE_CHECKING:
    from betterproto2 import Message

    from containerd_aio.testing.fake.world import World


class NamespacesService(NamespacesBase):
    """The namespaces and their labels."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._namespaces = world.store.namespaces

    async def get(self, message: GetNamespaceRequest) -> GetNamespaceResponse:
        """Return a namespace; one that does not exist has no labels."""
        labels = self._world.store.look(message.name).labels
        return GetNamespaceResponse(namespace=Namespace(name=message.name, labels=dict(labels)))

    async def list(self, message: ListNamespacesRequest) -> ListNamespacesResponse:  # noqa: ARG002
        """List all; every release ignores the filter."""
        return ListNamespacesResponse(
            namespaces=[
                Namespace(name=name, labels=dict(self._namespaces[name].labels))
                for name in sorted(self._namespaces)
            ]
        )

    async def create(self, message: CreateNamespaceRequest) -> CreateNamespaceResponse:
        """Create one."""
        wanted = message.namespace or Namespace()
        fault = identifier_fault(wanted.name)
        if fault:
            raise refuse(Status.INVALID_ARGUMENT, fault)
        check_labels(self._world.release, wanted.labels, "namespace.Labels")
        if wanted.name in self._namespaces:
            raise refuse(Status.ALREADY_EXISTS, f'namespace "{wanted.name}"')
        self._world.store.change(wanted.name).labels = without_empty(wanted.labels)
        event = NamespaceCreate(name=wanted.name, labels=dict(wanted.labels))
        self._publish(wanted.name, "/namespaces/create", event)
        return CreateNamespaceResponse(namespace=wanted)

    async def update(self, message: UpdateNamespaceRequest) -> UpdateNamespaceResponse:
        """Change labels: all of them, or those the mask names."""
        wanted = message.namespace or Namespace()
        paths = message.update_mask.paths if message.update_mask else []
        for path in paths:
            if not path.startswith("labels."):
                raise refuse_plainly(Status.INVALID_ARGUMENT, f'cannot update "{path}" field')
        check_labels(self._world.release, wanted.labels, "namespace.Labels")
        records = self._world.store.change(wanted.name)
        if paths:
            keys = [path.removeprefix("labels.") for path in paths]
            changed = {**records.labels, **{key: wanted.labels.get(key, "") for key in keys}}
        else:
            changed = dict(wanted.labels)
        records.labels = without_empty(changed)
        event = NamespaceUpdate(name=wanted.name, labels=dict(wanted.labels))
        self._publish(wanted.name, "/namespaces/update", event)
        return UpdateNamespaceResponse(namespace=Namespace() if self._world.release.name == "1.6" else None)

    async def delete(self, message: DeleteNamespaceRequest) -> Empty:
        """Delete one that is empty."""
        if message.name not in self._namespaces:
            raise refuse(Status.NOT_FOUND, f'namespace "{message.name}"')
        contents = self._namespaces[message.name].contents()
        if contents:
            text = f'namespace "{message.name}" must be empty, but it still has {", ".join(contents)}'
            raise refuse(Status.FAILED_PRECONDITION, text)
        del self._namespaces[message.name]
        # This one is published in the namespace itself by every release.
        self._world.exchange.publish(message.name, "/namespaces/delete", NamespaceDelete(name=message.name))
        return Empty()

    def _publish(self, name: str, topic: str, event: Message) -> None:
        namespace = name if self._world.release.own_namespace_events else current_call.get().namespace
        if not namespace:
            text = "failed publishing event: namespace is required"
            raise refuse(Status.FAILED_PRECONDITION, text)  # though it was done, as the real one
        self._world.exchange.publish(namespace, topic, event)

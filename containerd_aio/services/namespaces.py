"""Namespaces: what separates the users of one containerd, and their labels."""

from __future__ import annotations

import builtins
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from containerd_aio._identifiers import check_identifier
from containerd_aio.api.containerd.services.namespaces.v1 import (
    CreateNamespaceRequest,
    DeleteNamespaceRequest,
    GetNamespaceRequest,
    ListNamespacesRequest,
    UpdateNamespaceRequest,
)
from containerd_aio.api.containerd.services.namespaces.v1 import Namespace as RawNamespace
from containerd_aio.services._convert import label_mask, label_updates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from containerd_aio.services.stubs import Services


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace as the daemon keeps it.

    Attributes:
        name: Its name.
        labels: Its labels; ``containerd.io/defaults/snapshotter`` and ``containerd.io/defaults/runtime`` mean something
            to clients.
        raw: containerd's message.
    """

    name: str
    labels: Mapping[str, str]
    raw: RawNamespace = field(repr=False, compare=False)

    @classmethod
    def from_raw(cls, raw: RawNamespace | None) -> Self:
        """Take over containerd's message."""
        assert raw is not None
        return cls(raw.name, dict(raw.labels), raw)


class Namespaces:
    """The namespaces of one daemon; which namespace `services` has makes no difference.

    Args:
        services: The stubs to call.
    """

    def __init__(self, services: Services) -> None:
        self._stub = services.namespaces

    async def create(self, name: str, *, labels: Mapping[str, str] | None = None) -> Namespace:
        """Make a namespace. Using one makes it, too; this is for those with labels.

        Raises:
            AlreadyExists: There is one of that name.
            InvalidArgument: The name is not an identifier.
        """
        namespace = RawNamespace(name=check_identifier(name, "namespace"), labels=dict(labels or {}))
        reply = await self._stub.create(CreateNamespaceRequest(namespace=namespace))
        return Namespace.from_raw(reply.namespace)

    async def list(self) -> builtins.list[Namespace]:
        """Return all namespaces."""
        reply = await self._stub.list(ListNamespacesRequest())
        return [Namespace.from_raw(raw) for raw in reply.namespaces]

    async def labels(self, name: str) -> dict[str, str]:
        """Return the labels of a namespace; none for one that does not exist, which containerd does not tell."""
        reply = await self._stub.get(GetNamespaceRequest(name=check_identifier(name, "namespace")))
        return dict(reply.namespace.labels) if reply.namespace is not None else {}

    async def exists(self, name: str) -> bool:
        """Tell whether there is a namespace of that name."""
        check_identifier(name, "namespace")
        return any(namespace.name == name for namespace in await self.list())

    async def update_labels(self, name: str, labels: Mapping[str, str | None]) -> None:
        """Change labels. The daemon makes the namespace if there is none.

        Args:
            name: The namespace.
            labels: New values; None or an empty one removes the label.

        Raises:
            InvalidArgument: The name is not an identifier, or a label is too long.
        """
        if not labels:
            return
        namespace = RawNamespace(name=check_identifier(name, "namespace"), labels=label_updates(labels))
        await self._stub.update(UpdateNamespaceRequest(namespace=namespace, update_mask=label_mask(labels)))

    async def delete(self, name: str) -> None:
        """Delete an empty namespace.

        Raises:
            NotFound: There is none of that name.
            FailedPrecondition: Something is still in it; the text says what.
        """
        await self._stub.delete(DeleteNamespaceRequest(name=check_identifier(name, "namespace")))

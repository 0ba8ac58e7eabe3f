"""containerd.services.leases.v1.Leases."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from grpclib.const import Status

from containerd_aio.api.containerd.services.leases.v1 import (
    AddResourceRequest,
    CreateRequest,
    CreateResponse,
    DeleteRequest,
    DeleteResourceRequest,
    Lease,
    LeasesBase,
    ListRequest,
    ListResourcesRequest,
    ListResourcesResponse,
    ListResponse,
    Resource,
)
from containerd_aio.api.google.protobuf import Empty
from containerd_aio.testing.fake.call import current_call, refuse, required_namespace
from containerd_aio.testing.fake.filters import select
from containerd_aio.testing.fake.images import DIGEST

if TYPE_CHECKING:
    from containerd_aio.testing.fake.store import NamespaceRecords
    from containerd_aio.testing.fake.world import World


@dataclass(slots=True)
class LeaseRecord:
    """A lease and what it holds, as (type, id)."""

    lease: Lease
    resources: set[tuple[str, str]] = field(default_factory=set)


class LeasesService(LeasesBase):
    """The leases."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._store = world.store

    async def create(self, message: CreateRequest) -> CreateResponse:
        """Create a lease; without an id it is given one."""
        leases = self._store.change(required_namespace()).leases
        now = self._world.clock.now_ns()
        unique = f"{now % 1_000_000_000}-{base64.urlsafe_b64encode(secrets.token_bytes(3)).decode()}"
        lease_id = message.id or unique
        if lease_id in leases:
            raise refuse(Status.ALREADY_EXISTS, f'lease "{lease_id}"')
        lease = Lease(id=lease_id, created_at=self._world.clock.timestamp(), labels=dict(message.labels))
        leases[lease_id] = LeaseRecord(lease)
        return CreateResponse(lease=lease)

    async def delete(self, message: DeleteRequest) -> Empty:
        """Delete a lease."""
        if self._store.look(required_namespace()).leases.pop(message.id, None) is None:
            raise refuse(Status.NOT_FOUND, f'lease "{message.id}"')
        if message.sync:
            self._world.collector.collect(self._world)
        else:
            self._world.collector.deleted(self._world)
        return Empty()

    async def list(self, message: ListRequest) -> ListResponse:
        """Return the leases that match."""
        leases = self._store.look(required_namespace()).leases
        ordered = [leases[key].lease for key in sorted(leases)]
        found = select(
            ordered,
            message.filters,
            lambda lease: {"id": lease.id, "labels": lease.labels},
            suffix=": invalid argument",
        )
        return ListResponse(leases=found)

    async def add_resource(self, message: AddResourceRequest) -> Empty:
        """Have a lease hold something, whether it exists or not."""
        record = self._find(message.id)
        record.resources.add(self._checked(message.resource))
        return Empty()

    async def delete_resource(self, message: DeleteResourceRequest) -> Empty:
        """Have a lease let something go."""
        record = self._find(message.id)
        record.resources.discard(self._checked(message.resource))
        return Empty()

    async def list_resources(self, message: ListResourcesRequest) -> ListResourcesResponse:
        """Return what a lease holds."""
        record = self._find(message.id)
        return ListResourcesResponse(
            resources=[Resource(type=kind, id=name) for kind, name in sorted(record.resources)]
        )

    def _find(self, lease_id: str) -> LeaseRecord:
        found = self._store.look(required_namespace()).leases.get(lease_id)
        if found is None:
            raise refuse(Status.NOT_FOUND, f'lease "{lease_id}"')
        return found

    def _checked(self, resource: Resource | None) -> tuple[str, str]:
        resource = resource or Resource()
        kind, _, rest = resource.type.partition("/")
        if kind == "snapshots":
            if not rest or "/" in rest:
                raise refuse(Status.INVALID_ARGUMENT, f"invalid snapshot resource type {resource.type}")
        elif resource.type == "content":
            if not DIGEST.fullmatch(resource.id):
                text = f"invalid content resource id {resource.id}: invalid checksum digest format"
                raise refuse(Status.INVALID_ARGUMENT, text)
        elif resource.type != "ingests" and not (
            resource.type == "images" and self._world.release.image_leases
        ):
            raise refuse(Status.UNIMPLEMENTED, f"resource type {resource.type} not supported yet")
        return resource.type, resource.id


def lease_of_call(records: NamespaceRecords) -> LeaseRecord | None:
    """Return the lease that the call names; None when it names none.

    Raises:
        GRPCError: There is no such lease.
    """
    name = current_call.get().lease
    if not name:
        return None
    if name not in records.leases:
        raise refuse(Status.NOT_FOUND, "lease does not exist")
    return records.leases[name]

"""Containers made again from a checkpoint."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from containerd_aio import typeurl
from containerd_aio._identifiers import check_identifier
from containerd_aio._new_container import create_record, resolve_defaults
from containerd_aio._new_rootfs import new_rootfs
from containerd_aio._transport.codec import decode
from containerd_aio.api.containerd.services.containers.v1 import Container as RawContainer
from containerd_aio.api.containerd.services.containers.v1 import ContainerRuntime
from containerd_aio.api.google.protobuf import Any as AnyMessage
from containerd_aio.checkpoint import (
    CONFIG,
    IMAGE_ANNOTATION,
    RUNTIME_ANNOTATION,
    RUNTIME_OPTIONS,
    SNAPSHOTTER_ANNOTATION,
    TASK_IMAGE_ANNOTATION,
    Index,
    find_entry,
    find_layer,
    read_index,
)
from containerd_aio.distribution.manifests import is_index, is_manifest
from containerd_aio.errors import NotFound
from containerd_aio.image import Image
from containerd_aio.oci import to_json
from containerd_aio.services.content import ContentStore
from containerd_aio.services.descriptor import Descriptor
from containerd_aio.services.diff import Diff
from containerd_aio.services.images import ImageRecord, ImageStore
from containerd_aio.services.leases import lease
from containerd_aio.services.snapshots import Snapshotter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from containerd_aio._scope import Scope
    from containerd_aio.container import Container
    from containerd_aio.oci import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions:
    """What `Client.restore` was asked for; see there."""

    rw: bool = True
    spec: Spec | None = None
    snapshot: str | None = None
    snapshotter: str | None = None
    runtime: str | None = None
    labels: Mapping[str, str] | None = None


async def restore(
    scope: Scope, container_id: str, checkpoint: Image | Descriptor | str, wanted: RestoreOptions
) -> Container:
    """Make a container from a checkpoint; see `Client.restore`."""
    check_identifier(container_id, "container id")
    if isinstance(checkpoint, str):
        checkpoint = await Image.get(scope.services, checkpoint)
    target = checkpoint.target if isinstance(checkpoint, Image) else checkpoint
    index = await read_index(scope.services, target)
    spec = wanted.spec if wanted.spec is not None else await _spec(scope, container_id, index)
    runtime, snapshotter = await resolve_defaults(
        scope,
        wanted.runtime or index.annotations.get(RUNTIME_ANNOTATION),
        wanted.snapshotter or index.annotations.get(SNAPSHOTTER_ANNOTATION),
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(lease(scope.services))
        image = await _image(scope, index)
        key = ""
        if image is not None:
            key = wanted.snapshot or container_id
            await stack.enter_async_context(new_rootfs(scope, image, snapshotter, key))
            layer = find_layer(index)
            if wanted.rw and layer is not None:
                mounts = await Snapshotter(scope.services, snapshotter).mounts(key)
                await Diff(scope.services).apply(layer, mounts)
        record = RawContainer(
            id=container_id,
            image=image.name if image is not None else "",
            labels=dict(wanted.labels or {}),
            runtime=ContainerRuntime(
                name=runtime,
                options=await _read_any(scope, find_entry(index, RUNTIME_OPTIONS)),
            ),
            spec=typeurl.pack(to_json(spec), typeurl.SPEC),
            snapshotter=snapshotter if key else "",
            snapshot_key=key,
        )
        return await create_record(scope, record)


async def _image(scope: Scope, index: Index) -> Image | None:
    """Return the image of the container: as the checkpoint has it, else as the store has it under that name.

    Raises:
        NotFound: It is in neither.
    """
    name = index.annotations.get(IMAGE_ANNOTATION) or index.annotations.get(TASK_IMAGE_ANNOTATION) or ""
    for entry in index.entries:
        if is_manifest(entry.media_type) or is_index(entry.media_type):
            return Image(scope.services, _record(name, entry))
    if not name:
        return None
    return Image(scope.services, await ImageStore(scope.services).get(name))


def _record(name: str, target: Descriptor) -> ImageRecord:
    from containerd_aio.api.containerd.services.images.v1 import Image as RawImage

    return ImageRecord.from_raw(RawImage(name=name, target=target.to_raw()))


async def _spec(scope: Scope, container_id: str, index: Index) -> Spec:
    """Return the spec of the container, with the cgroup of the new one.

    Raises:
        NotFound: The checkpoint has none: it was made without the task.
    """
    packed = await _read_any(scope, find_entry(index, CONFIG))
    if packed is None:
        raise NotFound(
            "the checkpoint has no spec, as it was made without the state of a task; give spec= to make the container"
        )
    spec: Any = typeurl.unpack(packed)
    linux = spec.get("linux") or {}
    path = linux.get("cgroupsPath") or ""
    # The one that a container gets by default names it; under another id it would be shared with the first.
    if path.startswith("/") and path.count("/") == 2:
        linux["cgroupsPath"] = f"/{scope.namespace}/{container_id}"
    result: Spec = spec
    return result


async def _read_any(scope: Scope, entry: Descriptor | None) -> AnyMessage | None:
    if entry is None or entry.size == 0:  # which is how ctr of containerd 1.6 writes that there are none
        return None
    return decode(AnyMessage, await ContentStore(scope.services).read_all(entry.digest))

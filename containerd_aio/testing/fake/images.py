"""containerd.services.images.v1.Images."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from grpclib.const import Status

from containerd_aio.api.containerd.services.images.v1 import (
    CreateImageRequest,
    CreateImageResponse,
    DeleteImageRequest,
    GetImageRequest,
    GetImageResponse,
    Image,
    ImageCreate,
    ImageDelete,
    ImagesBase,
    ImageUpdate,
    ListImagesRequest,
    ListImagesResponse,
    UpdateImageRequest,
    UpdateImageResponse,
)
from containerd_aio.api.containerd.types import Descriptor
from containerd_aio.api.google.protobuf import Empty
from containerd_aio.testing.fake.call import refuse, refuse_plainly, required_namespace
from containerd_aio.testing.fake.filters import select
from containerd_aio.testing.fake.labels import check_labels, updated_labels, without_empty

if TYPE_CHECKING:
    from containerd_aio.testing.fake.world import World

DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
"""What containerd takes for a digest."""


class ImagesService(ImagesBase):
    """The image records."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._store = world.store

    async def get(self, message: GetImageRequest) -> GetImageResponse:
        """Return a record."""
        return GetImageResponse(image=self._find(message.name))

    def _find(self, name: str) -> Image:
        found = self._store.look(required_namespace()).images.get(name)
        if found is None:
            raise refuse(Status.NOT_FOUND, f'image "{name}"')
        return found

    async def list(self, message: ListImagesRequest) -> ListImagesResponse:
        """Return the records that match."""
        images = self._store.look(required_namespace()).images
        ordered = [images[name] for name in sorted(images)]
        return ListImagesResponse(
            images=select(ordered, message.filters, _fields, suffix=": invalid argument")
        )

    async def create(self, message: CreateImageRequest) -> CreateImageResponse:
        """Create a record; its content need not be there."""
        namespace = required_namespace()
        wanted = message.image or Image()
        if not wanted.name:
            raise refuse_plainly(Status.INVALID_ARGUMENT, "Image.Name required")
        self._check(wanted)
        images = self._store.change(namespace).images
        if wanted.name in images:
            raise refuse(Status.ALREADY_EXISTS, f'image "{wanted.name}"')
        now = self._world.clock.timestamp()
        labels = without_empty(wanted.labels)
        made = images[wanted.name] = replace(wanted, labels=labels, created_at=now, updated_at=now)
        event = ImageCreate(name=made.name, labels=dict(made.labels))
        self._world.exchange.publish(namespace, "/images/create", event)
        return CreateImageResponse(image=made)

    def _check(self, image: Image) -> None:
        check_labels(self._world.release, image.labels, "image.Labels")
        target = image.target or Descriptor()
        if not DIGEST.fullmatch(target.digest):
            text = f'Target.Digest "{target.digest}" invalid: invalid checksum digest format'
            raise refuse(Status.INVALID_ARGUMENT, text)
        if target.size <= 0:
            raise refuse(Status.INVALID_ARGUMENT, "Target.Size must be greater than zero")
        if not target.media_type:
            raise refuse(Status.INVALID_ARGUMENT, "Target.MediaType must be set")

    async def update(self, message: UpdateImageRequest) -> UpdateImageResponse:
        """Change what the mask names of a record, or all of it."""
        namespace = required_namespace()
        wanted = message.image or Image()
        if not wanted.name:
            raise refuse_plainly(Status.INVALID_ARGUMENT, "Image.Name required")
        old = self._find(wanted.name)
        new = replace(old, updated_at=self._world.clock.timestamp())
        for path in (message.update_mask.paths if message.update_mask else []) or ("labels", "target"):
            _update_path(new, wanted, path)
        self._check(new)
        self._store.change(namespace).images[new.name] = new
        event = ImageUpdate(name=new.name, labels=dict(new.labels))
        self._world.exchange.publish(namespace, "/images/update", event)
        return UpdateImageResponse(image=new)

    async def delete(self, message: DeleteImageRequest) -> Empty:
        """Delete a record."""
        namespace = required_namespace()
        found = self._find(message.name)
        if message.target is not None and self._world.release.image_delete_target:
            have = found.target.digest if found.target else ""
            if have != message.target.digest:
                text = f'image "{message.name}" has target {have}, not {message.target.digest}'
                raise refuse(Status.NOT_FOUND, text)
        del self._store.change(namespace).images[message.name]
        self._world.exchange.publish(namespace, "/images/delete", ImageDelete(name=message.name))
        if message.sync:
            self._world.collector.collect(self._world)
        else:
            self._world.collector.deleted(self._world)
        return Empty()


def _update_path(new: Image, wanted: Image, path: str) -> None:
    labels = updated_labels(path, new.labels, wanted.labels)
    if labels is not None:
        new.labels = labels
    elif path == "target":
        new.target = wanted.target
    elif path == "annotations":
        if new.target is not None:
            new.target = replace(
                new.target, annotations=dict(wanted.target.annotations) if wanted.target else {}
            )
    else:
        raise refuse(Status.INVALID_ARGUMENT, f'cannot update "{path}" field on image "{wanted.name}"')


def _fields(image: Image) -> dict[str, object]:
    target = image.target or Descriptor()
    return {
        "name": image.name,
        "target": {"digest": target.digest, "mediatype": target.media_type},
        "labels": image.labels,
        "annotations": target.annotations,
    }

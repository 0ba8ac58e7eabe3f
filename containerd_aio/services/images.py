"""Image records: names for content."""

from __future__ import annotations

import builtins
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from containerd_aio.api.containerd.services.images.v1 import (
    CreateImageRequest,
    DeleteImageRequest,
    GetImageRequest,
    ListImagesRequest,
    UpdateImageRequest,
)
from containerd_aio.api.containerd.services.images.v1 import Image as RawImage
from containerd_aio.api.google.protobuf import FieldMask
from containerd_aio.errors import AlreadyExists, InvalidArgument, NotFound
from containerd_aio.services._convert import label_mask, label_updates, to_datetime
from containerd_aio.services.descriptor import Descriptor, check_digest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from containerd_aio.services.stubs import Services


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image as the daemon keeps it: a name, and what it stands for.

    Attributes:
        name: Its name, such as ``docker.io/library/busybox:latest``; any text, to containerd.
        target: The manifest or index it names.
        labels: Its labels.
        created_at: When the record was made.
        updated_at: When it was changed last.
        raw: containerd's message.
    """

    name: str
    target: Descriptor
    labels: Mapping[str, str]
    created_at: datetime | None
    updated_at: datetime | None
    raw: RawImage = field(repr=False, compare=False)

    @classmethod
    def from_raw(cls, raw: RawImage | None) -> Self:
        """Take over containerd's message."""
        assert raw is not None
        return cls(
            raw.name,
            Descriptor.from_raw(raw.target),
            dict(raw.labels),
            to_datetime(raw.created_at),
            to_datetime(raw.updated_at),
            raw,
        )


class ImageStore:
    """The image records of one namespace.

    Args:
        services: The stubs to call.
    """

    def __init__(self, services: Services) -> None:
        self._stub = services.images

    async def get(self, name: str) -> ImageRecord:
        """Return a record.

        Raises:
            NotFound: There is no image of that name.
        """
        reply = await self._stub.get(GetImageRequest(name=_name(name)))
        return ImageRecord.from_raw(reply.image)

    async def list(self, *filters: str) -> builtins.list[ImageRecord]:
        """Return the records that match any of `filters` (containerd's filter language), or all."""
        reply = await self._stub.list(ListImagesRequest(filters=[*filters]))
        return [ImageRecord.from_raw(raw) for raw in reply.images]

    async def create(
        self, name: str, target: Descriptor, *, labels: Mapping[str, str] | None = None
    ) -> ImageRecord:
        """Make a record. containerd does not ask whether the content is there.

        Raises:
            AlreadyExists: There is an image of that name.
            InvalidArgument: `target` has no digest, size or media type.
        """
        reply = await self._stub.create(CreateImageRequest(image=_raw(name, target, labels)))
        return ImageRecord.from_raw(reply.image)

    async def update(
        self, name: str, target: Descriptor, *, labels: Mapping[str, str] | None = None
    ) -> ImageRecord:
        """Let a record name other content.

        Args:
            name: The image.
            target: What it names from now on.
            labels: Its labels from now on, all of them; None leaves them as they are.

        Raises:
            NotFound: There is no image of that name.
        """
        mask = FieldMask(paths=["target"] if labels is None else ["target", "labels"])
        reply = await self._stub.update(
            UpdateImageRequest(image=_raw(name, target, labels), update_mask=mask)
        )
        return ImageRecord.from_raw(reply.image)

    async def create_or_update(
        self, name: str, target: Descriptor, *, labels: Mapping[str, str] | None = None
    ) -> ImageRecord:
        """Make a record, or let the one that is there name `target`; labels as in `update`."""
        while True:
            try:
                return await self.update(name, target, labels=labels)
            except NotFound:
                pass
            try:
                return await self.create(name, target, labels=labels)
            except AlreadyExists:
                continue  # somebody was faster: theirs is updated

    async def update_labels(self, name: str, labels: Mapping[str, str | None]) -> ImageRecord:
        """Change labels.

        Args:
            name: The image.
            labels: New values; None or an empty one removes the label.

        Raises:
            NotFound: There is no image of that name.
        """
        if not labels:
            return await self.get(name)
        # The target is not in the mask; without one the daemon would crash.
        image = RawImage(
            name=_name(name), labels=label_updates(labels), target=Descriptor("", "", 0).to_raw()
        )
        reply = await self._stub.update(UpdateImageRequest(image=image, update_mask=label_mask(labels)))
        return ImageRecord.from_raw(reply.image)

    async def delete(self, name: str, *, sync: bool = False, target: Descriptor | None = None) -> None:
        """Delete a record; its content and snapshots are collected when nothing else refers to them.

        Args:
            name: The image.
            sync: Run a garbage collection now and return when it is done.
            target: Delete only if the image still names this. containerd before 2.0 can't be asked to look, so it is
                compared here, just before.

        Raises:
            NotFound: There is no image of that name, or it names something else than `target`.
        """
        raw_target = None
        if target is not None:
            record = await self.get(name)
            if record.target.digest != target.digest:
                raise NotFound(
                    f"image {name!r} names {record.target.digest}, not {target.digest}; not deleted"
                )
            raw_target = target.to_raw()
        await self._stub.delete(DeleteImageRequest(name=_name(name), sync=sync, target=raw_target))


def _name(text: str) -> str:
    if not text:
        raise InvalidArgument("the name of an image is empty")
    return text


def _raw(name: str, target: Descriptor, labels: Mapping[str, str] | None) -> RawImage:
    check_digest(target.digest)
    if not target.media_type or target.size <= 0:
        raise InvalidArgument(f"image {name!r}: the target needs a media type and a size: {target}")
    return RawImage(name=_name(name), labels=dict(labels or {}), target=target.to_raw())

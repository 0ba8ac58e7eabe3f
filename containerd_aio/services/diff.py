"""Layers applied to mounts, and made from the difference of two."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from containerd_aio.api.containerd.services.diff.v1 import ApplyRequest, DiffRequest
from containerd_aio.api.google.protobuf import Timestamp
from containerd_aio.errors import InvalidArgument
from containerd_aio.services.descriptor import Descriptor
from containerd_aio.services.snapshots import Kind, mounts_to_raw

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from containerd_aio.api.google.protobuf import Any as AnyMessage
    from containerd_aio.services.snapshots import Mount, Snapshotter
    from containerd_aio.services.stubs import Services

DIFF_MEDIA_TYPES = (
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+zstd",
)
"""What containerd's differ can make; the first is its default, the last is for containerd 2.0 and later."""


class Diff:
    """The diff service of one namespace.

    The mounts are made and removed by the daemon; this process needs no privilege.

    Args:
        services: The stubs to call.
    """

    def __init__(self, services: Services) -> None:
        self._stub = services.diff

    async def apply(
        self,
        layer: Descriptor,
        mounts: Sequence[Mount],
        *,
        sync_fs: bool = False,
        payloads: Mapping[str, AnyMessage] | None = None,
    ) -> Descriptor:
        """Unpack a layer into a snapshot.

        There is no deadline: a big layer takes as long as it takes.

        Args:
            layer: The layer, whose blob is in the content store.
            mounts: Mounts of an active snapshot.
            sync_fs: Write everything to the disk before returning (containerd 1.7 and later; older ones ignore it).
            payloads: What the daemon's stream processors are given, such as keys, by their id.

        Returns:
            The uncompressed layer: its digest is the layer's diff id.

        Raises:
            NotFound: The blob is not there.
        """
        reply = await self._stub.apply(
            ApplyRequest(
                diff=layer.to_raw(),
                mounts=mounts_to_raw(mounts),
                sync_fs=sync_fs,
                payloads=dict(payloads or {}),
            )
        )
        return Descriptor.from_raw(reply.applied)

    async def diff(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        *,
        media_type: str = DIFF_MEDIA_TYPES[0],
        ref: str = "",
        labels: Mapping[str, str] | None = None,
        source_date_epoch: datetime | None = None,
    ) -> Descriptor:
        """Make a layer of what `upper` changes in `lower` and put it into the content store.

        Args:
            lower: Mounts of the parent.
            upper: Mounts of the changed snapshot.
            media_type: One of `DIFF_MEDIA_TYPES`.
            ref: Name of the ingest; a unique one by default.
            labels: Labels of the new blob.
            source_date_epoch: No time in the layer is later, so that the same change gives the same layer (containerd 1.7
                and later; older ones ignore it).

        Returns:
            The new layer.

        Raises:
            InvalidArgument: `media_type` is another one, or `source_date_epoch` has no time zone.
            Unimplemented: The daemon is too old for `media_type`.
        """
        if media_type not in DIFF_MEDIA_TYPES:
            raise InvalidArgument(
                f"containerd cannot make a layer of type {media_type!r}; it knows {', '.join(DIFF_MEDIA_TYPES)}"
            )
        if source_date_epoch is not None and source_date_epoch.tzinfo is None:
            raise InvalidArgument("source_date_epoch has no time zone")
        epoch = None if source_date_epoch is None else Timestamp.from_datetime(source_date_epoch)
        reply = await self._stub.diff(
            DiffRequest(
                left=mounts_to_raw(lower),
                right=mounts_to_raw(upper),
                media_type=media_type,
                ref=ref,
                labels=dict(labels or {}),
                source_date_epoch=epoch,
            )
        )
        return Descriptor.from_raw(reply.diff)

    async def of_snapshot(
        self,
        snapshotter: Snapshotter,
        key: str,
        *,
        media_type: str = DIFF_MEDIA_TYPES[0],
        ref: str = "",
        labels: Mapping[str, str] | None = None,
        source_date_epoch: datetime | None = None,
    ) -> Descriptor:
        """Make a layer of what a snapshot changes in its parent (Go: ``rootfs.CreateDiff``).

        The views that it takes are removed again, whatever happens.

        Args:
            snapshotter: Where the snapshot is.
            key: The snapshot, of any kind.
            media_type: As for `diff`.
            ref: As for `diff`.
            labels: As for `diff`.
            source_date_epoch: As for `diff`.

        Returns:
            The new layer.

        Raises:
            NotFound: There is no such snapshot.
            InvalidArgument: As for `diff`.
        """
        info = await snapshotter.stat(key)
        async with AsyncExitStack() as stack:
            lower: list[Mount] = []
            if info.parent:
                lower = await stack.enter_async_context(snapshotter.viewed(info.parent))
            if info.kind is Kind.ACTIVE:
                upper = await snapshotter.mounts(key)
            elif info.kind is Kind.VIEW:  # it changes nothing
                upper = lower
            else:
                upper = await stack.enter_async_context(snapshotter.viewed(key))
            return await self.diff(
                lower,
                upper,
                media_type=media_type,
                ref=ref,
                labels=labels,
                source_date_epoch=source_date_epoch,
            )

"""Layers applied to mounts, and made from the difference of two."""

from __future__ import annotations

from typing import TYPE_CHECKING

from containerd_aio.api.containerd.services.diff.v1 import ApplyRequest, DiffRequest
from containerd_aio.errors import InvalidArgument
from containerd_aio.services.descriptor import Descriptor
from containerd_aio.services.snapshots import mounts_to_raw

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from containerd_aio.services.snapshots import Mount
    from containerd_aio.services.stubs import Services

DIFF_MEDIA_TYPES = (
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+zstd",
)
"""What containerd's differ can make; the first is its default."""


class Diff:
    """The diff service of one namespace.

    The mounts are made and removed by the daemon; this process needs no privilege.

    Args:
        services: The stubs to call.
    """

    def __init__(self, services: Services) -> None:
        self._stub = services.diff

    async def apply(self, layer: Descriptor, mounts: Sequence[Mount], *, sync_fs: bool = False) -> Descriptor:
        """Unpack a layer into a snapshot.

        There is no deadline: a big layer takes as long as it takes.

        Args:
            layer: The layer, whose blob is in the content store.
            mounts: Mounts of an active snapshot.
            sync_fs: Write everything to the disk before returning (containerd 1.7 and later; older ones ignore it).

        Returns:
            The uncompressed layer: its digest is the layer's diff id.

        Raises:
            NotFound: The blob is not there.
        """
        reply = await self._stub.apply(
            ApplyRequest(diff=layer.to_raw(), mounts=mounts_to_raw(mounts), sync_fs=sync_fs)
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
    ) -> Descriptor:
        """Make a layer of what `upper` changes in `lower` and put it into the content store.

        Args:
            lower: Mounts of the parent.
            upper: Mounts of the changed snapshot.
            media_type: One of `DIFF_MEDIA_TYPES`.
            ref: Name of the ingest; a unique one by default.
            labels: Labels of the new blob.

        Returns:
            The new layer.

        Raises:
            InvalidArgument: `media_type` is another one.
        """
        if media_type not in DIFF_MEDIA_TYPES:
            raise InvalidArgument(
                f"containerd cannot make a layer of type {media_type!r}; it knows {', '.join(DIFF_MEDIA_TYPES)}"
            )
        reply = await self._stub.diff(
            DiffRequest(
                left=mounts_to_raw(lower),
                right=mounts_to_raw(upper),
                media_type=media_type,
                ref=ref,
                labels=dict(labels or {}),
            )
        )
        return Descriptor.from_raw(reply.diff)

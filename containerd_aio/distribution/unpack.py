"""Layers to snapshots: what makes a file system for containers of an image.

For each layer an active snapshot is prepared, the daemon applies the layer to it, and it is committed under the layer's
chain id (Go: core/unpack and rootfs.ApplyLayers). The names say all there is to know, so any number of clients may
unpack the same image at the same time: whoever commits first wins and the others take over the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from containerd_aio._log import get_logger
from containerd_aio.distribution._layers import UNCOMPRESSED_LABEL
from containerd_aio.distribution._leases import own_lease
from containerd_aio.distribution.manifests import chain_id, chain_ids, diff_ids, is_layer, read_document
from containerd_aio.distribution.progress import Action, ProgressEvent, silent
from containerd_aio.errors import (
    AlreadyExists,
    ContainerdError,
    DataLoss,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from containerd_aio.services._alone import alone
from containerd_aio.services._convert import unique_name
from containerd_aio.services.content import ContentStore
from containerd_aio.services.diff import Diff
from containerd_aio.services.leases import Leases, Resource
from containerd_aio.services.snapshots import SNAPSHOT_REF_LABEL, Snapshotter, resolve_snapshotter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from containerd_aio.distribution.manifests import ImageManifest
    from containerd_aio.distribution.progress import ProgressCallback
    from containerd_aio.services.descriptor import Descriptor
    from containerd_aio.services.snapshots import Mount
    from containerd_aio.services.stubs import Services

__all__ = ["UNCOMPRESSED_LABEL", "chain_id", "snapshot_gc_label", "unpack"]

# Annotations of a layer under this prefix are handed to the snapshotter.
_INHERITED = "containerd.io/snapshot/"

_PREPARE_TRIES = 3
_REMOVE_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class _Step:
    """One layer to be unpacked: its blob, its diff id, the snapshot to be made and the one below."""

    layer: Descriptor
    diff_id: str
    name: str
    parent: str


def snapshot_gc_label(snapshotter: str) -> str:
    """Return the label of an image config that keeps the image's snapshots from being collected."""
    return f"containerd.io/gc.ref.snapshot.{snapshotter}"


async def unpack(
    services: Services,
    manifest: ImageManifest,
    *,
    snapshotter: str | None = None,
    sync_fs: bool = False,
    need: Callable[[Descriptor], Awaitable[None]] | None = None,
    progress: ProgressCallback = silent,
) -> str:
    """Unpack an image whose content is in the content store.

    It runs under the lease in force, or one of its own. What is unpacked already is not done again. When it fails or
    is cancelled, no active snapshot stays behind.

    Args:
        services: Says which daemon and namespace.
        manifest: The image.
        snapshotter: Where to; by default the namespace's default, else ``overlayfs``.
        sync_fs: Write every layer to the disk before going on (containerd 1.7 and later).
        need: Awaited before the first use of a layer's blob; for layers that are unpacked already it is not called.
        progress: Called with each step.

    Returns:
        Name of the committed snapshot with all layers, the parent for containers' snapshots; empty for an image
        without layers.

    Raises:
        NotFound: A layer's blob or the config is missing.
        InvalidArgument: The image is malformed.
        DataLoss: A layer, unpacked, is not the one that the config names.
    """
    content = ContentStore(services)
    what = f"image {manifest.target.digest}"
    config = await read_document(content, manifest.config)
    layers = [layer for layer in manifest.layers if is_layer(layer.media_type)]
    diffs = diff_ids(config, len(layers), what)
    if (config.get("rootfs") or {}).get("type", "layers") not in {"", "layers"}:
        raise InvalidArgument(f"{what}: its root file system is not made of layers")
    if not layers:
        return ""
    target = Snapshotter(services, await resolve_snapshotter(services, snapshotter))
    chain = chain_ids(diffs)
    async with own_lease(services) as held:
        work = _Unpacking(services, target, held, sync_fs=sync_fs, need=need, progress=progress)
        parent = ""
        for layer, diff, name in zip(layers, diffs, chain, strict=True):
            async with alone(services, "unpack", target.name, name):
                if await work.layer(_Step(layer, diff, name, parent)):
                    await content.update_labels(layer.digest, {UNCOMPRESSED_LABEL: diff})
            progress(ProgressEvent(Action.UNPACKED, layer.digest, layer.size, layer.size, layer))
            parent = name
        await content.update_labels(manifest.config.digest, {snapshot_gc_label(target.name): chain[-1]})
    return chain[-1]


class _Unpacking:
    def __init__(
        self,
        services: Services,
        target: Snapshotter,
        held: str,
        *,
        sync_fs: bool,
        need: Callable[[Descriptor], Awaitable[None]] | None,
        progress: ProgressCallback,
    ) -> None:
        self._leases = Leases(services)
        self._diff = Diff(services)
        self._target = target
        self._held = held
        self._sync_fs = sync_fs
        self._need = need
        self._progress = progress

    async def layer(self, step: _Step) -> bool:
        """Make the snapshot of one layer; False when it was there."""
        labels = {SNAPSHOT_REF_LABEL: step.name}
        labels |= {k: v for k, v in step.layer.annotations.items() if k.startswith(_INHERITED)}
        for _ in range(_PREPARE_TRIES):
            key = f"extract-{unique_name()} {step.name}"
            try:
                mounts = await self._prepare(key, step.parent, labels)
                await self._extract(step, key, mounts, labels)
            except AlreadyExists:
                if await self._take_over(step.name):
                    return False
                # It went away again, or somebody has that key.
            else:
                return True
        raise AlreadyExists(f"no free key for a snapshot in {self._target.name} after {_PREPARE_TRIES} tries")

    async def _take_over(self, name: str) -> bool:
        """Put a snapshot that others made under our lease, and tell whether it is there.

        containerd 1.6 does not do so by itself when it answers "already exists", and an image that is deleted meanwhile
        would take it along.
        """
        await self._leases.add_resource(self._held, Resource(f"snapshots/{self._target.name}", name))
        return await self._target.exists(name)

    async def _prepare(self, key: str, parent: str, labels: dict[str, str]) -> list[Mount]:
        try:
            return await self._target.prepare(key, parent, labels=labels)
        except (DeadlineExceeded, Unavailable, anyio.get_cancelled_exc_class()):
            # The daemon may have made it all the same.
            await _remove(self._target, key)
            raise

    async def _extract(self, step: _Step, key: str, mounts: list[Mount], labels: dict[str, str]) -> None:
        try:
            if self._need is not None:
                await self._need(step.layer)
            self._progress(ProgressEvent(Action.UNPACKING, step.layer.digest, 0, step.layer.size, step.layer))
            applied = await self._diff.apply(step.layer, mounts, sync_fs=self._sync_fs)
            if applied.digest != step.diff_id:
                raise DataLoss(  # noqa: TRY301 - the clean-up below is for this, too
                    f"layer {step.layer.digest} unpacks to {applied.digest} and the image config says {step.diff_id}; "
                    f"the image is inconsistent: build or pull it again"
                )
            await self._target.commit(step.name, key, labels=labels)
        except BaseException:
            await _remove(self._target, key)
            raise


async def _remove(target: Snapshotter, key: str) -> None:
    """Remove an active snapshot whatever happens around; what is left goes with the lease."""
    with anyio.move_on_after(_REMOVE_TIMEOUT, shield=True):
        try:
            await target.remove(key)
        except NotFound:
            pass
        except ContainerdError as exc:
            get_logger(__name__).warning(
                "snapshot not removed", snapshotter=target.name, key=key, error=str(exc)
            )

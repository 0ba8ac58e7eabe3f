"""The snapshot that a new container gets for its root filesystem."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from containerd_aio._log import get_logger
from containerd_aio.errors import AlreadyExists, ContainerdError, NotFound
from containerd_aio.services.snapshots import Snapshotter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from containerd_aio._scope import Scope
    from containerd_aio.idmap import IDMap
    from containerd_aio.image import Image

_UNDO_TIMEOUT = 10.0

_log = get_logger(__name__)


@asynccontextmanager
async def new_rootfs(
    scope: Scope,
    image: Image,
    snapshotter: str,
    key: str,
    *,
    view: bool = False,
    id_map: IDMap | None = None,
    labels: Mapping[str, str] | None = None,
) -> AsyncIterator[None]:
    """Make the snapshot `key` of an image, unpacked if it is not yet; it stays if the block ends well.

    Args:
        scope: Where to.
        image: The image.
        snapshotter: The snapshotter.
        key: Its key.
        view: Make it read-only.
        id_map: Give its files to these users.
        labels: Labels of the snapshot.

    Raises:
        AlreadyExists: There is a snapshot of that key.
    """
    snapshots = Snapshotter(scope.services, snapshotter)
    parent = await image.chain_id()

    async def make() -> None:
        below, all_labels = parent, dict(labels or {})
        if id_map is not None:
            from containerd_aio._remap import maps_ids, remapped_parent

            # A read-only snapshot may be a bind mount, whose ids no snapshotter maps.
            if not view and await maps_ids(scope.services, snapshotter):
                all_labels |= id_map.labels
            else:
                below = await remapped_parent(scope.services, snapshots, parent, id_map)
        await (snapshots.view if view else snapshots.prepare)(key, below, labels=all_labels)

    try:
        try:
            await make()
        except NotFound:  # not unpacked; or collected, as whoever unpacked it was interrupted
            await image.unpack(snapshotter)
            await make()
    except AlreadyExists as exc:
        raise AlreadyExists(
            f"there is a snapshot {key!r} already; remove it, use it with snapshot={key!r}, or name another one with "
            f"new_snapshot=",
            method=exc.method,
        ) from exc
    try:
        yield
    except BaseException:
        await _remove(snapshots, key)
        raise


@asynccontextmanager
async def passing_view(scope: Scope, image: Image, snapshotter: str, key: str) -> AsyncIterator[None]:
    """Have a read-only snapshot of an image for the length of the block, to look something up in it."""
    snapshots = Snapshotter(scope.services, snapshotter)
    async with new_rootfs(scope, image, snapshotter, key, view=True):
        yield
    await _remove(snapshots, key)


async def _remove(snapshots: Snapshotter, key: str) -> None:
    with anyio.move_on_after(_UNDO_TIMEOUT, shield=True):
        try:
            await snapshots.remove(key)
        except ContainerdError as exc:
            _log.debug("snapshot not removed", key=key, error=str(exc))

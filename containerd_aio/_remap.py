"""Snapshots whose files belong to the users of a user namespace.

Some snapshotters map the ids themselves (idmapped mounts) when a snapshot has the labels for it. For the others the files
are given to their new owners here, once for each image and mapping: the result is a committed snapshot, from which
containers' snapshots are made (Go: client.WithUserNSRemappedSnapshot).
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from typing import TYPE_CHECKING

import anyio
import anyio.from_thread

from containerd_aio._log import get_logger
from containerd_aio._mount import temporary_mount
from containerd_aio.errors import AlreadyExists, ContainerdError
from containerd_aio.services._convert import unique_name
from containerd_aio.services.introspection import SNAPSHOTTER_PLUGIN, Introspection
from containerd_aio.services.leases import Leases, Resource, lease

if TYPE_CHECKING:
    from pathlib import Path

    from containerd_aio.idmap import IDMap
    from containerd_aio.services.snapshots import Snapshotter
    from containerd_aio.services.stubs import Services

_UNDO_TIMEOUT = 10.0
_SPECIAL = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX

_log = get_logger(__name__)


async def maps_ids(services: Services, snapshotter: str) -> bool:
    """Tell whether a snapshotter maps the ids of snapshots by itself (its capability ``remap-ids``)."""
    plugins = await Introspection(services).plugins(f"type=={SNAPSHOTTER_PLUGIN},id=={snapshotter}")
    return any("remap-ids" in plugin.capabilities for plugin in plugins)


def remapped_key(parent: str, id_map: IDMap) -> str:
    """Return the name of the committed snapshot with the files of `parent` given to their new owners.

    Like that of the Go client since 2.0, it is the digest of what the snapshot is made of.
    """
    mapping = {
        "UidMap": sorted(id_map.uid_mappings, key=_first),
        "GidMap": sorted(id_map.gid_mappings, key=_first),
    }
    text = json.dumps({"Parent": parent, "IDMap": mapping}, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _first(mapping: object) -> int:
    first: int = mapping["containerID"]  # type: ignore[index]
    return first


async def remapped_parent(services: Services, snapshotter: Snapshotter, parent: str, id_map: IDMap) -> str:
    """Return the committed snapshot with the files of `parent` given to their new owners, made if it is not there.

    It is held by the lease in force until a snapshot is made of it. Root is needed here, and the daemon's files at the paths where the daemon sees them.

    Raises:
        InvalidArgument: A file belongs to somebody who is not in the map.
        PermissionDenied: This process may not mount, or not give files away.
    """
    key = remapped_key(parent, id_map)
    async with lease(services) as held:
        # Before the look: nothing else holds one whose containers are gone.
        await Leases(services).add_resource(held, Resource(f"snapshots/{snapshotter.name}", key))
    if await snapshotter.exists(key):
        return key
    working = f"{key}-remap-{unique_name()}"  # others may do the same at the same time
    mounts = await snapshotter.prepare(working, parent)
    try:
        async with temporary_mount(mounts, writable=True) as root:
            await anyio.to_thread.run_sync(give_away, root, id_map)
        try:
            await snapshotter.commit(key, working)
        except AlreadyExists:
            await _remove(snapshotter, working)  # somebody else was faster
    except BaseException:
        await _remove(snapshotter, working)
        raise
    return key


def give_away(root: Path, id_map: IDMap) -> None:
    """Give every file below `root`, and that itself, to the host's user and group of its owner. Symbolic links too.

    Raises:
        InvalidArgument: A file belongs to somebody who is not in the map.
    """
    done: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(root):
        anyio.from_thread.check_cancelled()
        for name in (".", *folders, *files) if folder == os.fspath(root) else (*folders, *files):
            path = os.path.join(folder, name)  # noqa: PTH118 - a million of them
            status = os.lstat(path)
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                if (status.st_dev, status.st_ino) in done:
                    continue  # its other name was met before
                done.add((status.st_dev, status.st_ino))
            os.lchown(path, id_map.host_uid(status.st_uid), id_map.host_gid(status.st_gid))
            if status.st_mode & _SPECIAL and not stat.S_ISLNK(status.st_mode):
                os.chmod(path, stat.S_IMODE(status.st_mode))  # noqa: PTH101 - chown has taken these bits away


async def _remove(snapshotter: Snapshotter, key: str) -> None:
    with anyio.move_on_after(_UNDO_TIMEOUT, shield=True):
        try:
            await snapshotter.remove(key)
        except ContainerdError as exc:
            _log.debug("snapshot not removed", key=key, error=str(exc))

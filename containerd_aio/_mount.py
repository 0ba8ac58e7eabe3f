"""Snapshots mounted on this machine for as long as a look into them takes."""

from __future__ import annotations

import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from containerd_aio.errors import FailedPrecondition, PermissionDenied

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from containerd_aio.services.snapshots import Mount


@asynccontextmanager
async def temporary_mount(mounts: Sequence[Mount], *, writable: bool = False) -> AsyncIterator[Path]:
    """Mount `mounts` on a new directory, and undo it at the end whatever happens.

    It needs root, and the daemon's files at the same paths as the daemon sees them. What is a directory already (a
    single bind mount) is not mounted but yielded itself, which needs no privilege but that of reading it.

    Args:
        mounts: As a snapshotter gives them.
        writable: Mount them as they are; by default read-only.

    Yields:
        The directory.

    Raises:
        PermissionDenied: This process may not mount.
        FailedPrecondition: The mount failed for another reason.
    """
    if len(mounts) == 1 and _is_bind(mounts[0]):
        yield Path(mounts[0].source)
        return
    target = Path(await anyio.to_thread.run_sync(tempfile.mkdtemp, "", "containerd-aio-"))
    mounted = 0
    try:
        for mount in mounts:
            with anyio.CancelScope(shield=True):  # between mount(8) and the count of what is to be undone
                await _run(mount_command(mount, str(target), writable=writable))
                mounted += 1
        yield target
    finally:
        with anyio.CancelScope(shield=True):
            for _ in range(mounted):
                await _run(["umount", str(target)])
            await anyio.Path(target).rmdir()


def mount_command(mount: Mount, target: str, *, writable: bool) -> list[str]:
    """Return the call of mount(8) that performs `mount` on `target`.

    The options that ask the runtime to map ids are left out: files are seen with the owners they have.
    """
    options = [o for o in mount.options if not o.startswith(("uidmap=", "gidmap="))]
    if not writable:
        options = [*(o for o in options if o != "rw"), "ro"]
    if _is_bind(mount):
        return ["mount", "--bind", *([] if writable else ["-o", "ro"]), mount.source, target]
    return ["mount", "-t", mount.type, *(["-o", ",".join(options)] if options else []), mount.source, target]


def _is_bind(mount: Mount) -> bool:
    return mount.type == "bind" or "bind" in mount.options or "rbind" in mount.options


async def _run(command: list[str]) -> None:
    result = await anyio.run_process(command, check=False)
    if result.returncode == 0:
        return
    text = result.stderr.decode(errors="replace").strip()
    if "permission denied" in text.lower() or "must be superuser" in text.lower():
        raise PermissionDenied(f"{command[0]} was refused ({text}): looking into a snapshot needs root")
    raise FailedPrecondition(f"{' '.join(command)} failed: {text}")

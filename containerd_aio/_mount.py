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
async def temporary_mount(mounts: Sequence[Mount]) -> AsyncIterator[Path]:
    """Mount `mounts` read-only on a new directory, and undo it at the end whatever happens.

    It needs root, and the daemon's files at the same paths as the daemon sees them.

    Raises:
        PermissionDenied: This process may not mount.
        FailedPrecondition: The mount failed for another reason.
    """
    target = Path(await anyio.to_thread.run_sync(tempfile.mkdtemp, "", "containerd-aio-"))
    mounted = 0
    try:
        for mount in mounts:
            options = [o for o in mount.options if o != "rw"]
            command = ["mount", "-t", mount.type, "-o", ",".join([*options, "ro"]), mount.source, str(target)]
            if mount.type == "bind" or "rbind" in options:
                command = ["mount", "--bind", "-o", "ro", mount.source, str(target)]
            with anyio.CancelScope(shield=True):  # between mount(8) and the count of what is to be undone
                await _run(command)
                mounted += 1
        yield target
    finally:
        with anyio.CancelScope(shield=True):
            for _ in range(mounted):
                await _run(["umount", str(target)])
            await anyio.Path(target).rmdir()


async def _run(command: list[str]) -> None:
    result = await anyio.run_process(command, check=False)
    if result.returncode == 0:
        return
    text = result.stderr.decode(errors="replace").strip()
    if "permission denied" in text.lower() or "must be superuser" in text.lower():
        raise PermissionDenied(f"{command[0]} was refused ({text}): looking into a snapshot needs root")
    raise FailedPrecondition(f"{' '.join(command)} failed: {text}")

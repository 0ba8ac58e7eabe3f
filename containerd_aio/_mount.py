"""Snapshots mounted on this machine for as long as a look into them takes."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from containerd_aio import mounts as performed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from containerd_aio.services.snapshots import Mount


@asynccontextmanager
async def temporary_mount(mounts: Sequence[Mount], *, writable: bool = False) -> AsyncIterator[Path]:
    """Have the files of a snapshot in a directory for the length of a block.

    What is a directory already (a single bind mount) is not mounted but yielded itself, which needs no privilege but that
    of reading it. Everything else is mounted, and unmounted at the end: see `mounts.temporary_mount`.

    Args:
        mounts: As a snapshotter gives them.
        writable: Mount them as they are; by default read-only.

    Yields:
        The directory.

    Raises:
        PermissionDenied: This process may not mount.
        FailedPrecondition: The mount failed for another reason.
    """
    if len(mounts) == 1 and performed.is_bind(mounts[0]):
        yield Path(mounts[0].source)
        return
    async with performed.temporary_mount(mounts, readonly=not writable) as path:
        yield path

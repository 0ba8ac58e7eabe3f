"""The lease of a pull, an import and the like, and what is done about those of processes that were killed.

A lease cannot be prolonged, so it lasts for a day; after a process was killed, half an image would stay for as long. Each
lease therefore bears the process that holds it, and the next such work on the same machine deletes those of processes that
are no more.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from containerd_aio._log import get_logger
from containerd_aio.errors import ContainerdError, NotFound
from containerd_aio.services._convert import unique_name
from containerd_aio.services.leases import Leases, lease

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from containerd_aio.services.stubs import Services

HOLDER_LABEL = "containerd-aio/holder"
"""Label of a lease: the boot, the PID namespace, the pid and the start time of the process that holds it."""

# Leases of this process that are in use; one that could not be deleted at its end is as dead as its process.
_in_use: set[str] = set()


@asynccontextmanager
async def own_lease(services: Services) -> AsyncGenerator[str, None]:
    """Hold the lease in force, or one that says whose it is; at its end those of dead processes are deleted as well."""
    me = identity(os.getpid())
    mine = unique_name()
    _in_use.add(mine)  # before it is made: somebody else may be looking for dead ones
    try:
        async with lease(services, id=mine, labels={HOLDER_LABEL: me} if me else None) as name:
            yield name
            if name == mine:  # else this was part of a larger work, at whose end all that will be done
                await _delete_dead(services)
    finally:
        _in_use.discard(mine)


async def _delete_dead(services: Services) -> None:
    """Delete the leases of the dead: afterwards, so that what they had begun could be gone on with."""
    leases = Leases(services)
    try:
        for found in await leases.list(f'labels."{HOLDER_LABEL}"'):
            holder = found.labels[HOLDER_LABEL]
            if found.id not in _in_use and is_dead(holder):
                await _delete(leases, found.id, holder)
    except ContainerdError as exc:
        get_logger(__name__).warning("leases of dead processes not looked for", error=str(exc))


async def _delete(leases: Leases, name: str, holder: str) -> None:
    try:
        await leases.delete(name)
    except NotFound:
        return  # somebody else did
    get_logger(__name__).info("lease of a dead process deleted", lease=name, holder=holder)


def is_dead(holder: str) -> bool:
    """Tell whether a holder certainly is no more; of one in another PID namespace nobody knows. Our own is not in use."""
    try:
        boot, namespace, pid, _ = holder.split("/")
    except ValueError:
        return False
    if boot != _boot():
        return bool(_boot())
    if namespace != _pid_namespace():
        return False
    if holder == identity(os.getpid()) or not pid.isdecimal():
        return True
    found = identity(int(pid))
    return found != holder if found else not _runs(int(pid))


def _runs(pid: int) -> bool:
    """Tell whether there is such a process; ``/proc`` may hide those of other users."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def identity(pid: int) -> str:
    """Return what tells a process from all others of this machine; empty where ``/proc`` does not say."""
    try:
        # After the name, which is in parentheses and may contain anything; the start time is field 22 (proc(5)).
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
        started = fields[19]
    except (OSError, IndexError):
        return ""
    return f"{_boot()}/{_pid_namespace()}/{pid}/{started}" if _boot() else ""


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


@cache
def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return ""

"""The mounts that snapshotters give, performed on this machine, and undone.

They are made with mount(8), which knows the helpers of FUSE file systems. It takes root (CAP_SYS_ADMIN), and the daemon's
files at the same paths as the daemon sees them. Go: package ``mount``.
"""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from containerd_aio.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from containerd_aio.services.snapshots import Mount

__all__ = ["MountPoint", "lookup", "mount", "mounted", "temporary_mount", "unmount"]

# The kernel takes a page of options; beyond that the paths of an overlay have to be shortened.
_LONGEST_OPTIONS = 4000

# Asked of the runtime, not of the kernel.
_FOR_RUNTIMES = ("uidmap=", "gidmap=")

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountPoint:
    """A mount of this machine, as the kernel tells it (proc(5), ``mountinfo``).

    Attributes:
        path: Where it is.
        type: Kind of file system.
        source: What is mounted.
        options: Options of this mount and of its file system.
    """

    path: Path
    type: str
    source: str
    options: tuple[str, ...]


async def mount(mounts: Sequence[Mount], target: str | os.PathLike[str], *, readonly: bool = False) -> int:
    """Perform `mounts` on `target`, one over the other. If one fails those before it are undone.

    Args:
        mounts: As a snapshotter gives them. A mount with a ``target`` of its own goes there, below `target`.
        target: An existing directory.
        readonly: Mount them read-only whatever they say.

    Returns:
        How many mounts were made.

    Raises:
        PermissionDenied: This process may not mount.
        FailedPrecondition: A mount failed for another reason; the text says which.
        InvalidArgument: A mount leads out of `target`.
    """
    base = Path(target)
    places = [_place(base, each) for each in mounts]
    done: list[Path] = []
    try:
        for each, place in zip(mounts, places, strict=True):
            await anyio.lowlevel.checkpoint_if_cancelled()
            with anyio.CancelScope(shield=True):  # between mount(8) and the note of what is to be undone
                await _mount_one(each, place, readonly=readonly)
                done.append(place)
    except BaseException:
        with anyio.CancelScope(shield=True):
            for place in reversed(done):
                await _unmount_one(place)
        raise
    return len(done)


async def unmount(target: str | os.PathLike[str], *, recursive: bool = False) -> int:
    """Undo everything that is mounted on `target`, also what is mounted over each other (Go: ``UnmountAll``).

    What is still in use disappears from the file tree at once and is let go when its last user is gone.

    Args:
        target: A directory; one where nothing is mounted, or that is not there, does no harm.
        recursive: Undo what is mounted below it as well.

    Returns:
        How many mounts were undone.

    Raises:
        PermissionDenied: This process may not.
        FailedPrecondition: It failed for another reason.
    """
    path = Path(await anyio.Path(target).resolve())
    count = 0
    with anyio.CancelScope(shield=True):
        while below := [
            point.path
            for point in await _mount_points()
            if point.path == path or (recursive and path in point.path.parents)
        ]:
            await _unmount_one(below[-1])  # the kernel lists them in the order of their making
            count += 1
    return count


@asynccontextmanager
async def mounted(
    mounts: Sequence[Mount], target: str | os.PathLike[str], *, readonly: bool = False
) -> AsyncIterator[Path]:
    """Have `mounts` on `target` for the length of a block; undone at its end whatever happens.

    Args:
        mounts: As for `mount`.
        target: As for `mount`.
        readonly: As for `mount`.

    Yields:
        `target`.

    Raises:
        PermissionDenied: This process may not mount.
        FailedPrecondition: A mount failed for another reason.
    """
    base = Path(target)
    await mount(mounts, base, readonly=readonly)
    try:
        yield base
    finally:
        with anyio.CancelScope(shield=True):
            for each in reversed(mounts):
                await _unmount_one(_place(base, each))


@asynccontextmanager
async def temporary_mount(mounts: Sequence[Mount], *, readonly: bool = False) -> AsyncIterator[Path]:
    """Have `mounts` on a new directory for the length of a block; both are gone at its end (Go: ``WithTempMount``).

    A mount of an overlay that is ``volatile`` is made without that: the kernel would refuse the next one.

    Args:
        mounts: As for `mount`.
        readonly: As for `mount`.

    Yields:
        The directory.

    Raises:
        PermissionDenied: This process may not mount.
        FailedPrecondition: A mount failed for another reason.
    """
    target = Path(await anyio.to_thread.run_sync(tempfile.mkdtemp, "", "containerd-aio-"))
    try:
        async with mounted([_without_volatile(each) for each in mounts], target, readonly=readonly) as path:
            yield path
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.Path(target).rmdir()


async def lookup(path: str | os.PathLike[str]) -> MountPoint:
    """Return the mount that `path` lies on (Go: ``mount.Lookup``).

    Raises:
        NotFound: There is no such path.
    """
    try:
        real = Path(await anyio.Path(path).resolve(strict=True))
    except OSError as exc:
        raise NotFound(f"{os.fspath(path)}: {exc.strerror}") from exc
    around = [point for point in await _mount_points() if point.path == real or point.path in real.parents]
    # Of two on one path the later lies over the earlier.
    return max(reversed(around), key=lambda point: len(point.path.parts))


def mount_command(each: Mount, target: Path, *, readonly: bool = False) -> tuple[list[str], str | None]:
    """Return the call of mount(8) for a mount, and the directory to make it in.

    The options that ask a runtime to map ids are left out: files are seen with the owners they have.
    """
    options = [option for option in each.options if not option.startswith(_FOR_RUNTIMES)]
    if readonly:
        options = [*(option for option in options if option != "rw"), "ro"]
    cwd = None
    if each.type == "overlay" and len(",".join(options)) > _LONGEST_OPTIONS:
        options, cwd = _shortened(options)
    if is_bind(each):
        flags = [option for option in options if option not in {"bind", "rbind"}]
        kind = "--rbind" if "rbind" in options else "--bind"
        return ["mount", kind, *(["-o", ",".join(flags)] if flags else []), each.source, str(target)], cwd
    arguments = ["-o", ",".join(options)] if options else []
    return ["mount", "-t", each.type, *arguments, each.source or "none", str(target)], cwd


def is_bind(each: Mount) -> bool:
    """Tell whether a mount only shows a directory in another place."""
    return each.type == "bind" or not {"bind", "rbind"}.isdisjoint(each.options)


def _shortened(options: list[str]) -> tuple[list[str], str | None]:
    """Write the layers of an overlay relative to the directory that all are in, which becomes the working directory."""
    prefix = "lowerdir="
    layers = next((option.removeprefix(prefix) for option in options if option.startswith(prefix)), "")
    paths = layers.split(":")
    common = os.path.commonpath(paths) if all(map(os.path.isabs, paths)) else "/"
    if common == "/":
        return options, None
    short = prefix + ":".join(os.path.relpath(path, common) for path in paths)
    return [short if option.startswith(prefix) else option for option in options], common


def _place(base: Path, each: Mount) -> Path:
    place = base / each.target.lstrip("/") if each.target else base
    if ".." in place.relative_to(base).parts:
        raise InvalidArgument(f"the mount target {each.target!r} leads out of {base}")
    return place


def _without_volatile(each: Mount) -> Mount:
    from containerd_aio.services.snapshots import Mount

    if each.type != "overlay" or "volatile" not in each.options:
        return each
    options = tuple(option for option in each.options if option != "volatile")
    return Mount(each.type, each.source, each.target, options)


async def _mount_one(each: Mount, place: Path, *, readonly: bool) -> None:
    command, cwd = mount_command(each, place, readonly=readonly)
    await _run(command, cwd)


async def _unmount_one(place: Path) -> None:
    await _run(["umount", "--lazy", "--no-canonicalize", str(place)], None)


async def _run(command: list[str], cwd: str | None) -> None:
    result = await anyio.run_process(command, check=False, cwd=cwd)
    if result.returncode == 0:
        return
    text = result.stderr.decode(errors="replace").strip()
    if "permission denied" in text.lower() or "must be superuser" in text.lower():
        raise PermissionDenied(f"{command[0]} was refused ({text}): mounting takes root")
    raise FailedPrecondition(f"{' '.join(command)[:500]} failed: {text}")


async def _mount_points() -> list[MountPoint]:
    text = await anyio.Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    return [_parse(line) for line in text.splitlines()]


def _parse(line: str) -> MountPoint:
    """Read a line of mountinfo: ``36 35 98:0 /root /mnt rw,noatime shared:1 - ext4 /dev/root rw,errors=continue``."""
    ours, _, of_file_system = line.partition(" - ")
    fields, rest = ours.split(" "), of_file_system.split(" ")
    options = dict.fromkeys([*fields[5].split(","), *rest[2].split(",")])
    return MountPoint(Path(_plain(fields[4])), rest[0], _plain(rest[1]), tuple(options))


def _plain(text: str) -> str:
    """Undo mountinfo's way to write blanks, tabs, newlines and backslashes."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)

"""Device nodes of the host, as OCI devices (Linux)."""

from __future__ import annotations

import os
import posixpath
import stat
from pathlib import Path

from containerd_aio.errors import InvalidArgument, NotFound
from containerd_aio.oci.errors import NotADevice
from containerd_aio.oci.types import LinuxDevice

_TYPES = {stat.S_IFBLK: "b", stat.S_IFCHR: "c", stat.S_IFIFO: "p"}
#: Directories of /dev that belong to one mount namespace or to another tool's book-keeping.
_SKIPPED_DIRECTORIES = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"})


def device_from_path(path: str | os.PathLike[str]) -> LinuxDevice:
    """Return the device node at `path`; a symlink is not followed (Go: DeviceFromPath).

    Raises:
        NotFound: There is nothing.
        NotADevice: It is something else.
        InvalidArgument: It can't be looked at.
    """
    name = os.fspath(path)
    try:
        return _device(name)
    except OSError as exc:
        raise _refused(name, exc) from exc


def host_devices() -> list[LinuxDevice]:
    """Return the device nodes below ``/dev`` (Go: HostDevices).

    Left out: FIFOs, ``console``, and the directories pts, shm, fd, mqueue, .lxc, .lxd-mounts and .udev.

    Raises:
        InvalidArgument: ``/dev`` can't be read.
    """
    return devices_below("/dev", "")


def devices_below(path: str, container_path: str) -> list[LinuxDevice]:
    """Return the device at `path`, or all below it when it is a directory.

    Args:
        path: On the host.
        container_path: Where they shall be in the container; empty means the same place.

    Raises:
        NotFound: There is nothing.
        NotADevice: `path` is neither a device nor a directory.
        InvalidArgument: Something can't be looked at.
    """
    try:
        if not stat.S_ISDIR(os.stat(path).st_mode):  # noqa: PTH116 - follows a symlink to a directory, as Go does
            return [_placed(_device(path), container_path)]
        return _walk(path, container_path)
    except OSError as exc:
        raise _refused(path, exc) from exc


def _device(path: str) -> LinuxDevice:
    info = os.lstat(path)
    kind = _TYPES.get(stat.S_IFMT(info.st_mode))
    if kind is None:
        raise NotADevice(f"{path} is not a device node; with a symlink, give what it points to")
    return {
        "path": path,
        "type": kind,
        "major": os.major(info.st_rdev),
        "minor": os.minor(info.st_rdev),
        "fileMode": stat.S_IMODE(info.st_mode),
        "uid": info.st_uid,
        "gid": info.st_gid,
    }


def _placed(device: LinuxDevice, container_path: str) -> LinuxDevice:
    if container_path:
        device["path"] = container_path
    return device


def _walk(directory: str, container_path: str) -> list[LinuxDevice]:
    found: list[LinuxDevice] = []
    with os.scandir(directory) as entries:
        ordered = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    for entry in ordered:
        inside = posixpath.join(container_path, entry.name) if container_path else ""
        try:
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in _SKIPPED_DIRECTORIES:
                    found += _walk(entry.path, inside)
            elif entry.name != "console":
                device = _device(entry.path)
                if device["type"] != "p":
                    found.append(_placed(device, inside))
        except (NotADevice, FileNotFoundError):
            continue
        except PermissionError:
            # In a user namespace some of the host's devices are out of reach; rootless containers do without.
            if not _in_user_namespace():
                raise
    return found


def _in_user_namespace() -> bool:
    try:
        mapping = Path("/proc/self/uid_map").read_text().split()
    except OSError:
        return False
    return mapping != ["0", "0", "4294967295"]


def _refused(path: str, exc: OSError) -> NotFound | InvalidArgument:
    if isinstance(exc, FileNotFoundError):
        return NotFound(f"there is no device {path}")
    return InvalidArgument(f"device {path} can't be looked at: {exc.strerror}")
